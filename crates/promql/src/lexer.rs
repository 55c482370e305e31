//! Text → tokens, by the same states as Prometheus' lexer: outside, inside braces, inside brackets.
//!
//! A lexical error is a token of its own, always the last but one; the parser reports it when it gets there, so that the first
//! error in the text is the one that is told.

use crate::ast::Span;
use crate::go_text::{quote, quote_char};

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Identifier,
    MetricIdentifier,
    Number,
    Duration,
    /// The text is unquoted already.
    String,
    Keyword(Keyword),
    Op(&'static str),
    /// A bracket, comma, colon or `=`.
    Mark(&'static str),
    /// The text is the message.
    Error,
    End,
}

/// The class of a word that is more than an identifier; it decides how errors name the word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keyword {
    Operator,
    Aggregator,
    Modifier,
    Preprocessor,
}

/// A token with its place.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub span: Span,
    /// The source text; of keywords in lower case, of strings the value, of errors the message.
    pub text: String,
}

const AGGREGATORS: [&str; 14] = [
    "sum",
    "avg",
    "count",
    "min",
    "max",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "count_values",
    "quantile",
    "limitk",
    "limit_ratio",
];
const MODIFIERS: [&str; 13] = [
    "offset",
    "smoothed",
    "anchored",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "fill",
    "fill_left",
    "fill_right",
    "bool",
];

