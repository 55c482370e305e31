//! Spans: pieces of work with a beginning and an end, that belong to traces over the borders of programs (W3C Trace Context).
//!
//! Who works begins a span, notes what matters, and drops it; one hearer in the process is told of each that ended. Without a hearer
//! a span is nothing: beginning one costs a load.
//! Invariants: 1. nothing here waits; 2. whether a trace is sampled is decided where it begins, and stays so.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

use crate::Random;

/// What a span notes; more is left out.
const ATTRIBUTES_MAX: usize = 16;
/// Bytes of a text that a span notes.
const TEXT_BYTES_MAX: usize = 1_024;

static IS_ON: AtomicBool = AtomicBool::new(false);
/// Traces that begin here are sampled when the upper half of their id is below.
static SAMPLED_BELOW: AtomicU64 = AtomicU64::new(0);
static HEARER: RwLock<Option<Arc<dyn Hear>>> = RwLock::new(None);
/// Where ids come from: unlike in each process, and unlike each other.
static NUMBERS: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(std::process::id())));

/// Who is told of spans that ended.
pub trait Hear: Send + Sync {
    /// Takes a span. Must not wait.
    fn ended(&self, span: Ended);
}

/// Tells of spans from here on; another hearer before is forgotten.
///
/// **Takes** which part of the traces that begin here is sampled, 0 to 1.
pub fn listen(hearer: Arc<dyn Hear>, fraction: f64) {
    // A float of 1 or more becomes the largest number.
    SAMPLED_BELOW.store((fraction.clamp(0.0, 1.0) * u64::MAX as f64) as u64, Ordering::Relaxed);
    *HEARER.write() = Some(hearer);
    IS_ON.store(true, Ordering::Release);
}

/// Tells of no more spans.
pub fn deafen() {
    IS_ON.store(false, Ordering::Release);
    *HEARER.write() = None;
}

/// Tells whether somebody hears of spans.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Acquire)
}

/// Where in which trace something is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Context {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span; not 0.
    pub span_id: u64,
    /// Whether spans of the trace are told of.
    pub is_sampled: bool,
}

impl Context {
    /// Begins a trace.
    pub fn new() -> Context {
        let high = number();
        let is_sampled =
            is_on() && high <= SAMPLED_BELOW.load(Ordering::Relaxed) && SAMPLED_BELOW.load(Ordering::Relaxed) > 0;
        Context { trace_id: u128::from(high) << 64 | u128::from(number()), span_id: number(), is_sampled }
    }

    /// Gives a place below.
    pub fn below(&self) -> Context {
        Context { span_id: number(), ..*self }
    }

    /// Reads `traceparent`; `None` for what is none, which the standard wants to be forgotten.
    pub fn parse(text: &str) -> Option<Context> {
        let mut parts = text.trim().split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let good = part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            good.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // Later versions may add something at the end; the first one has nothing there.
        let is_whole = version != 0 || parts.next().is_none();
        let is_good = version != 0xff && trace_id != 0 && span_id != 0 && is_whole;
        is_good.then_some(Context { trace_id, span_id: span_id as u64, is_sampled: flags & 1 == 1 })
    }

    /// Gives the value of `traceparent` for whoever is asked next.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.is_sampled))
    }
}

impl Default for Context {
    fn default() -> Context {
        Context::new()
    }
}

fn number() -> u64 {
    let seed = NUMBERS.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    Random::seeded(seed).next_u64().max(1)
}

/// Who does the work of a span.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// We, for ourselves.
    Internal,
    /// We, for who asked.
    Server,
    /// Somebody whom we asked.
    Client,
}

