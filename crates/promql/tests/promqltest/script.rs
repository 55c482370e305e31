//! Scripts: lines to commands.

use model::Labels;
use promql::go_text::parse_duration;
use regex::Regex;

use promql::testing::{Slot, number, parse_series};

use crate::starts::parse_starts;

/// A command with the line it begins at.
pub enum Command {
    Clear,
    /// Series at multiples of a step.
    Load {
        step_ms: i64,
        series: Vec<(Labels, Vec<Slot>)>,
        with_native: bool,
        /// Start timestamps by series: for each step how far from its time.
        starts: Vec<(Labels, Vec<Option<i64>>)>,
    },
    Eval(Box<Eval>),
}

/// When a query is evaluated.
#[derive(Clone, Copy)]
pub enum When {
    At(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// What a message must look like.
pub enum Pattern {
    Any,
    Exactly(String),
    Matches(Regex),
}

impl Pattern {
    pub fn fits(&self, text: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Exactly(want) => want == text,
            Pattern::Matches(regex) => regex.is_match(text),
        }
    }
}

/// A query with what is expected of it.
pub struct Eval {
    pub line: usize,
    pub query: String,
    pub when: When,
    pub ordered: bool,
    pub fail: Option<Pattern>,
    pub warn: Vec<Pattern>,
    pub info: Vec<Pattern>,
    pub no_warn: bool,
    pub no_info: bool,
    pub text: Option<String>,
    pub scalar: Option<f64>,
    pub series: Vec<(Labels, Vec<Slot>)>,
    /// Series whose histograms must say that nothing is known of a reset.
    pub without_hint: Vec<Labels>,
    /// Start and step of an expected range vector.
    pub range_vector: Option<(i64, i64)>,
}

/// Reads a script.
pub fn parse(text: &str) -> Result<Vec<Command>, String> {
    let lines: Vec<&str> = text.lines().map(str::trim).map(|l| if l.starts_with('#') { "" } else { l }).collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let block_end = lines[at..].iter().position(|l| l.is_empty()).map_or(lines.len(), |n| at + n);
        let fail = |e: String| format!("line {}: {e}", at + 1);
        let word = line.split_whitespace().next().unwrap_or("").to_lowercase();
        if word == "clear" {
            commands.push(Command::Clear);
            at += 1;
            continue;
        }
        if word.starts_with("load") {
            commands.push(load(line, &lines[at + 1..block_end]).map_err(fail)?);
        } else if word.starts_with("eval") {
            let (eval, used) = eval(line, &lines[at + 1..block_end], at + 1).map_err(fail)?;
            commands.push(Command::Eval(Box::new(eval)));
            at += 1 + used;
            continue;
        } else if !line.is_empty() {
            return Err(fail(format!("unknown command: {line}")));
        }
        at = block_end.max(at + 1);
    }
    Ok(commands)
}

fn load(line: &str, block: &[&str]) -> Result<Command, String> {
    let (word, step) = line.split_once(char::is_whitespace).ok_or("no step")?;
    let with_native = word == "load_with_nhcb";
    let mut series: Vec<(Labels, Vec<Slot>)> = Vec::new();
    let mut starts: Vec<(Labels, Vec<Option<i64>>)> = Vec::new();
    // What stands without a name holds, over and over, for the series behind it that have none of their own.
    let mut default_starts: Vec<Option<i64>> = Vec::new();
    for line in block {
        let head = line.split_whitespace().next().unwrap_or("");
        if let Some(name) = head.strip_suffix("@st") {
            let offsets = parse_starts(line[head.len()..].trim())?;
            match name {
                "" => default_starts = offsets,
                name => starts.push((parse_series(&format!("{name} _"))?.0, offsets)),
            }
            continue;
        }
        let (labels, slots) = parse_series(line)?;
        if !default_starts.is_empty() && !starts.iter().any(|(of, _)| *of == labels) {
            let offsets = default_starts.iter().copied().cycle().take(slots.len()).collect();
            starts.push((labels.clone(), offsets));
        }
        series.push((labels, slots));
    }
    Ok(Command::Load { step_ms: parse_duration(step.trim())?, series, with_native, starts })
}

/// Takes the next word.
fn word<'t>(rest: &mut &'t str) -> &'t str {
    let text = rest.trim_start();
    let (head, tail) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
    *rest = tail.trim_start();
    head
}

fn keyword(rest: &mut &str, want: &str) -> Result<(), String> {
    match word(rest) {
        found if found == want => Ok(()),
        found => Err(format!("expected {want}, found {found}")),
    }
}

