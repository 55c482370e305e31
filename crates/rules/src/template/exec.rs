//! Runs a template.

use std::sync::Arc;

use super::functions;
use super::parser::{Block, BlockKind, Node, Operand, Pipeline, Tree};
use super::value::Value;
use super::{Surroundings, TemplateError};

/// Bytes that one template may write.
pub const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// Nodes that one template may execute.
pub const STEPS_MAX: usize = 100_000;
/// Templates that may call one another.
pub const CALLS_MAX: usize = 32;
/// Blocks, brackets and templates that may lie in one another while they run: what fits the stack of a thread.
const DEPTH_MAX: usize = 150;

/// Runs a tree over its data.
pub fn run(tree: &Tree, data: Value, around: &Surroundings<'_>) -> Result<String, TemplateError> {
    let mut run = Run { tree, around, out: String::new(), steps: 0, calls: 0, depth: 0, line: 1 };
    let mut scope = Scope { variables: vec![("", data.clone())] };
    run.nodes(&tree.main, &data, &mut scope)?;
    Ok(run.out)
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Variables by name, the newest last.
struct Scope<'t> {
    variables: Vec<(&'t str, Value)>,
}

/// A template under way.
pub struct Run<'r, 's> {
    tree: &'r Tree,
    /// What functions may ask.
    pub around: &'r Surroundings<'s>,
    out: String,
    steps: usize,
    calls: usize,
    depth: usize,
    line: usize,
}

impl<'r> Run<'r, '_> {
    fn fail(&self, text: impl Into<String>) -> TemplateError {
        TemplateError { line: self.line, text: text.into() }
    }

    fn step(&mut self) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(self.fail(format!("it did not end within {STEPS_MAX} steps")));
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > OUTPUT_BYTES_MAX {
            return Err(self.fail(format!("it writes more than {OUTPUT_BYTES_MAX} bytes")));
        }
        self.out.push_str(text);
        Ok(())
    }

    /// Counts one level more; whoever calls it says [`Run::leave`] when all went well.
    fn enter(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fail("blocks, brackets and templates lie too deep in one another"));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn nodes(&mut self, nodes: &'r [Node], dot: &Value, scope: &mut Scope<'r>) -> Result<Flow, TemplateError> {
        self.enter()?;
        let flow = self.each_node(nodes, dot, scope)?;
        self.leave();
        Ok(flow)
    }

    fn each_node(&mut self, nodes: &'r [Node], dot: &Value, scope: &mut Scope<'r>) -> Result<Flow, TemplateError> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => {
                    self.write(text)?;
                    Flow::On
                }
                Node::Pipe(pipeline) => {
                    let value = self.pipeline(pipeline, dot, scope)?;
                    if pipeline.variables.is_empty() {
                        let mut text = String::new();
                        value.print(&mut text);
                        self.write(&text)?;
                    }
                    Flow::On
                }
                Node::Block(block) => self.block(block, dot, scope)?,
                Node::Call(name, pipeline, line) => {
                    self.line = *line;
                    let data = match pipeline {
                        Some(pipeline) => self.pipeline(pipeline, dot, scope)?,
                        None => Value::Nil,
                    };
                    self.call(name, data)?;
                    Flow::On
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// Runs a defined template.
    fn call(&mut self, name: &str, data: Value) -> Result<(), TemplateError> {
        let tree = self.tree;
        let Some(nodes) = tree.defined.get(name) else {
            return Err(self.fail(format!("template {name:?} not defined")));
        };
        if self.calls >= CALLS_MAX {
            return Err(self.fail(format!("more than {CALLS_MAX} templates call one another")));
        }
        self.calls += 1;
        let mut scope = Scope { variables: vec![("", data.clone())] };
        self.nodes(nodes, &data, &mut scope)?;
        self.calls -= 1;
        Ok(())
    }

    /// Runs a defined template and gives what it writes.
    pub fn call_for_text(&mut self, name: &str, data: Value) -> Result<String, String> {
        let before = std::mem::take(&mut self.out);
        let done = self.call(name, data);
        let text = std::mem::replace(&mut self.out, before);
        done.map(|()| text).map_err(|e| e.text)
    }

    fn block(&mut self, block: &'r Block, dot: &Value, scope: &mut Scope<'r>) -> Result<Flow, TemplateError> {
        let depth = scope.variables.len();
        let mut flow = Flow::On;
        let pipeline = &block.pipeline;
        if block.kind == BlockKind::Range {
            let value = self.value_of(pipeline, dot, scope)?;
            self.range(block, value, dot, scope, depth)?;
        } else {
            let value = self.pipeline(pipeline, dot, scope)?;
            flow = match (block.kind, value.holds()) {
                (BlockKind::With, true) => self.nodes(&block.body, &value, scope)?,
                (_, true) => self.nodes(&block.body, dot, scope)?,
                (_, false) => self.nodes(&block.otherwise, dot, scope)?,
            };
        }
        scope.variables.truncate(depth);
        Ok(flow)
    }

    fn range(
        &mut self,
        block: &'r Block,
        value: Value,
        dot: &Value,
        scope: &mut Scope<'r>,
        depth: usize,
    ) -> Result<(), TemplateError> {
        let items: Vec<(Value, Value)> = match value {
            Value::List(items) => {
                items.iter().enumerate().map(|(i, item)| (Value::Int(i as i64), item.clone())).collect()
            }
            Value::Labels(pairs) => {
                pairs.iter().map(|(n, v)| (Value::text(n.as_str()), Value::text(v.as_str()))).collect()
            }
            Value::Map(entries, _) => entries.iter().map(|(n, v)| (Value::text(n.as_str()), v.clone())).collect(),
            Value::Int(n) => (0..n.clamp(0, STEPS_MAX as i64 + 1)).map(|i| (Value::Int(i), Value::Int(i))).collect(),
            Value::Nil => Vec::new(),
            other => return Err(self.fail(format!("range can't iterate over {}", other.kind()))),
        };
        if items.is_empty() {
            self.nodes(&block.otherwise, dot, scope)?;
            return Ok(());
        }
        for (key, item) in items {
            self.step()?;
            match block.pipeline.variables.as_slice() {
                [] => {}
                [one] => self.set(one, item.clone(), block.pipeline.assigns, scope),
                [first, second, ..] => {
                    self.set(first, key, block.pipeline.assigns, scope);
                    self.set(second, item.clone(), block.pipeline.assigns, scope);
                }
            }
            let flow = self.nodes(&block.body, &item, scope)?;
            scope.variables.truncate(depth);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn set(&self, name: &'r str, value: Value, assigns: bool, scope: &mut Scope<'r>) {
        match scope.variables.iter_mut().rev().find(|(known, _)| assigns && *known == name) {
            Some((_, old)) => *old = value,
            None => scope.variables.push((name, value)),
        }
    }

    /// Gives a pipeline's value and sets its variables.
    fn pipeline(&mut self, pipeline: &'r Pipeline, dot: &Value, scope: &mut Scope<'r>) -> Result<Value, TemplateError> {
        let value = self.value_of(pipeline, dot, scope)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns, scope);
        }
        Ok(value)
    }

    fn value_of(&mut self, pipeline: &'r Pipeline, dot: &Value, scope: &mut Scope<'r>) -> Result<Value, TemplateError> {
        self.line = pipeline.line;
        let mut last: Option<Value> = None;
        for command in &pipeline.commands {
            self.step()?;
            last = Some(self.command(command, last, dot, scope)?);
        }
        Ok(last.unwrap_or(Value::Nil))
    }

    fn command(
        &mut self,
        command: &'r [Operand],
        last: Option<Value>,
        dot: &Value,
        scope: &mut Scope<'r>,
    ) -> Result<Value, TemplateError> {
        match command {
            [Operand::Function(name), args @ ..] => {
                if let "and" | "or" = name.as_str() {
                    return self.short_circuit(name == "or", args, last, dot, scope);
                }
                let mut values = Vec::with_capacity(args.len() + 1);
                for arg in args {
                    values.push(self.operand(arg, dot, scope)?);
                }
                values.extend(last);
                functions::call(name, &values, self).map_err(|text| self.fail(format!("error calling {name}: {text}")))
            }
            [operand] if last.is_none() => self.operand(operand, dot, scope),
            _ => Err(self.fail("can't give argument to non-function")),
        }
    }

    /// `and` gives the first value that does not hold, `or` the first that does; what follows is not computed.
    fn short_circuit(
        &mut self,
        stop_at: bool,
        args: &'r [Operand],
        last: Option<Value>,
        dot: &Value,
        scope: &mut Scope<'r>,
    ) -> Result<Value, TemplateError> {
        let mut value = None;
        for arg in args {
            let next = self.operand(arg, dot, scope)?;
            if next.holds() == stop_at {
                return Ok(next);
            }
            value = Some(next);
        }
        last.or(value).ok_or_else(|| self.fail("wrong number of args for and/or: want at least 1 got 0"))
    }

    fn operand(&mut self, operand: &'r Operand, dot: &Value, scope: &mut Scope<'r>) -> Result<Value, TemplateError> {
        match operand {
            Operand::Nil => Ok(Value::Nil),
            Operand::Bool(yes) => Ok(Value::Bool(*yes)),
            Operand::Int(value) => Ok(Value::Int(*value)),
            Operand::Float(value) => Ok(Value::Float(*value)),
            Operand::Text(text) => Ok(Value::Text(Arc::from(text.as_str()))),
            Operand::Field(names) => self.fields(dot.clone(), names),
            Operand::Variable(name, fields) => {
                let found = scope.variables.iter().rev().find(|(known, _)| known == name);
                let value = found.map_or(Value::Nil, |(_, value)| value.clone());
                self.fields(value, fields)
            }
            Operand::Nested(pipeline, fields) => {
                self.enter()?;
                let value = self.pipeline(pipeline, dot, scope)?;
                self.leave();
                self.fields(value, fields)
            }
            Operand::Function(name) => {
                functions::call(name, &[], self).map_err(|text| self.fail(format!("error calling {name}: {text}")))
            }
        }
    }

    fn fields(&self, mut value: Value, names: &[String]) -> Result<Value, TemplateError> {
        for name in names {
            value = value.field(name).map_err(|text| self.fail(text))?;
        }
        Ok(value)
    }
}
