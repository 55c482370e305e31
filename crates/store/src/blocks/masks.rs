//! What may no longer be read though it still lies in a block: deleted samples, and those past their retention.
//!
//! Invariants: a mask only hides; what it hides goes from the disk when the block is merged or rewritten, and only then.

use hashbrown::HashMap;
use model::{Labels, Matcher, Samples, TimeRange};

use super::deletions::Deletion;
use super::manifest::Manifest;

/// How long samples are kept.
#[derive(Clone, Debug)]
pub struct SelectorRule {
    /// All of them have to accept the series.
    pub matchers: Vec<Matcher>,
    /// How long its samples are kept.
    pub keep_ms: i64,
}

/// Samples are rolled up when they are old enough, and what comes of it is kept longer than they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RollupRule {
    /// How old samples are then.
    pub after_ms: i64,
    /// The length of the stretches.
    pub resolution_ms: i64,
    /// How long the result is kept.
    pub keep_ms: i64,
}

/// What one target asks for.
#[derive(Clone, Debug, Default)]
pub struct TargetRule {
    /// For series that no selector accepts; `None` leaves them to the default.
    pub keep_ms: Option<i64>,
    /// The first that accepts a series decides.
    pub selectors: Vec<SelectorRule>,
    /// One for each resolution.
    pub rollups: Vec<RollupRule>,
}

impl TargetRule {
    fn keep_ms(&self, labels: &Labels) -> Option<i64> {
        let accepts =
            |rule: &&SelectorRule| rule.matchers.iter().all(|m| m.matches(labels.get(m.name()).unwrap_or("")));
        self.selectors.iter().find(accepts).map(|rule| rule.keep_ms).or(self.keep_ms)
    }

    fn longest_ms(&self) -> Option<i64> {
        self.selectors.iter().map(|rule| rule.keep_ms).chain(self.keep_ms).max()
    }
}

/// How long the samples of which series are kept.
#[derive(Clone, Debug)]
pub struct RetentionRules {
    /// For series of targets without a rule.
    pub default_ms: i64,
    /// By target id; a series belongs to its latest owner, in each block anew.
    pub targets: HashMap<String, TargetRule>,
}

impl RetentionRules {
    /// Keeps everything equally long.
    pub fn uniform(default_ms: i64) -> RetentionRules {
        RetentionRules { default_ms, targets: HashMap::new() }
    }

    /// Gives how long a series is kept.
    pub fn keep_ms(&self, target_id: &str, labels: &Labels) -> i64 {
        let rule = self.targets.get(target_id).and_then(|rule| rule.keep_ms(labels));
        rule.unwrap_or(self.default_ms)
    }

    /// Gives the longest time for which anything of a target may be kept.
    pub fn longest_of_ms(&self, target_id: &str) -> i64 {
        let Some(rule) = self.targets.get(target_id) else { return self.default_ms };
        let rest = if rule.keep_ms.is_none() { self.default_ms } else { 0 };
        rule.longest_ms().unwrap_or(0).max(rest)
    }

    /// Gives the time for which samples of every series are kept as they came.
    pub fn shortest_ms(&self) -> i64 {
        let of_rule = |rule: &TargetRule| rule.selectors.iter().map(|s| s.keep_ms).chain(rule.keep_ms).min();
        self.targets.values().filter_map(of_rule).fold(self.default_ms, i64::min)
    }

    /// Gives the longest time for which anything is kept, roll-ups included.
    pub fn longest_ms(&self) -> i64 {
        let rollups = self.targets.values().flat_map(|rule| rule.rollups.iter().map(|r| r.keep_ms));
        self.targets.values().filter_map(TargetRule::longest_ms).chain(rollups).fold(self.default_ms, i64::max)
    }

    /// Gives the roll-ups of a target.
    pub fn rollups(&self, target_id: &str) -> &[RollupRule] {
        self.targets.get(target_id).map_or(&[], |rule| &rule.rollups)
    }