fn eval(line: &str, block: &[&str], number_of_line: usize) -> Result<(Eval, usize), String> {
    let mut rest = line;
    let mode = word(&mut rest).strip_prefix("eval").unwrap_or("").trim_start_matches('_').to_owned();
    let when = match word(&mut rest) {
        "instant" => {
            keyword(&mut rest, "at")?;
            When::At(parse_duration(word(&mut rest))?)
        }
        "range" => {
            keyword(&mut rest, "from")?;
            let start_ms = parse_duration(word(&mut rest))?;
            keyword(&mut rest, "to")?;
            let end_ms = parse_duration(word(&mut rest))?;
            keyword(&mut rest, "step")?;
            When::Range { start_ms, end_ms, step_ms: parse_duration(word(&mut rest))? }
        }
        other => return Err(format!("expected instant or range, found {other}")),
    };
    let mut eval = Eval {
        line: number_of_line,
        query: rest.to_owned(),
        when,
        ordered: mode == "ordered",
        fail: (mode == "fail").then_some(Pattern::Any),
        warn: if mode == "warn" { vec![Pattern::Any] } else { Vec::new() },
        info: if mode == "info" { vec![Pattern::Any] } else { Vec::new() },
        no_warn: false,
        no_info: false,
        text: None,
        scalar: None,
        series: Vec::new(),
        without_hint: Vec::new(),
        range_vector: None,
    };
    for (at, line) in block.iter().enumerate() {
        // A block may hold several commands without an empty line between them.
        if line.starts_with("eval") && line.split_whitespace().nth(1).is_some_and(|w| matches!(w, "instant" | "range"))
        {
            return Ok((eval, at));
        }
        expectation(line, &mut eval)?;
    }
    Ok((eval, block.len()))
}

fn expectation(line: &str, eval: &mut Eval) -> Result<(), String> {
    if let Some(text) = line.strip_prefix("expected_fail_message") {
        eval.fail = Some(Pattern::Exactly(text.trim().to_owned()));
    } else if let Some(text) = line.strip_prefix("expected_fail_regexp") {
        eval.fail = Some(Pattern::Matches(Regex::new(text.trim()).map_err(|e| e.to_string())?));
    } else if let Some(mut rest) = line.strip_prefix("expect range vector") {
        keyword(&mut rest, "from")?;
        let start = parse_duration(word(&mut rest))?;
        keyword(&mut rest, "to")?;
        parse_duration(word(&mut rest))?;
        keyword(&mut rest, "step")?;
        eval.range_vector = Some((start, parse_duration(word(&mut rest))?));
    } else if let Some(text) = line.strip_prefix("expect string ") {
        eval.text = Some(string_literal(text)?);
    } else if line.split(' ').next() == Some("expect") {
        expect(line, eval)?;
    } else if let Some(value) = scalar(line) {
        eval.scalar = Some(value);
    } else {
        let (labels, slots) = parse_series(line)?;
        if line.contains("counter_reset_hint:unknown") {
            eval.without_hint.push(labels.clone());
        }
        eval.series.push((labels, slots));
    }
    Ok(())
}

fn scalar(line: &str) -> Option<f64> {
    number(line).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

fn string_literal(text: &str) -> Result<String, String> {
    match promql::parse(text).map_err(|e| e.to_string())?.kind {
        promql::ast::ExprKind::String(text) => Ok(text),
        _ => Err(format!("no string: {text}")),
    }
}

fn expect(line: &str, eval: &mut Eval) -> Result<(), String> {
    let mut rest = line;
    keyword(&mut rest, "expect")?;
    let kind = word(&mut rest);
    let pattern = match rest.split_once(':') {
        Some(("msg", text)) => Pattern::Exactly(text.trim().to_owned()),
        Some(("regex", text)) => Pattern::Matches(Regex::new(text.trim()).map_err(|e| e.to_string())?),
        _ if rest.is_empty() => Pattern::Any,
        _ => return Err(format!("unknown expectation: {line}")),
    };
    match kind {
        "ordered" => eval.ordered = true,
        "fail" => eval.fail = Some(pattern),
        "warn" => eval.warn.push(pattern),
        "info" => eval.info.push(pattern),
        "no_warn" => eval.no_warn = true,
        "no_info" => eval.no_info = true,
        _ => return Err(format!("unknown expectation: {line}")),
    }
    Ok(())
}
