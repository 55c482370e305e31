//! From the tokens of a template to its tree.
//!
//! Limits: [`DEPTH_MAX`] levels of blocks and brackets.

use std::collections::BTreeMap;

use super::TemplateError;
use super::lexer::{Piece, Token, cut};

/// Levels of blocks and brackets.
pub const DEPTH_MAX: usize = 64;

/// A part of a template that is executed in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Node {
    /// Text as it stands.
    Text(String),
    /// Writes a pipeline's value, unless it sets variables.
    Pipe(Pipeline),
    /// `if`, `with` and `range`.
    Block(Box<Block>),
    /// `template "name" pipeline`
    Call(String, Option<Pipeline>, usize),
    /// `break`
    Break,
    /// `continue`
    Continue,
}

/// What a block does with its pipeline's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockKind {
    /// Runs the body when the value holds.
    If,
    /// The same, with the value as the dot.
    With,
    /// Runs the body for each element.
    Range,
}

/// `{{if x}}body{{else}}otherwise{{end}}`
#[derive(Clone, PartialEq, Debug)]
pub struct Block {
    /// Which.
    pub kind: BlockKind,
    /// The value it asks.
    pub pipeline: Pipeline,
    /// Runs when it holds.
    pub body: Vec<Node>,
    /// Runs when it does not.
    pub otherwise: Vec<Node>,
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Clone, PartialEq, Debug)]
pub struct Pipeline {
    /// Variables that get the value; two for `range`.
    pub variables: Vec<String>,
    /// Whether they exist already.
    pub assigns: bool,
    /// At least one.
    pub commands: Vec<Vec<Operand>>,
    /// Where it stands.
    pub line: usize,
}

/// A word of a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Operand {
    /// `nil`
    Nil,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// The dot and its fields.
    Field(Vec<String>),
    /// A variable and its fields.
    Variable(String, Vec<String>),
    /// A pipeline in brackets and the fields of its value.
    Nested(Box<Pipeline>, Vec<String>),
    /// A function.
    Function(String),
}

/// A template and those that it defines.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tree {
    /// What is executed.
    pub main: Vec<Node>,
    /// `define`d ones by name.
    pub defined: BTreeMap<String, Vec<Node>>,
}

/// Parses a template.
///
/// **Takes** `known`: tells whether a function exists.
pub fn parse(text: &str, known: &dyn Fn(&str) -> bool) -> Result<Tree, TemplateError> {
    let pieces = cut(text)?;
    let mut parser =
        Parser { pieces: &pieces, known, variables: vec![String::new()], defined: BTreeMap::new(), line: 1 };
    let (main, ending) = parser.list(0, false)?;
    match ending {
        Ending::Text => Ok(Tree { main, defined: parser.defined }),
        _ => Err(parser.error("unexpected {{end}} or {{else}}")),
    }
}

struct Parser<'p> {
    pieces: &'p [Piece],
    known: &'p dyn Fn(&str) -> bool,
    /// Names in scope; the empty one is `$`.
    variables: Vec<String>,
    defined: BTreeMap<String, Vec<Node>>,
    line: usize,
}

/// What ended a list of nodes.
enum Ending<'p> {
    Text,
    End,
    /// With what follows the word, as in `{{else if x}}`.
    Else(&'p [Token]),
}

impl<'p> Parser<'p> {
    fn error(&self, text: impl Into<String>) -> TemplateError {
        TemplateError::new(self.line, text)
    }