    /// Gives from when on, and up to when, what a block holds of a series is read. Of a roll-up only what is past the
    /// retention of everything finer.
    fn span(&self, resolution_ms: Option<i64>, target_id: &str, labels: &Labels, now_ms: i64) -> (i64, i64) {
        if self.is_uniform() {
            let floor_ms = now_ms.saturating_sub(self.default_ms);
            return if resolution_ms.is_none() { (floor_ms, i64::MAX) } else { (i64::MAX, i64::MIN) };
        }
        let raw_ms = self.keep_ms(target_id, labels);
        let Some(resolution_ms) = resolution_ms else { return (now_ms.saturating_sub(raw_ms), i64::MAX) };
        let rollups = self.rollups(target_id);
        let Some(own) = rollups.iter().find(|r| r.resolution_ms == resolution_ms) else { return (i64::MAX, i64::MIN) };
        let finer = rollups.iter().filter(|r| r.resolution_ms < resolution_ms).map(|r| r.keep_ms);
        let finer_ms = finer.fold(raw_ms, i64::max);
        (now_ms.saturating_sub(own.keep_ms), now_ms.saturating_sub(finer_ms))
    }

    /// Tells whether series differ.
    pub fn is_uniform(&self) -> bool {
        self.targets.is_empty()
    }
}

/// All masks of a directory; replaced as a whole.
#[derive(Clone, Debug)]
pub struct Masks {
    /// Rises with every change of the retention.
    pub version: u64,
    /// Deletions that some block may still hold samples of.
    pub deletions: Vec<Deletion>,
    /// How long samples are kept.
    pub rules: RetentionRules,
}

impl Default for Masks {
    fn default() -> Masks {
        Masks { version: 0, deletions: Vec::new(), rules: RetentionRules::uniform(i64::MAX) }
    }
}

impl Masks {
    /// Gives the mask of a series in a block.
    pub fn of(&self, block: &Manifest, labels: &Labels, target_id: &str, now_ms: i64) -> RowMask {
        let (floor_ms, ceiling_ms) = self.rules.span(block.resolution_ms, target_id, labels, now_ms);
        let hides = |d: &&Deletion| d.hides(block.id, labels, target_id);
        let deleted = self.deletions.iter().filter(hides).map(|d| d.range).collect();
        RowMask { floor_ms, ceiling_ms, deleted }
    }
}

/// What is hidden of one series.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowMask {
    /// Samples before this time are past their retention.
    pub floor_ms: i64,
    /// Samples from this time on are there in a finer form.
    pub ceiling_ms: i64,
    /// Times of deleted samples.
    pub deleted: Vec<TimeRange>,
}

/// How many samples a mask took out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Masked {
    /// Past their retention.
    pub expired: u64,
    /// Deleted by request.
    pub deleted: u64,
}

impl RowMask {
    /// Tells whether nothing of a range is hidden.
    pub fn is_open(&self, range: TimeRange) -> bool {
        self.floor_ms <= range.start_ms
            && (self.ceiling_ms == i64::MAX || range.end_ms < self.ceiling_ms)
            && !self.deleted.iter().any(|d| d.overlaps(&range))
    }

    /// Tells whether one deletion or the retention hides all of a range.
    pub fn hides_all(&self, range: TimeRange) -> bool {
        let covers = |d: &TimeRange| d.start_ms <= range.start_ms && range.end_ms <= d.end_ms;
        range.end_ms < self.floor_ms || range.start_ms >= self.ceiling_ms || self.deleted.iter().any(covers)
    }

