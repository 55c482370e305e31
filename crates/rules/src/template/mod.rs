//! The templates of labels and annotations: Go's `text/template` with Prometheus' functions.
//!
//! Limits: [`OUTPUT_BYTES_MAX`] of output, [`STEPS_MAX`] nodes executed, [`CALLS_MAX`] templates inside templates.
//! Fails how: a text that is no template is refused when the rule is read; what fails while it runs is a sentence with a line.

mod exec;
mod functions;
mod humanize;
mod lexer;
mod parser;
mod printf;
mod value;

use std::fmt;

pub use exec::{CALLS_MAX, OUTPUT_BYTES_MAX, STEPS_MAX};
pub use value::{Value, shortest};

use model::Labels;
use parser::Tree;

/// What is wrong with a template, or went wrong in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateError {
    /// Line of the template, from 1.
    pub line: usize,
    /// A sentence.
    pub text: String,
}

impl TemplateError {
    fn new(line: usize, text: impl Into<String>) -> TemplateError {
        TemplateError { line, text: text.into() }
    }
}

impl std::error::Error for TemplateError {}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template line {}: {}", self.line, self.text)
    }
}

/// One sample of a query's answer.
pub type QuerySample = (Labels, f64);

/// What a template may ask.
pub struct Surroundings<'s> {
    /// Answers a query at the time of the evaluation.
    pub query: &'s dyn Fn(&str) -> Result<Vec<QuerySample>, String>,
    /// When; seconds since 1970.
    pub now_s: f64,
    /// The labels that stand for this server towards others.
    pub external_labels: &'s [(String, String)],
    /// Where people reach this server.
    pub external_url: &'s str,
}

/// A template that has been read.
#[derive(Clone, PartialEq, Debug)]
pub struct Template {
    tree: Tree,
}

impl Template {
    /// Reads a template as it stands in a rule: `$labels`, `$externalLabels`, `$externalURL` and `$value` are defined.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        // On one line, so that lines are those of the text.
        const DEFINITIONS: &str = "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := \
                                   .ExternalURL}}{{$value := .Value}}";
        let tree = parser::parse(&format!("{DEFINITIONS}{text}"), &functions::exists)?;
        Ok(Template { tree })
    }

    /// Fills in the labels and the value of an alert.
    pub fn expand(&self, labels: &Labels, value: Value, around: &Surroundings<'_>) -> Result<String, TemplateError> {
        let external = around.external_labels.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let data = std::collections::BTreeMap::from([
            ("Labels", Value::labels(labels.iter())),
            ("ExternalLabels", Value::labels(external)),
            ("ExternalURL", Value::text(around.external_url)),
            ("Value", value),
        ]);
        exec::run(&self.tree, Value::Struct(std::sync::Arc::new(data)), around)
    }
}

#[cfg(test)]
mod tests;
