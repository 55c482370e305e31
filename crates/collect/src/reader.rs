//! Reads one target's bodies without network, timer and store: for benches, fuzzing, and tests of the cache.

use std::sync::Arc;

use model::{Batch, Origin};
use wire::Format;

use crate::cache::SeriesCache;
use crate::draft::Draft;
use crate::intake::{Failure, Intake};
use crate::outcome::{ScrapeError, ScrapeErrorKind};
use crate::report_series::ReportSeries;
use crate::sums::Sums;
use crate::target::TargetSpec;

/// The way from body to batch, with the memory of the body before.
pub struct BodyReader {
    spec: Arc<TargetSpec>,
    cache: SeriesCache,
    report: ReportSeries,
    sums: Sums,
    draft: Option<Draft>,
}

impl BodyReader {
    /// Starts without memory.
    pub fn new(spec: TargetSpec) -> BodyReader {
        BodyReader {
            spec: Arc::new(spec),
            cache: SeriesCache::default(),
            report: ReportSeries::default(),
            sums: Sums::default(),
            draft: None,
        }
    }

    /// Turns a body into the batch that a scrape would store: samples and stale markers. The first five series are those of
    /// the scrape's report, without samples here.
    ///
    /// **Takes** the time for samples without one, and the store's generation. Call [`BodyReader::stored`] with the batch when
    /// the store has it; without that call nothing is remembered.
    /// **Errors** when the whole scrape would fail; the batch then holds the stale markers of all series.
    pub fn read(
        &mut self,
        format: Format,
        body: &[u8],
        scrape_ms: i64,
        generation: u64,
    ) -> (Batch, Result<u64, ScrapeError>) {
        self.forget_draft();
        let mut batch = Batch::new(Origin::default());
        batch.generation = generation;
        self.cache.sums = self.spec.filters.aggregates().then(|| self.sums.of(&self.spec.target_id));
        let mut draft = self.cache.begin(&self.spec, Some(format), generation);
        self.report.push_series(&self.spec, &mut batch);
        let intake = Intake::new(&self.spec, &mut self.cache, &mut draft, &mut batch, scrape_ms);
        let (taken, failure) = intake.run(format, body);
        if failure.is_some() {
            self.cache.fail(&mut draft);
            batch.clear();
            self.report.push_series(&self.spec, &mut batch);
        }
        self.cache.push_stale(&mut draft, &mut batch, scrape_ms);
        self.draft = Some(draft);
        let result = match failure {
            None => Ok(taken.samples),
            Some(Failure::Rule(error)) => Err(error),
            Some(Failure::Syntax(error)) => Err(ScrapeError::new(ScrapeErrorKind::Parse, error.to_string())),
        };
        (batch, result)
    }

    /// Remembers the body read last, with the ids that the store wrote into its batch.
    pub fn stored(&mut self, batch: &mut Batch) {
        if let Some(mut draft) = self.draft.take() {
            self.report.commit(&self.spec, batch);
            self.cache.commit(&mut draft, batch);
        }
    }