    fn list(&mut self, depth: usize, in_range: bool) -> Result<(Vec<Node>, Ending<'p>), TemplateError> {
        if depth > DEPTH_MAX {
            return Err(self.error("nested too deeply"));
        }
        let mut nodes = Vec::new();
        while let Some((piece, rest)) = self.pieces.split_first() {
            self.pieces = rest;
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.clone()));
                    continue;
                }
                Piece::Action(tokens, line) => {
                    self.line = *line;
                    tokens.as_slice()
                }
            };
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            match word {
                "end" => return Ok((nodes, Ending::End)),
                "else" => return Ok((nodes, Ending::Else(&tokens[1..]))),
                "if" => nodes.push(self.block(BlockKind::If, &tokens[1..], depth, in_range)?),
                "with" => nodes.push(self.block(BlockKind::With, &tokens[1..], depth, in_range)?),
                "range" => nodes.push(self.block(BlockKind::Range, &tokens[1..], depth, in_range)?),
                "break" | "continue" if tokens.len() == 1 => {
                    if !in_range {
                        return Err(self.error(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                    }
                    nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                }
                "define" => self.define(&tokens[1..], depth)?,
                "block" => {
                    let (name, pipeline) = self.template_call(&tokens[1..], depth)?;
                    let line = self.line;
                    let body = self.body(depth)?;
                    self.defined.insert(name.clone(), body);
                    nodes.push(Node::Call(name, pipeline, line));
                }
                "template" => {
                    let (name, pipeline) = self.template_call(&tokens[1..], depth)?;
                    nodes.push(Node::Call(name, pipeline, self.line));
                }
                _ => nodes.push(Node::Pipe(self.pipeline(tokens, false, depth)?)),
            }
        }
        Ok((nodes, Ending::Text))
    }

    fn block(
        &mut self,
        kind: BlockKind,
        tokens: &[Token],
        depth: usize,
        in_range: bool,
    ) -> Result<Node, TemplateError> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(tokens, kind == BlockKind::Range, depth)?;
        let (body, ending) = self.list(depth + 1, in_range || kind == BlockKind::Range)?;
        let otherwise = match ending {
            Ending::End => Vec::new(),
            Ending::Text => return Err(self.error("unexpected EOF: {{end}} is missing")),
            Ending::Else([]) => match self.list(depth + 1, in_range)? {
                (nodes, Ending::End) => nodes,
                _ => return Err(self.error("expected {{end}} after {{else}}")),
            },
            Ending::Else([Token::Word(word), rest @ ..]) if word == "if" => {
                vec![self.block(BlockKind::If, rest, depth + 1, in_range)?]
            }
            Ending::Else([Token::Word(word), rest @ ..]) if word == "with" => {
                vec![self.block(BlockKind::With, rest, depth + 1, in_range)?]
            }
            Ending::Else(_) => return Err(self.error("unexpected words in {{else}}")),
        };
        self.variables.truncate(scope);
        Ok(Node::Block(Box::new(Block { kind, pipeline, body, otherwise })))
    }

    fn define(&mut self, tokens: &[Token], depth: usize) -> Result<(), TemplateError> {
        let [Token::Text(name)] = tokens else { return Err(self.error("define needs a name in quotes")) };
        if depth > 0 {
            return Err(self.error("unexpected {{define}}"));
        }
        let body = self.body(depth)?;
        self.defined.insert(name.clone(), body);
        Ok(())
    }

    /// Reads the body of a template of its own, which sees no variables but `$`.
    fn body(&mut self, depth: usize) -> Result<Vec<Node>, TemplateError> {
        let outer = std::mem::replace(&mut self.variables, vec![String::new()]);
        let (body, ending) = self.list(depth + 1, false)?;
        self.variables = outer;
        match ending {
            Ending::End => Ok(body),
            _ => Err(self.error("expected {{end}}")),
        }
    }

    fn template_call(&mut self, tokens: &[Token], depth: usize) -> Result<(String, Option<Pipeline>), TemplateError> {
        let [Token::Text(name), rest @ ..] = tokens else { return Err(self.error("a name in quotes is missing")) };
        let pipeline = match rest {
            [] => None,
            rest => Some(self.pipeline(rest, false, depth)?),
        };
        Ok((name.clone(), pipeline))
    }

    fn pipeline(&mut self, tokens: &[Token], in_range: bool, depth: usize) -> Result<Pipeline, TemplateError> {
        if depth > DEPTH_MAX {
            return Err(self.error("nested too deeply"));
        }
        let (variables, assigns, rest) = self.variables_of(tokens, in_range)?;
        let mut pipeline = Pipeline { variables, assigns, commands: Vec::new(), line: self.line };
        let mut rest = rest;
        loop {
            let (command, tail) = self.command(rest, depth)?;
            if pipeline.commands.len() > DEPTH_MAX {
                return Err(self.error("too many commands in one pipeline"));
            }
            let constant = matches!(
                command.first(),
                Some(Operand::Nil | Operand::Bool(_) | Operand::Int(_) | Operand::Float(_) | Operand::Text(_))
            );
            if constant && !pipeline.commands.is_empty() {
                return Err(self.error("non executable command in pipeline"));
            }
            pipeline.commands.push(command);
            match tail {
                [] => break,
                [Token::Pipe, tail @ ..] => rest = tail,
                _ => return Err(self.error("unexpected bracket or comma in command")),
            }
        }
        // They count from here on, not within their own pipeline.
        if !pipeline.assigns {
            self.variables.extend(pipeline.variables.iter().cloned());
        }
        Ok(pipeline)
    }

    /// Reads `$a :=`, `$a, $b :=` or `$a =` in front of a pipeline.
    fn variables_of<'t>(
        &self,
        tokens: &'t [Token],
        in_range: bool,
    ) -> Result<(Vec<String>, bool, &'t [Token]), TemplateError> {
        let (names, assigns, rest) = match tokens {
            [Token::Variable(a, fields), sign @ (Token::Declare | Token::Assign), rest @ ..] if fields.is_empty() => {
                (vec![a.clone()], *sign == Token::Assign, rest)
            }
            [
                Token::Variable(a, f),
                Token::Comma,
                Token::Variable(b, g),
                sign @ (Token::Declare | Token::Assign),
                rest @ ..,
            ] if in_range && f.is_empty() && g.is_empty() => (vec![a.clone(), b.clone()], *sign == Token::Assign, rest),
            _ => return Ok((Vec::new(), false, tokens)),
        };
        match names.iter().find(|name| assigns && !self.variables.contains(name)) {
            Some(name) => Err(self.error(format!("undefined variable \"${name}\""))),
            None => Ok((names, assigns, rest)),
        }
    }

    /// Reads operands up to a pipe, a closing bracket or the end.
    fn command<'t>(&mut self, tokens: &'t [Token], depth: usize) -> Result<(Vec<Operand>, &'t [Token]), TemplateError> {
        let mut operands = Vec::new();
        let mut rest = tokens;
        loop {
            let (token, tail) = match rest {
                [] | [Token::Pipe | Token::Close, ..] => break,
                [token, tail @ ..] => (token, tail),
            };
            rest = tail;
            operands.push(match token {
                Token::Int(value) => Operand::Int(*value),
                Token::Float(value) => Operand::Float(*value),
                Token::Text(text) => Operand::Text(text.clone()),
                Token::Field(names) => Operand::Field(names.clone()),
                Token::Variable(name, fields) => {
                    if !self.variables.contains(name) {
                        return Err(self.error(format!("undefined variable \"${name}\"")));
                    }
                    Operand::Variable(name.clone(), fields.clone())
                }
                Token::Word(word) => self.named(word)?,
                Token::Open => {
                    let end = closing(tail).ok_or_else(|| self.error("unclosed left paren"))?;
                    let nested = self.pipeline(&tail[..end], false, depth + 1)?;
                    rest = &tail[end + 1..];
                    let mut fields = Vec::new();
                    if let [Token::Chain(names), tail @ ..] = rest {
                        fields.clone_from(names);
                        rest = tail;
                    }
                    Operand::Nested(Box::new(nested), fields)
                }
                other => return Err(self.error(format!("unexpected {other:?} in operand"))),
            });
        }
        if operands.is_empty() {
            return Err(self.error("missing value for command"));
        }
        Ok((operands, rest))
    }

    fn named(&self, word: &str) -> Result<Operand, TemplateError> {
        match word {
            "true" | "false" => Ok(Operand::Bool(word == "true")),
            "nil" => Ok(Operand::Nil),
            _ if (self.known)(word) => Ok(Operand::Function(word.to_owned())),
            _ => Err(self.error(format!("function {word:?} not defined"))),
        }
    }
}

/// Finds the bracket that closes one opened just before.
fn closing(tokens: &[Token]) -> Option<usize> {
    let mut open = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => open += 1,
            Token::Close if open == 0 => return Some(at),
            Token::Close => open -= 1,
            _ => {}
        }
    }
    None
}
