//! InfluxDB's line protocol: `measurement,tag=value field=1.5,other=2i 1700000000000000000`.
//!
//! Invariants: 1. a bad line costs itself; the next one is read; 2. every byte is looked at a bounded number of times;
//! 3. what a line makes is bounded by its bytes.
//! Not here: names, precision, times: the caller knows them.

use std::borrow::Cow;

use crate::line_error::LineError;
use crate::number::{float_prefix, int_prefix};

/// A field's value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Field {
    /// A float, an integer (`1i`), an unsigned one (`1u`) or a boolean.
    Number(f64),
    /// A text: there is no place for it among samples.
    Text,
}

/// One line.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Point<'a> {
    /// The measurement's name.
    pub measurement: Cow<'a, str>,
    /// Tags in the order of the line; a name may stand twice.
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Fields in the order of the line.
    pub fields: Vec<(Cow<'a, str>, Field)>,
    /// The time in whatever the sender counts.
    pub timestamp: Option<i64>,
    /// The line, counted from 1.
    pub line: u32,
}

/// Walks a body line by line; empty lines and comments are passed over.
pub struct Lines<'a> {
    body: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> Lines<'a> {
    /// Starts at the beginning of a body.
    pub fn new(body: &'a [u8]) -> Lines<'a> {
        Lines { body, at: 0, line: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn at_line_end(&self) -> bool {
        match self.peek() {
            None | Some(b'\n') => true,
            Some(b'\r') => matches!(self.body.get(self.at + 1), None | Some(b'\n')),
            Some(_) => false,
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.body[self.at.min(self.body.len())..];
        self.at += memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    /// Takes bytes up to one of `ends` that no backslash stands before; `\` before one of `escapes` is taken off.
    fn token(&mut self, ends: &[u8], escapes: &[u8]) -> Result<Cow<'a, str>, &'static str> {
        let start = self.at;
        let mut escaped = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' if self.body.get(self.at + 1).is_some_and(|next| escapes.contains(next)) => {
                    escaped = true;
                    self.at += 2;
                }
                b'\n' => break,
                b'\r' if self.at_line_end() => break,
                _ if ends.contains(&byte) => break,
                _ => self.at += 1,
            }
        }
        let text = std::str::from_utf8(&self.body[start..self.at]).map_err(|_| "a name or value is not UTF-8")?;
        if !escaped {
            return Ok(Cow::Borrowed(text));
        }
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('\\', Some(next)) if next.is_ascii() && escapes.contains(&(*next as u8)) => out.extend(chars.next()),
                _ => out.push(c),
            }
        }
        Ok(Cow::Owned(out))
    }

    fn point(&mut self) -> Result<Point<'a>, &'static str> {
        let mut point = Point { line: self.line, ..Point::default() };
        point.measurement = self.token(b", ", b", \\")?;
        if point.measurement.is_empty() {
            return Err("the measurement is missing");
        }
        while self.peek() == Some(b',') {
            self.at += 1;
            let name = self.token(b",= ", b",= \\")?;
            if self.peek() != Some(b'=') {
                return Err("a tag has no value");
            }
            self.at += 1;
            let value = self.token(b",= ", b",= \\")?;
            if self.peek() == Some(b'=') {
                return Err("a tag has two values");
            }
            if name.is_empty() {
                return Err("a tag has no name");
            }
            if !value.is_empty() {
                point.tags.push((name, value));
            }
        }
        self.skip_spaces();
        self.fields(&mut point)?;
        self.skip_spaces();
        if !self.at_line_end() {
            let (time, len) = int_prefix(&self.body[self.at..]).ok_or("the time is not a whole number of 64 bits")?;
            self.at += len;
            point.timestamp = Some(time);
            self.skip_spaces();
            if !self.at_line_end() {
                return Err("something follows the time");
            }
        }
        Ok(point)
    }

    fn fields(&mut self, point: &mut Point<'a>) -> Result<(), &'static str> {
        if self.at_line_end() {
            return Err("there are no fields");
        }
        loop {
            let name = self.token(b",= ", b",= \\")?;
            if self.peek() != Some(b'=') {
                return Err("a field has no value");
            }
            if name.is_empty() {
                return Err("a field has no name");
            }
            self.at += 1;
            let value = self.value()?;
            point.fields.push((name, value));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b' ' | b'\t') => return Ok(()),
                _ if self.at_line_end() => return Ok(()),
                _ => return Err("something follows a field's value"),
            }
        }
    }

    fn value(&mut self) -> Result<Field, &'static str> {
        if self.peek() == Some(b'"') {
            return self.text();
        }
        let rest = &self.body[self.at..];
        let end = rest.iter().position(|b| matches!(b, b',' | b' ' | b'\n' | b'\r' | b'\t')).unwrap_or(rest.len());
        let word = &rest[..end];
        let number = match word {
            b"" => return Err("a field has no value"),
            b"t" | b"T" | b"true" | b"True" | b"TRUE" => 1.0,
            b"f" | b"F" | b"false" | b"False" | b"FALSE" => 0.0,
            [digits @ .., b'i'] => match int_prefix(digits) {
                Some((n, len)) if len == digits.len() => n as f64,
                _ => return Err("a field is not a whole number of 64 bits"),
            },
            [digits @ .., b'u'] => match std::str::from_utf8(digits).ok().and_then(|d| d.parse::<u64>().ok()) {
                Some(n) => n as f64,
                None => return Err("a field is not an unsigned number of 64 bits"),
            },
            _ => match float_prefix(word) {
                Some((n, len)) if len == word.len() && n.is_finite() => n,
                _ => return Err("a field is not a number"),
            },
        };
        self.at += end;
        Ok(Field::Number(number))
    }

    /// Passes over a text; it may hold line ends.
    fn text(&mut self) -> Result<Field, &'static str> {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return Ok(Field::Text),
                b'\\' => self.at += 1,
                b'\n' => self.line += 1,
                _ => {}
            }
        }
        Err("a text does not end")
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Point<'a>, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.at >= self.body.len() {
                return None;
            }
            self.line += 1;
            self.skip_spaces();
            if self.at_line_end() || self.peek() == Some(b'#') {
                self.skip_line();
                continue;
            }
            let (start, line) = (self.at, self.line);
            let read = self.point();
            let item = read.map_err(|message| {
                let place = self.at.min(self.body.len()) - start;
                // A text that does not end has taken the rest of the body along: the next line is read for itself.
                self.at = start;
                self.line = line;
                let rest = &self.body[start..];
                let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                LineError::new(line, place.min(end), message, &rest[..end])
            });
            if item.is_err() || self.at < self.body.len() {
                self.skip_line();
            }
            return Some(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Result<Point<'_>, String> {
        Lines::new(line.as_bytes()).next().expect("a line").map_err(|e| e.to_string())
    }

    #[test]
    fn points_are_read_with_their_escapes() {
        let point = one(
            r#"cpu\ load,host=a\,b,empty=,dc=x\=y usage=1.5,n=-2i,u=3u,up=t,note="a \"b\", c" 1700000000000000000"#,
        )
        .unwrap();
        assert_eq!(point.measurement, "cpu load");
        assert_eq!(point.tags, [("host".into(), "a,b".into()), ("dc".into(), Cow::<str>::from("x=y"))]);
        let values: Vec<_> = point.fields.iter().map(|(name, field)| (name.as_ref(), *field)).collect();
        assert_eq!(
            values,
            [
                ("usage", Field::Number(1.5)),
                ("n", Field::Number(-2.0)),
                ("u", Field::Number(3.0)),
                ("up", Field::Number(1.0)),
                ("note", Field::Text)
            ]
        );
        assert_eq!(point.timestamp, Some(1_700_000_000_000_000_000));
        assert_eq!(one("m f=1").unwrap().timestamp, None);
        assert_eq!(one("m f=1\r\n").unwrap().fields.len(), 1);
    }

    #[test]
    fn a_bad_line_costs_itself() {
        let body =
            "# comment\n\na x=1\nb\nc,t x=1\nd x=\"open\ne x=nan\nf x=1i5\ng x=1 soon\nh x=2\n,t=1 x=1\ni x=1 1 1\n";
        let read: Vec<_> = Lines::new(body.as_bytes()).collect();
        let good: Vec<_> = read.iter().flatten().map(|p| (p.measurement.as_ref(), p.line)).collect();
        assert_eq!(good, [("a", 3), ("h", 10)]);
        let bad: Vec<_> = read.iter().filter_map(|r| r.as_ref().err()).map(|e| e.line).collect();
        assert_eq!(bad, [4, 5, 6, 7, 8, 9, 11, 12]);
        assert!(one("b").unwrap_err().contains("there are no fields"));
        assert_eq!(one("m x=1,y=z 5").unwrap_err(), "line 1, column 9: a field is not a number in \"m x=1,y=z 5\"");
    }

    #[test]
    fn texts_may_hold_line_ends() {
        let read: Vec<_> = Lines::new(b"a s=\"x\ny\",v=1\nb v=2").collect::<Result<_, _>>().unwrap();
        assert_eq!(read.iter().map(|p| (p.fields.len(), p.line)).collect::<Vec<_>>(), [(2, 1), (1, 3)]);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Lines::new(&bytes).count() <= bytes.len() + 1);
        }

        #[test]
        fn likely_bytes_end(text in r#"([a-c,= "\\\ni0-9.#\r-]{0,60})"#) {
            for point in Lines::new(text.as_bytes()).flatten() {
                prop_assert!(!point.fields.is_empty());
            }
        }
    }
}