    fn forget_draft(&mut self) {
        if let Some(draft) = self.draft.take() {
            self.cache.roll_back(&draft);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};
    use std::fmt::Write as _;

    use model::{Labels, SeriesId, SeriesIndex, is_stale};
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    /// Gives ids as a store does, and takes them back.
    #[derive(Default)]
    struct Ids {
        ids: HashMap<Vec<u8>, u64>,
        labels: HashMap<u64, Vec<u8>>,
        last: u64,
        generation: u64,
    }

    impl Ids {
        fn resolve(&mut self, batch: &mut Batch) {
            assert_eq!(batch.generation, self.generation);
            for at in 0..batch.series.len() {
                let bytes = batch.label_bytes(SeriesIndex(at as u32)).to_vec();
                if bytes.is_empty() {
                    assert!(self.labels.contains_key(&batch.series[at].id.0), "an id that was never given");
                    continue;
                }
                let next = self.last + 1;
                let id = *self.ids.entry(bytes.clone()).or_insert(next);
                self.last = self.last.max(id);
                self.labels.insert(id, bytes);
                batch.series[at].id = SeriesId(id);
            }
        }

        fn renumber(&mut self) {
            self.ids.clear();
            self.labels.clear();
            self.generation += 1;
        }

        fn samples(&self, batch: &Batch) -> Vec<(String, f64)> {
            let name = |series: SeriesIndex| {
                let bytes = &self.labels[&batch.series[series.0 as usize].id.0];
                Labels::from_bytes(bytes).unwrap_or_default().to_string()
            };
            batch.samples.iter().map(|s| (name(s.series), s.value)).collect()
        }
    }

    fn reader() -> BodyReader {
        let url = Url::parse("http://h/metrics").unwrap_or_else(|e| panic!("{e}"));
        BodyReader::new(TargetSpec::new("t", url, Labels::from_pairs([("job", "j")])))
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Lines by number; after them the body may break off in a syntax error, and the store may fail.
        Body {
            lines: Vec<u8>,
            broken: bool,
            stored: bool,
        },
        Renumber,
    }

    fn step() -> impl Strategy<Value = Step> {
        let lines = prop_oneof![
            prop::collection::vec(0u8..12, 0..16),
            (0u8..12, 0u8..12).prop_map(|(from, len)| (from..from.saturating_add(len)).collect()),
        ];
        prop_oneof![
            8 => (lines, prop::bool::weighted(0.15), prop::bool::weighted(0.85))
                .prop_map(|(lines, broken, stored)| Step::Body { lines, broken, stored }),
            1 => Just(Step::Renumber),
        ]
    }

    /// Even and odd spellings of a number lead to the same series.
    fn text(number: u8) -> String {
        match number % 4 {
            0 => format!("m{}", number / 4),
            1 => format!("m{}{{}}", number / 4),
            2 => format!("m{}{{a=\"1\",b=\"2\"}}", number / 4),
            _ => format!("m{}{{b=\"2\",a=\"1\"}}", number / 4),
        }
    }

    fn stored_name(number: u8) -> String {
        match number % 4 {
            0 | 1 => format!("m{}{{job=\"j\"}}", number / 4),
            _ => format!("m{}{{a=\"1\", b=\"2\", job=\"j\"}}", number / 4),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever bodies come in whatever order: the samples are those of the body, each under its own series, and exactly the
        /// series of the last stored good scrape that are missing now are marked as ended.
        #[test]
        fn the_cache_changes_nothing_but_the_cost(steps in prop::collection::vec(step(), 1..12)) {
            let (mut reader, mut ids) = (reader(), Ids::default());
            let mut live: BTreeSet<String> = BTreeSet::new();
            for (round, step) in steps.into_iter().enumerate() {
                let Step::Body { lines, broken, stored } = step else {
                    ids.renumber();
                    continue;
                };
                let mut body = String::new();
                for (at, number) in lines.iter().enumerate() {
                    let _ = writeln!(body, "{} {}", text(*number), round * 100 + at);
                }
                if broken {
                    body.push_str("not a line\n");
                }
                let (mut batch, result) = reader.read(Format::Text, body.as_bytes(), round as i64, ids.generation);
                prop_assert_eq!(result.is_err(), broken);
                ids.resolve(&mut batch);
                let now: BTreeSet<String> =
                    if broken { BTreeSet::new() } else { lines.iter().map(|n| stored_name(*n)).collect() };
                let mut want: Vec<(String, f64)> = lines
                    .iter()
                    .enumerate()
                    .filter(|_| !broken)
                    .map(|(at, n)| (stored_name(*n), (round * 100 + at) as f64))
                    .collect();
                let (stale, samples): (Vec<_>, Vec<_>) =
                    ids.samples(&batch).into_iter().partition(|(_, value)| is_stale(*value));
                want.sort_by(|a, b| a.1.total_cmp(&b.1));
                prop_assert_eq!(samples, want);
                let ended: Vec<String> = stale.into_iter().map(|(name, _)| name).collect();
                let unique: BTreeSet<String> = ended.iter().cloned().collect();
                prop_assert_eq!(ended.len(), unique.len(), "an end is marked once");
                prop_assert_eq!(unique, live.difference(&now).cloned().collect());
                if stored {
                    reader.stored(&mut batch);
                    live = now;
                }
            }
        }

        /// Points are counted alike, known or not, in whatever order the families come.
        #[test]
        fn roles_follow_the_family_above(orders in prop::collection::vec(prop::collection::vec(0usize..4, 1..6), 1..6)) {
            let families = [
                ("# TYPE c counter\nc_total 1\nc_created 2\n", [1, 0, 0, 0, 0]),
                ("# TYPE g gauge\ng 1\nstranger 1\n", [0, 1, 0, 0, 1]),
                ("# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n", [0, 0, 1, 0, 0]),
                ("# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 1\ns_count 1\n", [0, 0, 0, 1, 0]),
            ];
            let (mut reader, mut ids) = (reader(), Ids::default());
            for mut order in orders {
                order.dedup();
                let body: String = order.iter().map(|f| families[*f].0).collect();
                let mut want = [0u64; 5];
                for family in &order {
                    want.iter_mut().zip(families[*family].1).for_each(|(sum, n)| *sum += n);
                }
                reader.forget_draft();
                let mut batch = Batch::default();
                let mut draft = reader.cache.begin(&reader.spec, Some(Format::Text), 0);
                reader.report.push_series(&reader.spec, &mut batch);
                let (taken, failure) =
                    Intake::new(&reader.spec, &mut reader.cache, &mut draft, &mut batch, 0).run(Format::Text, body.as_bytes());
                prop_assert!(failure.is_none());
                let points = taken.points;
                let got = [points.counters, points.gauges, points.histograms, points.summaries, points.others];
                prop_assert_eq!(got, want, "{}", body);
                ids.resolve(&mut batch);
                reader.report.commit(&reader.spec, &batch);
                reader.cache.commit(&mut draft, &mut batch);
            }
        }
    }

    #[test]
    fn of_very_many_families_without_samples_few_are_kept() {
        let (mut reader, mut ids) = (reader(), Ids::default());
        let idle: String = (0..30_000).map(|i| format!("# TYPE idle{i} gauge\n# HELP idle{i} x\n")).collect();
        let body = format!("# TYPE a counter\na 1\n{idle}# TYPE b gauge\nb 2\n# TYPE c counter\nc 3\n");
        for round in 0..2 {
            let (mut batch, result) = reader.read(Format::Text, body.as_bytes(), round, 0);
            assert!(result.is_ok_and(|samples| samples == 3));
            ids.resolve(&mut batch);
            let known: Vec<_> = batch.families.iter().filter(|f| !f.name.starts_with("idle")).collect();
            assert!(known.iter().any(|f| f.name == "b" && f.metric_type == model::MetricType::Gauge), "{known:?}");
            assert!(batch.families.len() < 10_100, "{}", batch.families.len());
            for sample in &batch.samples {
                let family = batch.series[sample.series.0 as usize].family;
                let name = batch.labels(sample.series).unwrap_or_default().metric_name().to_owned();
                if name.len() == 1 {
                    assert_eq!(batch.families[family as usize].name, name);
                }
            }
            reader.stored(&mut batch);
        }
    }

    #[test]
    fn label_text_is_held_once_and_given_back() {
        let (mut reader, mut ids) = (reader(), Ids::default());
        let mut sizes = BTreeMap::new();
        for round in 0..50 {
            // All series are new each time: nothing of the rounds before may remain.
            let body: String = (0..100).map(|i| format!("m{{round=\"{round:03}\",i=\"{i:03}\"}} 1\n")).collect();
            let (mut batch, result) = reader.read(Format::Text, body.as_bytes(), round, 0);
            assert!(result.is_ok_and(|samples| samples == 100));
            ids.resolve(&mut batch);
            reader.stored(&mut batch);
            sizes.insert(round, reader.cache.len());
        }
        assert!(sizes.values().all(|len| *len == 100), "{sizes:?}");
    }
}