    /// Takes out what is hidden.
    pub fn apply(&self, samples: &mut Samples) -> Masked {
        let mut masked = Masked::default();
        let mut keep = |ts_ms: i64| {
            let expired = ts_ms < self.floor_ms;
            let deleted = !expired && self.deleted.iter().any(|d| d.contains(ts_ms));
            masked.expired += u64::from(expired);
            masked.deleted += u64::from(deleted);
            !expired && !deleted && (ts_ms < self.ceiling_ms || self.ceiling_ms == i64::MAX)
        };
        let doubles = samples.ts_ms.iter().copied().zip(samples.values.iter().copied());
        (samples.ts_ms, samples.values) = doubles.filter(|d| keep(d.0)).unzip();
        samples.histograms.retain(|h| keep(h.0));
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> RetentionRules {
        let selector = |name: &str, keep_ms| SelectorRule { matchers: vec![Matcher::equal("__name__", name)], keep_ms };
        let mut rules = RetentionRules::uniform(100);
        let rule = TargetRule {
            keep_ms: Some(10),
            selectors: vec![selector("a", 500), selector("a", 7), selector("b", 3)],
            ..TargetRule::default()
        };
        rules.targets.insert("t".to_owned(), rule);
        rules.targets.insert(
            "u".to_owned(),
            TargetRule { keep_ms: None, selectors: vec![selector("a", 50)], ..TargetRule::default() },
        );
        rules
    }

    #[test]
    fn the_first_selector_that_accepts_decides_then_the_target_then_the_default() {
        let rules = rules();
        let keep = |target: &str, name: &str| rules.keep_ms(target, &Labels::from_pairs([("__name__", name)]));
        assert_eq!(
            [keep("t", "a"), keep("t", "b"), keep("t", "c"), keep("u", "c"), keep("v", "a")],
            [500, 3, 10, 100, 100]
        );
        let longest = |target: &str| rules.longest_of_ms(target);
        assert_eq!([longest("t"), longest("u"), longest("v"), rules.longest_ms()], [500, 100, 100, 500]);
    }

    #[test]
    fn a_mask_counts_what_it_takes_out_once() {
        let mask = RowMask {
            floor_ms: 10,
            ceiling_ms: i64::MAX,
            deleted: vec![TimeRange { start_ms: 5, end_ms: 12 }, TimeRange { start_ms: 12, end_ms: 13 }],
        };
        let mut samples = Samples::default();
        (8..16).for_each(|ts| samples.push(ts, 0.0));
        assert_eq!(mask.apply(&mut samples), Masked { expired: 2, deleted: 4 });
        assert_eq!(samples.ts_ms, [14, 15]);
        assert!(
            mask.is_open(TimeRange { start_ms: 14, end_ms: 99 })
                && !mask.is_open(TimeRange { start_ms: 13, end_ms: 14 })
        );
        assert!(
            mask.hides_all(TimeRange { start_ms: 1, end_ms: 9 })
                && mask.hides_all(TimeRange { start_ms: 12, end_ms: 13 })
        );
        assert!(!mask.hides_all(TimeRange { start_ms: 9, end_ms: 10 }) || mask.deleted[0].contains(9));
    }

    #[test]
    fn a_roll_up_is_read_where_nothing_finer_is_kept() {
        let mut rules = RetentionRules::uniform(100);
        let rollup = |resolution_ms, keep_ms| RollupRule { after_ms: 1, resolution_ms, keep_ms };
        let rollups = vec![rollup(5, 1000), rollup(60, 5000)];
        rules.targets.insert("t".to_owned(), TargetRule { keep_ms: Some(200), rollups, ..TargetRule::default() });
        let labels = Labels::from_pairs([("__name__", "x")]);
        let span = |resolution, target: &str| rules.span(resolution, target, &labels, 10_000);
        assert_eq!(span(None, "t"), (9800, i64::MAX));
        assert_eq!((span(Some(5), "t"), span(Some(60), "t")), ((9000, 9800), (5000, 9000)));
        assert_eq!((span(None, "u"), span(Some(5), "u").0), ((9900, i64::MAX), i64::MAX));
        assert_eq!((rules.longest_ms(), rules.longest_of_ms("t")), (5000, 200));
    }
}
