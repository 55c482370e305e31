//! A composite value: a whole histogram or summary between braces.

use crate::error::Fault;
use crate::number::{float_prefix, int_prefix};

/// The fields of a value, as they stand.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Composite {
    pub(super) count: f64,
    pub(super) sum: f64,
    /// `gcount` and `gsum` stand there.
    pub(super) is_gauge: bool,
    pub(super) native: Option<Native>,
    /// Upper bounds and counts of classic buckets.
    pub(super) buckets: Option<Vec<(f64, f64)>>,
    pub(super) quantiles: Option<Vec<(f64, f64)>>,
}

/// Native buckets.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Native {
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) zero_count: f64,
    pub(super) negative: Side,
    pub(super) positive: Side,
}

/// One side of native buckets.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Side {
    pub(super) spans: Vec<(i32, u32)>,
    pub(super) counts: Vec<f64>,
}

/// Walks `key:value` pairs.
struct Fields<'a> {
    text: &'a str,
    at: usize,
}

impl Composite {
    /// Reads what stands between the braces; faults are placed from there.
    pub(super) fn read(text: &str) -> Result<Composite, Fault> {
        let mut fields = Fields { text, at: 0 };
        let is_gauge = text.starts_with('g');
        let (count_key, sum_key) = if is_gauge { ("gcount:", ",gsum:") } else { ("count:", ",sum:") };
        fields.expect(count_key)?;
        let count = fields.number()?;
        fields.expect(sum_key)?;
        let sum = fields.number()?;
        let mut composite = Composite { count, sum, is_gauge, ..Composite::default() };
        if fields.take(",quantile:") {
            composite.quantiles = Some(fields.pairs()?);
        } else {
            if fields.take(",schema:") {
                composite.native = Some(fields.native()?);
            }
            if fields.take(",bucket:") {
                composite.buckets = Some(fields.pairs()?);
            }
        }
        if fields.at < text.len() {
            return Err(Fault::new(fields.at, "this field is not known or not in its place"));
        }
        composite.check()?;
        Ok(composite)
    }

    fn check(&self) -> Result<(), Fault> {
        let fail = |text: &'static str| Err(Fault::new(0, text));
        if self.native.is_none() && self.buckets.is_none() && self.quantiles.is_none() {
            return fail("the value has neither buckets nor quantiles");
        }
        if self.count.is_nan() || self.count < 0.0 {
            return fail("the count is negative or no number");
        }
        if let Some(buckets) = &self.buckets {
            let rises = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0);
            if !rises || buckets.iter().any(|bucket| bucket.1.is_nan() || bucket.1 < 0.0) {
                return fail("the bounds of the buckets do not rise, or a count is negative or no number");
            }
            if buckets.last().is_none_or(|last| last.0 != f64::INFINITY || last.1 != self.count) {
                return fail("the last bucket is not that of +Inf, or does not hold the count");
            }
        }
        if let Some(quantiles) = &self.quantiles
            && (self.is_gauge || quantiles.iter().any(|(quantile, _)| !(0.0..=1.0).contains(quantile)))
        {
            return fail("a quantile is not between 0 and 1, or stands in a gauge");
        }
        Ok(())
    }
}

impl Fields<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), Fault> {
        if self.take(text) { Ok(()) } else { Err(Fault::new(self.at, format!("expected {text:?}"))) }
    }

    fn number(&mut self) -> Result<f64, Fault> {
        let (value, len) =
            float_prefix(self.rest().as_bytes()).ok_or_else(|| Fault::new(self.at, "expected a number"))?;
        self.at += len;
        Ok(value)
    }

    fn whole<T: TryFrom<i64>>(&mut self) -> Result<T, Fault> {
        let sign = usize::from(self.rest().starts_with('+'));
        let read = int_prefix(&self.rest().as_bytes()[sign..]);
        let (value, len) = read.ok_or_else(|| Fault::new(self.at, "expected a whole number"))?;
        let value = T::try_from(value).map_err(|_| Fault::new(self.at, "the number is out of range"))?;
        self.at += sign + len;
        Ok(value)
    }

    /// Reads `[` item `,` item ... `]`.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
        self.expect("[")?;
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.take("]") {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }

    fn pairs(&mut self) -> Result<Vec<(f64, f64)>, Fault> {
        self.list(|fields| {
            let key = fields.number()?;
            fields.expect(":")?;
            Ok((key, fields.number()?))
        })
    }

    /// Reads what follows `schema:`.
    fn native(&mut self) -> Result<Native, Fault> {
        let schema = self.whole()?;
        self.expect(",zero_threshold:")?;
        let zero_threshold = self.number()?;
        self.expect(",zero_count:")?;
        let mut native = Native { schema, zero_threshold, zero_count: self.number()?, ..Native::default() };
        if self.take(",negative_spans:") {
            native.negative = self.side(",negative_buckets:")?;
        }
        if self.take(",positive_spans:") {
            native.positive = self.side(",positive_buckets:")?;
        }
        Ok(native)
    }

    fn side(&mut self, counts: &str) -> Result<Side, Fault> {
        let start = self.at;
        let spans: Vec<(i32, u32)> = self.list(|fields| {
            let offset = fields.whole()?;
            fields.expect(":")?;
            Ok((offset, fields.whole()?))
        })?;
        self.expect(counts)?;
        let counts = self.list(Self::number)?;
        let total: u64 = spans.iter().map(|(_, length)| u64::from(*length)).sum();
        if total != counts.len() as u64 || spans.iter().skip(1).any(|(offset, _)| *offset < 0) {
            return Err(Fault::new(start, "spans and buckets do not go together"));
        }
        Ok(Side { spans, counts })
    }
}
