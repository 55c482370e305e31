//! Go's `printf`, as far as templates need it.

use super::value::{Value, significant, special};

/// Widest field; wider ones are cut, since a template must not fill memory.
const WIDTH_MAX: usize = 1000;

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    zero: bool,
    space: bool,
    sharp: bool,
    width: usize,
    precision: Option<usize>,
}

/// Fills a format with values.
pub fn printf(format: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((plain, tail)) = rest.split_once('%') {
        out.push_str(plain);
        let (spec, tail) = spec(tail, &mut values);
        let Some(verb) = tail.chars().next() else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        rest = &tail[verb.len_utf8()..];
        match verb {
            '%' => out.push('%'),
            _ => match values.next() {
                Some(value) => out.push_str(&pad(one(verb, value, &spec), &spec, verb)),
                None => out.push_str(&format!("%!{verb}(MISSING)")),
            },
        }
    }
    out.push_str(rest);
    let extra: Vec<String> = values.map(|value| format!("{}={}", value.kind(), printed(value))).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn printed(value: &Value) -> String {
    let mut text = String::new();
    value.print(&mut text);
    text
}

fn spec<'f, 'v>(format: &'f str, values: &mut impl Iterator<Item = &'v Value>) -> (Spec, &'f str) {
    let mut spec = Spec::default();
    let mut rest = format;
    while let Some(c) = rest.chars().next() {
        match c {
            '-' => spec.minus = true,
            '+' => spec.plus = true,
            '0' => spec.zero = true,
            ' ' => spec.space = true,
            '#' => spec.sharp = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    (spec.width, rest) = match number(rest, values) {
        (Some(width), rest) => (width.min(WIDTH_MAX), rest),
        (None, rest) => (0, rest),
    };
    if let Some(tail) = rest.strip_prefix('.') {
        let (precision, tail) = number(tail, values);
        spec.precision = Some(precision.unwrap_or(0).min(WIDTH_MAX));
        rest = tail;
    }
    (spec, rest)
}

/// Reads digits, or a `*` that takes the next value.
fn number<'f, 'v>(text: &'f str, values: &mut impl Iterator<Item = &'v Value>) -> (Option<usize>, &'f str) {
    if let Some(tail) = text.strip_prefix('*') {
        let given = match values.next() {
            Some(Value::Int(n)) => usize::try_from(*n).ok(),
            _ => None,
        };
        return (given, tail);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (text[..digits].parse().ok(), &text[digits..])
}

/// Writes one value.
fn one(verb: char, value: &Value, spec: &Spec) -> String {
    let wrong = || format!("%!{verb}({}={})", value.kind(), printed(value));
    match (verb, value) {
        ('v', Value::Float(value)) => match spec.precision {
            Some(precision) => signed(significant(*value, precision.max(1)), spec),
            None => signed(super::value::shortest(*value), spec),
        },
        ('v', _) => printed(value),
        ('s', Value::Text(text)) => cut(text, spec),
        ('s', Value::Labels(_) | Value::List(_) | Value::Map(..) | Value::Struct(_)) => printed(value),
        ('s', Value::Time(_) | Value::Duration(_)) => printed(value),
        ('q', Value::Text(text)) => promql::go_text::quote(&cut(text, spec)),
        ('q', Value::Int(n)) => {
            u32::try_from(*n).ok().and_then(char::from_u32).map_or_else(wrong, |c| format!("'{c}'"))
        }
        ('c', Value::Int(n)) => u32::try_from(*n).ok().and_then(char::from_u32).map_or_else(wrong, String::from),
        ('t', Value::Bool(yes)) => yes.to_string(),
        ('T', _) => value.kind().to_owned(),
        ('d', Value::Int(n) | Value::Duration(n)) => signed(n.to_string(), spec),
        ('x', Value::Int(n)) => format!("{}{}{:x}", sign(*n), if spec.sharp { "0x" } else { "" }, n.unsigned_abs()),
        ('X', Value::Int(n)) => format!("{}{}{:X}", sign(*n), if spec.sharp { "0X" } else { "" }, n.unsigned_abs()),
        ('o', Value::Int(n)) => format!("{}{:o}", sign(*n), n.unsigned_abs()),
        ('b', Value::Int(n)) => format!("{}{:b}", sign(*n), n.unsigned_abs()),
        ('x', Value::Text(text)) => text.bytes().map(|b| format!("{b:02x}")).collect(),
        ('f' | 'F' | 'e' | 'E' | 'g' | 'G', Value::Float(value)) => signed(float(verb, *value, spec.precision), spec),
        _ => wrong(),
    }
}

fn sign(n: i64) -> &'static str {
    if n < 0 { "-" } else { "" }
}

fn cut(text: &str, spec: &Spec) -> String {
    match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    }
}

fn signed(text: String, spec: &Spec) -> String {
    match text.starts_with(['-', '+']) {
        true => text,
        false if spec.plus => format!("+{text}"),
        false if spec.space => format!(" {text}"),
        false => text,
    }
}

fn float(verb: char, value: f64, precision: Option<usize>) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    match verb {
        'f' | 'F' => format!("{value:.*}", precision.unwrap_or(6)),
        'g' | 'G' => {
            let text = precision.map_or_else(|| super::value::shortest(value), |p| significant(value, p.max(1)));
            if verb == 'G' { text.to_uppercase() } else { text }
        }
        _ => {
            let text = format!("{value:.*e}", precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}{verb}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
    }
}

fn pad(text: String, spec: &Spec, verb: char) -> String {
    let missing = spec.width.saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    let numeric = matches!(verb, 'd' | 'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'x' | 'X' | 'o' | 'b' | 'v');
    if spec.minus {
        return text + &" ".repeat(missing);
    }
    if spec.zero && numeric && text.ends_with(|c: char| c.is_ascii_alphanumeric()) {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    " ".repeat(missing) + &text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_go() {
        let text = |t: &str| Value::text(t);
        for (format, values, expected) in [
            ("%.2f%%", vec![Value::Float(12.345)], "12.35%"),
            (
                "%s-%d|%5d|%-5d|%05d",
                vec![text("a"), Value::Int(7), Value::Int(7), Value::Int(7), Value::Int(-7)],
                "a-7|    7|7    |-0007",
            ),
            ("%v %v %v", vec![Value::Float(1e6), text("x"), Value::Bool(true)], "1e+06 x true"),
            (
                "%q %x %X %+d",
                vec![text("a\"b"), Value::Int(255), Value::Int(255), Value::Int(3)],
                "\"a\\\"b\" ff FF +3",
            ),
            (
                "%e %.3g %g",
                vec![Value::Float(1234.5), Value::Float(1234.5), Value::Float(0.5)],
                "1.234500e+03 1.23e+03 0.5",
            ),
            ("%d", vec![Value::Float(1.5)], "%!d(float64=1.5)"),
            ("%d", vec![], "%!d(MISSING)"),
            ("a", vec![Value::Int(1)], "a%!(EXTRA int=1)"),
            ("%*d|%.*f", vec![Value::Int(4), Value::Int(1), Value::Int(1), Value::Float(2.0)], "   1|2.0"),
            ("100%", vec![], "100%!(NOVERB)"),
        ] {
            assert_eq!(printf(format, &values), expected, "{format}");
        }
    }
}
