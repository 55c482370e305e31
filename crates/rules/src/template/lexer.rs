//! The text of a template, cut into plain text and the tokens of its actions.

use super::TemplateError;

/// A piece of a template.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// Text between actions.
    Text(String),
    /// The tokens between `{{` and `}}`, and the line where they begin.
    Action(Vec<Token>, usize),
}

/// A token of an action.
#[derive(Clone, PartialEq, Debug)]
pub enum Token {
    /// A word: a keyword, a function or a constant's name.
    Word(String),
    /// `.a.b`; the bare dot has no names.
    Field(Vec<String>),
    /// `$x.a.b`: the name without its dollar sign, then fields.
    Variable(String, Vec<String>),
    /// Fields behind a closing bracket.
    Chain(Vec<String>),
    /// A text in quotes.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A number that is not whole.
    Float(f64),
    /// `(`
    Open,
    /// `)`
    Close,
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
}

/// Cuts a template.
///
/// **Errors** name the line.
pub fn cut(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    let line_of = |rest: &str| 1 + text[..text.len() - rest.len()].matches('\n').count();
    while let Some(at) = rest.find("{{") {
        let (plain, tail) = rest.split_at(at);
        let line = line_of(tail);
        let mut inner = &tail[2..];
        let mut plain = if trim { plain.trim_start() } else { plain };
        if inner.strip_prefix('-').is_some_and(|more| more.starts_with(is_space)) {
            plain = plain.trim_end();
            inner = &inner[1..];
        }
        push_text(&mut pieces, plain);
        let scanned = match inner.trim_start().starts_with("/*") {
            true => skip_comment(inner, line)?,
            false => {
                let (tokens, scanned) = tokens(inner, line)?;
                pieces.push(Piece::Action(tokens, line));
                scanned
            }
        };
        (rest, trim) = scanned;
    }
    push_text(&mut pieces, if trim { rest.trim_start() } else { rest });
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Finds the end of an action: what follows it, and whether white space there is trimmed.
fn end_of_action(rest: &str) -> Option<(&str, bool)> {
    if let Some(tail) = rest.strip_prefix("}}") {
        return Some((tail, false));
    }
    let tail = rest.trim_start_matches(is_space);
    (tail.len() < rest.len()).then(|| tail.strip_prefix("-}}")).flatten().map(|tail| (tail, true))
}

fn skip_comment(inner: &str, line: usize) -> Result<(&str, bool), TemplateError> {
    let unclosed = || TemplateError::new(line, "unclosed comment");
    let (_, tail) = inner.split_once("*/").ok_or_else(unclosed)?;
    end_of_action(tail).ok_or_else(|| TemplateError::new(line, "comment ends before closing delimiter"))
}

type Scanned<'t> = (Vec<Token>, (&'t str, bool));

/// Reads tokens up to the closing braces.
fn tokens(inner: &str, line: usize) -> Result<Scanned<'_>, TemplateError> {
    let mut out = Vec::new();
    let mut rest = inner;
    loop {
        if let Some(end) = end_of_action(rest) {
            return Ok((out, end));
        }
        let Some(c) = rest.chars().next() else { return Err(TemplateError::new(line, "unclosed action")) };
        rest = match c {
            _ if is_space(c) => &rest[c.len_utf8()..],
            '(' | ')' | '|' | ',' | '=' => {
                out.push(match c {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    '|' => Token::Pipe,
                    ',' => Token::Comma,
                    _ => Token::Assign,
                });
                chain_behind(c, &rest[1..], &mut out)
            }
            ':' if rest.starts_with(":=") => {
                out.push(Token::Declare);
                &rest[2..]
            }
            '"' | '`' | '\'' => quoted(rest, line, &mut out)?,
            '$' => {
                let (name, tail) = word(&rest[1..]);
                let (fields, tail) = fields(tail);
                out.push(Token::Variable(name.to_owned(), fields));
                tail
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (names, tail) = fields(rest);
                out.push(Token::Field(names));
                if tail.len() == rest.len() { &rest[1..] } else { tail }
            }
            _ if c.is_ascii_digit() || matches!(c, '.' | '+' | '-') => number(rest, line, &mut out)?,
            _ if c.is_alphabetic() || c == '_' => {
                let (name, tail) = word(rest);
                out.push(Token::Word(name.to_owned()));
                tail
            }
            _ => return Err(TemplateError::new(line, format!("unexpected {c:?} in command"))),
        };
    }
}

/// Reads the fields that stand directly behind a closing bracket.
fn chain_behind<'t>(c: char, rest: &'t str, out: &mut Vec<Token>) -> &'t str {
    let (names, tail) = if c == ')' { fields(rest) } else { (Vec::new(), rest) };
    if !names.is_empty() {
        out.push(Token::Chain(names));
    }
    tail
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.split_at(end)
}

/// Reads `.a.b`.
fn fields(mut rest: &str) -> (Vec<String>, &str) {
    let mut names = Vec::new();
    while let Some(tail) = rest.strip_prefix('.') {
        let (name, tail) = word(tail);
        if name.is_empty() {
            break;
        }
        names.push(name.to_owned());
        rest = tail;
    }
    (names, rest)
}