fn keyword(word: &str) -> Option<Keyword> {
    match word {
        "and" | "or" | "unless" | "atan2" => Some(Keyword::Operator),
        "start" | "end" | "step" | "range" => Some(Keyword::Preprocessor),
        _ if AGGREGATORS.contains(&word) => Some(Keyword::Aggregator),
        _ if MODIFIERS.contains(&word) => Some(Keyword::Modifier),
        _ => None,
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// Splits a query into tokens; the last one is always [`Kind::End`].
pub(crate) fn lex(input: &str) -> Vec<Token> {
    let mut lexer =
        Lexer { input, pos: 0, start: 0, parens: 0, mode: Mode::Outside, bracket: None, tokens: Vec::new() };
    if let Err(message) = lexer.run() {
        lexer.push_text(Kind::Error, message);
    }
    lexer.start = input.len();
    lexer.pos = input.len();
    lexer.push(Kind::End);
    lexer.tokens
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Outside,
    Braces,
    /// Right after `[`, until the first number: nothing but durations and arithmetic.
    Duration,
}

/// What has been seen since an open `[`.
#[derive(Clone, Copy, Default)]
struct Bracket {
    colon: bool,
    duration: bool,
}

struct Lexer<'a> {
    input: &'a str,
    pos: usize,
    start: usize,
    parens: u32,
    mode: Mode,
    bracket: Option<Bracket>,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.input.get(self.pos..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, set: &str) -> bool {
        let hit = self.is(set);
        if hit {
            self.next();
        }
        hit
    }

    fn is(&self, set: &str) -> bool {
        self.peek().is_some_and(|c| set.contains(c))
    }

    fn skip_while(&mut self, accept: fn(char) -> bool) {
        while self.peek().is_some_and(accept) {
            self.next();
        }
    }

    fn word(&self) -> &str {
        self.input.get(self.start..self.pos).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind) {
        self.push_text(kind, self.word().to_owned());
    }

    fn push_text(&mut self, kind: Kind, text: String) {
        let span = Span { start: self.start as u32, end: self.pos as u32 };
        self.tokens.push(Token { kind, span, text });
        self.start = self.pos;
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            self.start = self.pos;
            let goes_on = match self.mode {
                Mode::Outside => self.outside()?,
                Mode::Braces => self.inside_braces()?,
                Mode::Duration => self.duration_expression()?,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Passes blanks and comments; tells whether there were any.
    fn skip_blank(&mut self) -> bool {
        match self.peek() {
            Some(c) if is_space(c) => self.skip_while(is_space),
            Some('#') => self.skip_while(|c| c != '\n' && c != '\r'),
            _ => return false,
        }
        true
    }

    fn outside(&mut self) -> Result<bool, String> {
        if self.skip_blank() {
            return Ok(true);
        }
        let Some(c) = self.next() else {
            return match (self.parens, self.bracket) {
                (0, None) => Ok(false),
                (0, Some(_)) => Err("unclosed left bracket".to_owned()),
                _ => Err("unclosed left parenthesis".to_owned()),
            };
        };
        match c {
            '{' => {
                self.push(Kind::Mark("{"));
                self.mode = Mode::Braces;
            }
            '[' if self.bracket.is_some() => return Err(format!("unexpected left bracket {}", quote_char(Some(c)))),
            '[' => {
                self.push(Kind::Mark("["));
                self.bracket = Some(Bracket::default());
                self.mode = Mode::Duration;
            }
            ']' if self.bracket.is_none() => return Err(format!("unexpected right bracket {}", quote_char(Some(c)))),
            '"' | '\'' => self.quoted(c)?,
            '`' => self.raw()?,
            _ if is_alpha(c) || c == ':' => self.word_or_colon(c)?,
            _ if self.number_starts(c) => self.number_or_duration()?,
            _ => self.punctuation(c)?,
        }
        Ok(true)
    }

    fn number_starts(&self, c: char) -> bool {
        c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit()))
    }

    /// Operators and marks that mean the same everywhere but in braces.
    fn punctuation(&mut self, c: char) -> Result<(), String> {
        let kind = match c {
            ',' => Kind::Mark(","),
            '*' => Kind::Op("*"),
            '/' => Kind::Op("/"),
            '%' => Kind::Op("%"),
            '+' => Kind::Op("+"),
            '-' => Kind::Op("-"),
            '^' => Kind::Op("^"),
            '@' => Kind::Op("@"),
            '=' if self.accept("=") => Kind::Op("=="),
            '=' if self.is("~") => return Err("unexpected character after '=': '~'".to_owned()),
            '=' => Kind::Mark("="),
            '!' => match self.next() {
                Some('=') => Kind::Op("!="),
                other => return Err(format!("unexpected character after '!': {}", quote_char(other))),
            },
            '<' if self.accept("=") => Kind::Op("<="),
            '<' if self.accept("/") => Kind::Op("</"),
            '<' => Kind::Op("<"),
            '>' if self.accept("=") => Kind::Op(">="),
            '>' if self.accept("/") => Kind::Op(">/"),
            '>' => Kind::Op(">"),
            '(' => {
                self.parens += 1;
                Kind::Mark("(")
            }
            ')' => {
                let Some(parens) = self.parens.checked_sub(1) else {
                    self.start = self.pos;
                    return Err("unexpected right parenthesis ')'".to_owned());
                };
                self.parens = parens;
                Kind::Mark(")")
            }
            ']' => {
                self.bracket = None;
                Kind::Mark("]")
            }
            _ => return Err(format!("unexpected character: {}", quote_char(Some(c)))),
        };
        self.push(kind);
        Ok(())
    }

    fn word_or_colon(&mut self, c: char) -> Result<(), String> {
        let Some(bracket) = self.bracket else {
            self.keyword_or_identifier();
            return Ok(());
        };
        if c == ':' {
            if bracket.colon {
                return Err("unexpected colon ':'".to_owned());
            }
            self.bracket = Some(Bracket { colon: true, ..bracket });
            self.push(Kind::Mark(":"));
            return Ok(());
        }
        if self.duration_keyword() {
            return Ok(());
        }
        Err(format!("unexpected character: {}, expected ':'", quote_char(Some(c))))
    }

    /// Takes `step`, `range`, `min`, `max`, `min_of` or `max_of`, the only words between brackets.
    fn duration_keyword(&mut self) -> bool {
        self.skip_while(is_alpha);
        let word = self.word().to_ascii_lowercase();
        let kind = match word.as_str() {
            "step" | "range" => Kind::Keyword(Keyword::Preprocessor),
            "min" | "max" => Kind::Keyword(Keyword::Aggregator),
            "min_of" | "max_of" => Kind::Identifier,
            _ => return false,
        };
        self.push_text(kind, word);
        self.note_duration();
        true
    }

    fn note_duration(&mut self) {
        if let Some(bracket) = &mut self.bracket {
            bracket.duration = true;
        }
    }

    fn keyword_or_identifier(&mut self) {
        self.skip_while(|c| is_alphanumeric(c) || c == ':');
        let word = self.word().to_ascii_lowercase();
        let is_fill = matches!(word.as_str(), "fill" | "fill_left" | "fill_right");
        match keyword(&word) {
            Some(_) if is_fill && !self.paren_follows() => self.push(Kind::Identifier),
            Some(class) => self.push_text(Kind::Keyword(class), word),
            None if matches!(word.as_str(), "inf" | "nan") => self.push(Kind::Number),
            None if word.contains(':') => self.push(Kind::MetricIdentifier),
            None => self.push(Kind::Identifier),
        }
    }

    fn paren_follows(&self) -> bool {
        self.input.get(self.pos..).is_some_and(|rest| rest.trim_start_matches(is_space).starts_with('('))
    }

    fn inside_braces(&mut self) -> Result<bool, String> {
        if self.skip_blank() {
            return Ok(true);
        }
        let Some(c) = self.next() else {
            return Err("unexpected end of input inside braces".to_owned());
        };
        match c {
            _ if is_alpha(c) => {
                self.skip_while(is_alphanumeric);
                self.push(Kind::Identifier);
            }
            ',' => self.push(Kind::Mark(",")),
            '"' | '\'' => self.quoted(c)?,
            '`' => self.raw()?,
            '=' if self.accept("~") => self.push(Kind::Op("=~")),
            '=' => self.push(Kind::Mark("=")),
            '!' => match self.next() {
                Some('~') => self.push(Kind::Op("!~")),
                Some('=') => self.push(Kind::Op("!=")),
                other => return Err(format!("unexpected character after '!' inside braces: {}", quote_char(other))),
            },
            '{' => return Err("unexpected left brace '{'".to_owned()),
            '}' => {
                self.push(Kind::Mark("}"));
                self.mode = Mode::Outside;
            }
            _ => return Err(format!("unexpected character inside braces: {}", quote_char(Some(c)))),
        }
        Ok(true)
    }

    fn duration_expression(&mut self) -> Result<bool, String> {
        if self.peek().is_some_and(is_space) {
            self.skip_while(is_space);
            return Ok(true);
        }
        let Some(c) = self.next() else {
            return Err("unexpected end of input in duration expression".to_owned());
        };
        let bracket = self.bracket.unwrap_or_default();
        match c {
            ']' => {
                self.mode = Mode::Outside;
                self.punctuation(c)?;
            }
            ':' if !bracket.duration => {
                self.start = self.pos;
                return Err("unexpected colon before duration in duration expression".to_owned());
            }
            ':' if bracket.colon => {
                self.start = self.pos;
                return Err("unexpected repeated colon in duration expression".to_owned());
            }
            ':' => {
                self.bracket = Some(Bracket { colon: true, ..bracket });
                self.push(Kind::Mark(":"));
            }
            '(' | ')' | '+' | '-' | '*' | '/' | '%' | '^' | ',' => self.punctuation(c)?,
            _ if self.number_starts(c) => {
                self.mode = Mode::Outside;
                self.note_duration();
                self.number_or_duration()?;
            }
            _ if is_alpha(c) && self.duration_keyword() => {}
            _ => return Err(format!("unexpected character in duration expression: {}", quote_char(Some(c)))),
        }
        Ok(true)
    }

    fn number_or_duration(&mut self) -> Result<(), String> {
        self.pos = self.start;
        if self.scan_number() {
            self.push(Kind::Number);
            return Ok(());
        }
        if self.scan_duration() {
            self.push(Kind::Duration);
            return Ok(());
        }
        Err(format!("bad number or duration syntax: {}", quote(self.word())))
    }

    /// Goes over a number; what it accepts need not be one, that is for [`crate::number::parse`].
    fn scan_number(&mut self) -> bool {
        let hex = self.accept("0") && self.accept("xX");
        let digits = if hex { "0123456789abcdefABCDEF" } else { "0123456789" };
        if hex {
            self.accept("_");
        }
        self.accept(".");
        self.accept(digits);
        let (mut dot, mut exponent) = (false, false);
        while self.is(digits) || self.is("._eE") {
            if self.is(".") {
                self.next();
                if dot || self.accept("_.") || hex {
                    return false;
                }
                dot = true;
            } else if self.is("eE") {
                self.next();
                if exponent {
                    return false;
                }
                exponent = true;
                self.accept("+-");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else if self.accept("_") {
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else {
                while self.accept(digits) {}
            }
        }
        self.pos > self.start && !self.peek().is_some_and(is_alphanumeric)
    }

    /// Goes over the rest of a duration, whose first digits [`Self::scan_number`] has passed.
    fn scan_duration(&mut self) -> bool {
        if !self.accept("smhdwy") {
            return false;
        }
        self.accept("s");
        while self.accept("0123456789") {
            while self.accept("0123456789") {}
            if !self.accept("smhdw") {
                return false;
            }
            self.accept("s");
        }
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            return false;
        }
        true
    }

    fn raw(&mut self) -> Result<(), String> {
        loop {
            match self.next() {
                None => return Err("unterminated raw string".to_owned()),
                Some(char::REPLACEMENT_CHARACTER) => return Err("invalid UTF-8 rune".to_owned()),
                Some('`') => break,
                Some(_) => {}
            }
        }
        let text = self.input.get(self.start + 1..self.pos - 1).unwrap_or_default().to_owned();
        self.push_text(Kind::String, text);
        Ok(())
    }

    fn quoted(&mut self, quote: char) -> Result<(), String> {
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err("unterminated quoted string".to_owned()),
                Some(char::REPLACEMENT_CHARACTER) => return Err("invalid UTF-8 rune".to_owned()),
                Some('\\') => self.escape(quote, &mut bytes)?,
                Some(c) if c == quote => break,
                Some(c) => push_char(&mut bytes, c),
            }
        }
        self.push_text(Kind::String, String::from_utf8_lossy(&bytes).into_owned());
        Ok(())
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), String> {
        let Some(c) = self.next() else {
            return Err("escape sequence not terminated".to_owned());
        };
        let (digits, base, max) = match c {
            _ if c == quote || c == '\\' => {
                push_char(bytes, c);
                return Ok(());
            }
            'a' => {
                bytes.push(7);
                return Ok(());
            }
            'b' => {
                bytes.push(8);
                return Ok(());
            }
            'f' => {
                bytes.push(12);
                return Ok(());
            }
            'n' => {
                bytes.push(b'\n');
                return Ok(());
            }
            'r' => {
                bytes.push(b'\r');
                return Ok(());
            }
            't' => {
                bytes.push(b'\t');
                return Ok(());
            }
            'v' => {
                bytes.push(11);
                return Ok(());
            }
            '0'..='7' => {
                self.pos -= 1;
                (3, 8, 255)
            }
            'x' => (2, 16, 255),
            'u' => (4, 16, 0x10_ffff),
            'U' => (8, 16, 0x10_ffff),
            _ => return Err(format!("unknown escape sequence {}", rune(c))),
        };
        let code = self.escape_code(digits, base)?;
        let value = char::from_u32(code).filter(|_| code <= max);
        let value = value.ok_or("escape sequence is an invalid Unicode code point")?;
        if max == 255 {
            bytes.push(code as u8);
        } else {
            push_char(bytes, value);
        }
        Ok(())
    }

    fn escape_code(&mut self, digits: u32, base: u32) -> Result<u32, String> {
        let mut code = 0_u32;
        for _ in 0..digits {
            let c = self.next().ok_or("escape sequence not terminated")?;
            let digit = c.to_digit(base).ok_or_else(|| format!("illegal character {} in escape sequence", rune(c)))?;
            code = code.wrapping_mul(base).wrapping_add(digit);
        }
        Ok(code)
    }
}

