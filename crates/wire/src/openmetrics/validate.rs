//! The whole of OpenMetrics 1.0 over one body: what no single line shows.

use std::collections::HashSet;

use model::LabelsBuf;

use super::family::Family;
use crate::error::ParseError;
use crate::format::Format;
use crate::parser::{Entry, Parser};
use crate::series::unescape;

/// Holds a body against OpenMetrics 1.0, rules between lines included: families in one piece and with names that cannot clash,
/// suffixes, labels and values that fit the type, timestamps in order, exemplars only where they may be, `# EOF` at the end.
///
/// Stricter than Prometheus, which scrapes many a body that breaks these rules; use [`crate::check`] for what a scrape asks.
///
/// **Errors** with the first fault. One that only the end of a family shows is placed at the line that ends it and names
/// the family.
/// **Cost** a microsecond or so per sample; memory in proportion to the body.
/// **Source** OpenMetrics 1.0, sections "Data Model" and "Text Format".
pub fn validate(body: &[u8]) -> Result<(), ParseError> {
    let mut parser = Parser::new(Format::OpenMetrics, body);
    let mut set = MetricSet::default();
    let mut labels = LabelsBuf::default();
    while let Some(entry) = parser.next() {
        let entry = entry?;
        if let Entry::Sample { .. } = entry {
            labels.clear();
            parser.raw_labels(&mut labels)?;
        }
        set.take(&entry, &mut labels, &parser).map_err(|message| parser.fault(message))?;
    }
    Ok(())
}

/// The families of a body so far.
#[derive(Default)]
struct MetricSet {
    /// Sample names that the closed families have taken or reserved.
    taken: HashSet<String>,
    open: Option<Family>,
}

impl MetricSet {
    fn take(&mut self, entry: &Entry<'_>, labels: &mut LabelsBuf, parser: &Parser<'_>) -> Result<(), String> {
        match entry {
            Entry::Sample { series, value, exemplar, .. } => {
                if series.ends_with(",}") {
                    return Err("a comma stands before the closing brace".to_owned());
                }
                labels.sort().map_err(|e| e.to_string())?;
                let name = labels.get(model::LABEL_NAME).unwrap_or_default().to_owned();
                let family = self.family_of_sample(&name)?;
                family.add_sample(&name, labels, *value, parser.nanos(), exemplar.as_ref())
            }
            Entry::Type { name, metric_type } => self.family(name)?.set_type(*metric_type),
            // The text itself is unescaped already, and lenient readers keep such a backslash.
            Entry::Help { .. } if ends_in_half_an_escape(parser.line_bytes()) => {
                Err("a backslash stands at the end of the help, with nothing to escape".to_owned())
            }
            Entry::Help { name, .. } => self.family(name)?.set_help(),
            Entry::Unit { name, unit } => self.family(name)?.set_unit(unit),
            Entry::Eof => self.close(),
            Entry::Comment => Ok(()),
        }
    }

    /// Gives the open family if the metadata is about it, else closes it and opens the next.
    fn family(&mut self, raw_name: &str) -> Result<&mut Family, String> {
        let name = unescape(raw_name, true);
        self.switch_unless(&name, |family| family.name() == name)
    }

    /// Gives the open family if the sample may belong to it, else opens one of unknown type.
    fn family_of_sample(&mut self, name: &str) -> Result<&mut Family, String> {
        self.switch_unless(name, |family| family.owns(name))
    }

    fn switch_unless(&mut self, name: &str, fits: impl Fn(&Family) -> bool) -> Result<&mut Family, String> {
        if !self.open.as_ref().is_some_and(fits) {
            self.close()?;
            if name.starts_with('_') {
                return Err(format!("the name {name} is reserved: it starts with an underscore"));
            }
        }
        Ok(self.open.get_or_insert_with(|| Family::new(name)))
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(family) = self.open.take() else { return Ok(()) };
        for name in family.reserved_names() {
            if self.taken.contains(&name) {
                return Err(format!("the family {} clashes with an earlier one over the name {name}", family.name()));
            }
            self.taken.insert(name);
        }
        family.finish()
    }
}

fn ends_in_half_an_escape(line: &[u8]) -> bool {
    line.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}