fn number<'t>(rest: &'t str, line: usize, out: &mut Vec<Token>) -> Result<&'t str, TemplateError> {
    let bytes = rest.as_bytes();
    let hex = rest.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
    let part_of = |at: usize, b: u8| {
        let after_exponent = at > 0 && !hex && matches!(bytes[at - 1], b'e' | b'E');
        b.is_ascii_alphanumeric()
            || matches!(b, b'.' | b'_')
            || (matches!(b, b'+' | b'-') && (at == 0 || after_exponent))
    };
    let end = bytes.iter().enumerate().position(|(at, b)| !part_of(at, *b)).unwrap_or(bytes.len());
    let text = rest[..end].replace('_', "");
    match parse_int(&text).map(Token::Int).or_else(|| text.parse().ok().map(Token::Float)) {
        Some(token) => out.push(token),
        None => return Err(TemplateError::new(line, format!("bad number syntax: {:?}", &rest[..end]))),
    }
    Ok(&rest[end..])
}

fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let value = match lower.get(..2) {
        Some("0x") => i64::from_str_radix(&lower[2..], 16),
        Some("0o") => i64::from_str_radix(&lower[2..], 8),
        Some("0b") => i64::from_str_radix(&lower[2..], 2),
        _ if lower.len() > 1 && lower.starts_with('0') => i64::from_str_radix(&lower[1..], 8),
        _ => lower.parse(),
    };
    value.ok().map(|value| if negative { -value } else { value })
}

/// Reads a text in one of Go's three kinds of quotes; a character is its number.
fn quoted<'t>(rest: &'t str, line: usize, out: &mut Vec<Token>) -> Result<&'t str, TemplateError> {
    let bad = |text: &str| TemplateError::new(line, text);
    let quote = rest.as_bytes()[0];
    if quote == b'`' {
        let (text, tail) = rest[1..].split_once('`').ok_or_else(|| bad("unterminated raw quoted string"))?;
        out.push(Token::Text(text.to_owned()));
        return Ok(tail);
    }
    let mut text = Vec::new();
    let mut chars = rest[1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => return Err(bad("unterminated quoted string")),
            _ if c as u32 == u32::from(quote) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                out.push(match quote {
                    b'"' => Token::Text(text),
                    _ => Token::Int(text.chars().next().map_or(0, |c| i64::from(c as u32))),
                });
                return Ok(&rest[1 + at + 1..]);
            }
            '\\' => escape(&mut chars, &mut text).ok_or_else(|| bad("invalid escape in quoted string"))?,
            _ => push_char(&mut text, c),
        }
    }
    Err(bad("unterminated quoted string"))
}

fn push_char(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Resolves one of Go's escapes.
fn escape(chars: &mut std::str::CharIndices<'_>, out: &mut Vec<u8>) -> Option<()> {
    let (_, c) = chars.next()?;
    let mut digits = |first: Option<char>, count: usize, radix: u32| {
        let mut value = first.map_or(Some(0), |c| c.to_digit(radix))?;
        for _ in 0..count {
            value = value * radix + chars.next()?.1.to_digit(radix)?;
        }
        Some(value)
    };
    match c {
        'a' => out.push(7),
        'b' => out.push(8),
        'f' => out.push(12),
        'n' => out.push(b'\n'),
        'r' => out.push(b'\r'),
        't' => out.push(b'\t'),
        'v' => out.push(11),
        '\\' | '\'' | '"' => push_char(out, c),
        'x' => out.push(u8::try_from(digits(None, 2, 16)?).ok()?),
        '0'..='7' => out.push(u8::try_from(digits(Some(c), 2, 8)?).ok()?),
        'u' => push_char(out, char::from_u32(digits(None, 4, 16)?)?),
        'U' => push_char(out, char::from_u32(digits(None, 8, 16)?)?),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(text: &str) -> Vec<Token> {
        match cut(text).unwrap().remove(0) {
            Piece::Action(tokens, _) => tokens,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn actions_and_text_are_cut_apart_and_trimmed() {
        let word = |text: &str| Piece::Action(vec![Token::Word(text.to_owned())], 1);
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(cut("a {{x}} b").unwrap(), [text("a "), word("x"), text(" b")]);
        assert_eq!(cut("a {{- x -}} b").unwrap(), [text("a"), word("x"), text("b")]);
        assert_eq!(cut("a {{/* no } */ -}} b").unwrap(), [text("a "), text("b")]);
        assert_eq!(cut("{{-3}}").unwrap(), [Piece::Action(vec![Token::Int(-3)], 1)]);
        for bad in ["{{", "{{ x", "{{ \"a }}", "{{ `a }}", "{{/* a }}", "{{ § }}", "{{ 1x }}", "{{ \"\\q\" }}", "{{ '"]
        {
            assert!(cut(bad).is_err(), "{bad}");
        }
        assert_eq!(cut("a\nb\n{{ § }}").unwrap_err().line, 3);
    }

    #[test]
    fn tokens_are_those_of_go() {
        assert_eq!(
            action(r#"{{ $x.a.b := .c | printf "%d\x41é\n" 0x1F 1e3 -2 'A' `r\n` (first .).Value }}"#),
            [
                Token::Variable("x".into(), vec!["a".into(), "b".into()]),
                Token::Declare,
                Token::Field(vec!["c".into()]),
                Token::Pipe,
                Token::Word("printf".into()),
                Token::Text("%dAé\n".into()),
                Token::Int(31),
                Token::Float(1e3),
                Token::Int(-2),
                Token::Int(65),
                Token::Text("r\\n".into()),
                Token::Open,
                Token::Word("first".into()),
                Token::Field(vec![]),
                Token::Close,
                Token::Chain(vec!["Value".into()]),
            ]
        );
    }
}