fn push_char(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Names a character as Go's `%#U`.
fn rune(c: char) -> String {
    format!("U+{:04X} '{c}'", c as u32)
}

impl Token {
    /// Says what the token is, as Prometheus' errors do.
    pub(crate) fn describe(&self, query: &str) -> String {
        let source = query.get(self.span.start as usize..self.span.end as usize).unwrap_or_default();
        match self.kind {
            Kind::End => "end of input".to_owned(),
            Kind::Error => self.text.clone(),
            Kind::Identifier => format!("identifier {}", quote(source)),
            Kind::MetricIdentifier => format!("metric identifier {}", quote(source)),
            Kind::Keyword(Keyword::Operator) | Kind::Op(_) => format!("<op:{source}>"),
            Kind::Keyword(Keyword::Aggregator) => format!("<aggr:{source}>"),
            Kind::Keyword(Keyword::Modifier) => format!("<{source}>"),
            Kind::Keyword(Keyword::Preprocessor) | Kind::Mark(_) => quote(source),
            Kind::Number => format!("number {}", shortened(source)),
            Kind::Duration => format!("duration {}", shortened(source)),
            Kind::String => format!("string {}", shortened(source)),
        }
    }
}

fn shortened(source: &str) -> String {
    if source.len() <= 10 {
        return quote(source);
    }
    format!("{}...", quote(&source.chars().take(10).collect::<String>()))
}