/// What a span notes.
#[derive(Clone, PartialEq, Debug)]
pub enum Noted {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Noted {
    fn from(text: &str) -> Noted {
        let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        Noted::Text(text[..end].to_owned())
    }
}

impl From<u64> for Noted {
    fn from(n: u64) -> Noted {
        Noted::Number(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

/// A span that ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Ended {
    /// Where it is.
    pub context: Context,
    /// The span above.
    pub parent: Option<u64>,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Who did it.
    pub kind: Kind,
    /// When it began; nanoseconds since 1970.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What it noted.
    pub notes: Vec<(&'static str, Noted)>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Work under way. Its end is where it is dropped.
pub struct Span(Option<Box<Open>>);

struct Open {
    ended: Ended,
    begun: Instant,
}

impl Span {
    /// Begins a span at a place.
    ///
    /// **Takes** the span above; `None` where the trace begins.
    pub fn at(context: Context, parent: Option<u64>, name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
        if !context.is_sampled || !is_on() {
            return Span(None);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let (name, notes) = (name.into(), Vec::new());
        let ended = Ended { context, parent, name, kind, start_ns, end_ns: start_ns, notes, failure: None };
        Span(Some(Box::new(Open { ended, begun: Instant::now() })))
    }

    /// Begins a trace with a span.
    pub fn root(name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
        if is_on() { Span::at(Context::new(), None, name, kind) } else { Span(None) }
    }

    /// Begins a span below another; nothing where there is none.
    pub fn child(parent: Option<Context>, name: impl Into<Cow<'static, str>>, kind: Kind) -> Span {
        match parent {
            Some(parent) if parent.is_sampled => Span::at(parent.below(), Some(parent.span_id), name, kind),
            _ => Span(None),
        }
    }

    /// Gives the place of the span, for what is below; `None` for one that nobody hears of.
    pub fn context(&self) -> Option<Context> {
        self.0.as_ref().map(|open| open.ended.context)
    }

    /// Notes something.
    pub fn note(&mut self, key: &'static str, value: impl Into<Noted>) {
        if let Some(open) = self.0.as_mut().filter(|open| open.ended.notes.len() < ATTRIBUTES_MAX) {
            open.ended.notes.push((key, value.into()));
        }
    }

    /// Says that the work failed.
    pub fn fail(&mut self, why: &str) {
        if let (Some(open), Noted::Text(why)) = (&mut self.0, Noted::from(why)) {
            open.ended.failure = Some(why);
        }
    }

    /// Forgets the span: nothing was done.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut open) = self.0.take() else { return };
        let took = u64::try_from(open.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        open.ended.end_ns = open.ended.start_ns.saturating_add(took);
        let hearer = HEARER.read().clone();
        if let Some(hearer) = hearer {
            hearer.ended(open.ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Ended>>);

    impl Hear for Heard {
        fn ended(&self, span: Ended) {
            self.0.lock().push(span);
        }
    }

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Context::parse(good).unwrap();
        assert_eq!((context.traceparent().as_str(), context.is_sampled), (good, true));
        assert!(Context::parse(&format!("cc{}-what-comes", &good[2..])).is_some(), "a later version");
        for bad in [
            "",
            "00",
            &format!("{good}-more"),
            &good.to_uppercase(),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
    }

    /// One test, for there is one hearer in a process.
    #[test]
    fn spans_are_told_of_while_somebody_hears_and_as_many_as_asked_for() {
        assert!(Span::root("nobody hears", Kind::Internal).context().is_none());
        let heard = Arc::new(Heard::default());
        listen(heard.clone(), 1.0);
        let mut root = Span::root("root", Kind::Server);
        root.note("text", "é".repeat(2_000).as_str());
        (0..100).for_each(|n| root.note("n", n as u64));
        let mut child = Span::child(root.context(), "child", Kind::Client);
        child.fail("it broke");
        drop(child);
        drop(root);
        let unsampled = Context { is_sampled: false, ..Context::new() };
        assert!(Span::child(Some(unsampled), "unsampled", Kind::Internal).context().is_none());
        Span::root("forgotten", Kind::Internal).forget();
        let all = std::mem::take(&mut *heard.0.lock());
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!((all[0].parent, all[0].context.trace_id), (Some(all[1].context.span_id), all[1].context.trace_id));
        assert_eq!((all[0].failure.as_deref(), all[1].notes.len()), (Some("it broke"), ATTRIBUTES_MAX));
        let Noted::Text(text) = &all[1].notes[0].1 else { panic!() };
        assert_eq!(text.len(), TEXT_BYTES_MAX);
        assert!(all[1].end_ns >= all[0].end_ns && all[1].start_ns <= all[0].start_ns);
        for (fraction, low, high) in [(0.0, 0, 0), (0.1, 500, 1_500), (1.0, 10_000, 10_000)] {
            listen(heard.clone(), fraction);
            let sampled = (0..10_000).filter(|_| Context::new().is_sampled).count();
            assert!((low..=high).contains(&sampled), "{fraction}: {sampled}");
        }
        deafen();
        assert!(!Context::new().is_sampled);
    }
}
