//! Prometheus' remote write, 1.0 and 2.0.
//!
//! Invariants: 1. the samples of a series go in order: all of them in one request at a time, and windows one after the
//! other; 2. a request that is refused as a whole is sent again in halves, so that one bad sample costs itself; 3. a place that
//! does not know version 2 (415, or success without its headers) gets version 1 from then on, and what it did not understand
//! once more.
//! Cost: labels are relabeled and written once for each series and epoch of the window.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use model::histogram::Histogram;
use model::relabel::{self, Rule};
use model::{Family, Labels, LabelsBuf, MetricType, Sample};
use parking_lot::Mutex;
use wire::remote_write::{SeriesEncoder, SeriesEncoderV2, SeriesMetadata, SymbolTable, render_labels};

use crate::http::{Courier, HttpSettings, Misunderstood, Parcel, Said};
use crate::run::{Again, Sink};
use crate::{Later, MakePost, SinkStats, Window};

/// Texts kept for version 2 before all are written down anew.
const SYMBOLS_MAX: usize = 2_000_000;

/// Which messages are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// `prometheus.WriteRequest`
    #[default]
    V1,
    /// `io.prometheus.write.v2.Request`
    V2,
}

/// Metadata beside the samples of version 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetadataSettings {
    /// Whether they are sent.
    pub send: bool,
    /// How often.
    pub every: Duration,
    /// Families of one request.
    pub families_max: usize,
}

/// Settings of a sink; the keys of `remote_write`.
#[derive(Clone, PartialEq, Debug)]
pub struct RemoteWriteSettings {
    /// Requests.
    pub http: HttpSettings,
    /// The version.
    pub protocol: Protocol,
    /// `write_relabel_configs`
    pub relabel: Vec<Rule>,
    /// `send_exemplars`
    pub exemplars: bool,
    /// `send_native_histograms`
    pub histograms: bool,
    /// `metadata_config`
    pub metadata: MetadataSettings,
    /// `sample_age_limit`, in milliseconds; 0 is none.
    pub age_max_ms: i64,
}

/// A series as it is sent; `None` where relabeling drops it.
enum Ready {
    V1(Vec<u8>),
    V2(Vec<u32>, SeriesMetadata),
}

/// One thing to send, of one series.
#[derive(Clone, Copy)]
enum Item<'w> {
    Sample(u32, Sample),
    Histogram(u32, i64, &'w [u8]),
    Exemplar(u32, &'w Labels, Sample),
}

impl Item<'_> {
    fn series(&self) -> u32 {
        match self {
            Item::Sample(series, _) | Item::Histogram(series, ..) | Item::Exemplar(series, ..) => *series,
        }
    }

    fn ts_ms(&self) -> i64 {
        match self {
            Item::Sample(_, sample) | Item::Exemplar(_, _, sample) => sample.ts_ms,
            Item::Histogram(_, ts_ms, _) => *ts_ms,
        }
    }

    fn is_row(&self) -> bool {
        !matches!(self, Item::Exemplar(..))
    }
}

/// What the server knows and the queue does not.
pub struct Surroundings {
    /// Labels that every series gets that does not have them.
    pub external_labels: Arc<dyn Fn() -> Vec<(String, String)> + Send + Sync>,
    /// All families known.
    pub families: Arc<dyn Fn() -> Vec<Family> + Send + Sync>,
    /// Milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// A place that takes remote write.
pub struct RemoteWrite {
    settings: RemoteWriteSettings,
    courier: Courier,
    around: Surroundings,
    epoch: u64,
    ready: Vec<Option<Ready>>,
    symbols: SymbolTable,
    /// Encoders that no request uses: each knows a number for every symbol.
    encoders: Mutex<Vec<SeriesEncoderV2>>,
    families: hashbrown::HashMap<String, Family>,
    families_at: Option<Instant>,
    metadata_sent: Option<Instant>,
}

impl RemoteWrite {
    /// Makes one; nothing is connected yet.
    pub fn new(
        settings: RemoteWriteSettings,
        make: MakePost,
        around: Surroundings,
        stats: Arc<SinkStats>,
    ) -> RemoteWrite {
        RemoteWrite {
            courier: Courier::new(settings.http.clone(), make, stats),
            settings,
            around,
            epoch: 0,
            ready: Vec::new(),
            symbols: SymbolTable::default(),
            encoders: Mutex::default(),
            families: hashbrown::HashMap::new(),
            families_at: None,
            metadata_sent: None,
        }
    }

    /// Brings the series that are new in a window into the form in which they are sent.
    fn prepare(&mut self, window: &Window) {
        // Exemplars bring texts that never come again.
        if self.epoch != window.epoch || self.symbols.len() > SYMBOLS_MAX {
            self.epoch = window.epoch;
            self.ready.clear();
            self.symbols = SymbolTable::default();
        }
        let new = window.series.get(self.ready.len()..).unwrap_or_default();
        if new.is_empty() {
            return;
        }
        if self.settings.protocol == Protocol::V2 && self.families_at.is_none_or(|at| at.elapsed().as_secs() >= 10) {
            self.families = (self.around.families)().into_iter().map(|f| (f.name.clone(), f)).collect();
            self.families_at = Some(Instant::now());
        }
        let external = (self.around.external_labels)();
        for series in new {
            let mut labels = LabelsBuf::from_labels(&series.labels);
            for (name, value) in &external {
                if labels.get(name).is_none() {
                    labels.set(name, value);
                }
            }
            let kept = relabel::apply(&self.settings.relabel, &mut labels);
            let labels = labels.to_labels();
            let ready = (kept && !labels.is_empty()).then(|| match self.settings.protocol {
                Protocol::V1 => Ready::V1(render_labels(labels.iter())),
                Protocol::V2 => {
                    let mut refs = Vec::new();
                    for (name, value) in labels.iter() {
                        refs.extend([self.symbols.number(name), self.symbols.number(value)]);
                    }
                    Ready::V2(refs, metadata_of(&self.families, &mut self.symbols, &series.labels, series.metric_type))
                }
            });
            self.ready.push(ready);
        }
    }

    /// Deals the window's rows out, each to the shard of its series, in order.
    fn deal<'w>(&self, window: &'w Window, shards: usize) -> Vec<Vec<Item<'w>>> {
        let mut dealt: Vec<Vec<Item<'w>>> = (0..shards).map(|_| Vec::new()).collect();
        let oldest_ms = match self.settings.age_max_ms {
            0 => i64::MIN,
            age_ms => (self.around.now_ms)().saturating_sub(age_ms),
        };
        let mut held_back = 0;
        let mut give = |series: u32, ts_ms: i64, item: Item<'w>| {
            let wanted = ts_ms >= oldest_ms && self.ready.get(series as usize).is_some_and(Option::is_some);
            match dealt.get_mut(window.shard_of(series, shards)) {
                Some(shard) if wanted => shard.push(item),
                _ => held_back += usize::from(item.is_row()),
            }
        };
        // In the order in which they were stored: a series ends with a stale marker, which is no histogram.
        let mut histograms = window.histograms.iter().peekable();
        let mut unwanted = 0;
        for at in 0..=window.rows.len() {
            while let Some(h) = histograms.next_if(|h| h.behind <= at) {
                match self.settings.histograms {
                    true => give(h.series, h.ts_ms, Item::Histogram(h.series, h.ts_ms, &h.bytes)),
                    false => unwanted += 1,
                }
            }
            if let Some(row) = window.rows.get(at) {
                give(row.series, row.ts_ms, Item::Sample(row.series, Sample { ts_ms: row.ts_ms, value: row.value }));
            }
        }
        for (series, labels, sample) in &window.exemplars {
            if self.settings.exemplars {
                give(*series, sample.ts_ms, Item::Exemplar(*series, labels, *sample));
            }
        }
        SinkStats::add(&self.courier.stats.filtered, held_back + unwanted);
        dealt
    }

    fn encode_v1(&self, items: &[Item<'_>]) -> Vec<u8> {
        let mut encoder = SeriesEncoder::default();
        for group in items.chunk_by(|a, b| a.series() == b.series()) {
            let series = group.first().map_or(0, Item::series);
            let Some(Some(Ready::V1(labels))) = self.ready.get(series as usize) else { continue };
            encoder.begin(labels);
            for item in group {
                match item {
                    Item::Sample(_, sample) => encoder.sample(*sample),
                    Item::Exemplar(_, labels, sample) => encoder.exemplar(&render_labels(labels.iter()), *sample),
                    Item::Histogram(_, ts_ms, bytes) => {
                        if let Some((histogram, _)) = Histogram::decode(bytes) {
                            encoder.histogram(*ts_ms, &histogram);
                        }
                    }
                }
            }
            encoder.end();
        }
        encoder.bytes().to_vec()
    }

    fn encode_v2(&self, items: &[Item<'_>]) -> Vec<u8> {
        let mut encoder = self.encoders.lock().pop().unwrap_or_default();
        encoder.clear();
        for group in items.chunk_by(|a, b| a.series() == b.series()) {
            let series = group.first().map_or(0, Item::series);
            let Some(Some(Ready::V2(refs, metadata))) = self.ready.get(series as usize) else { continue };
            encoder.begin(refs);
            for item in group {
                match item {
                    Item::Sample(_, sample) => encoder.sample(*sample),
                    // Its labels' texts have been numbered in `number_exemplars`.
                    Item::Exemplar(_, labels, sample) => {
                        let refs: Option<Vec<u32>> =
                            labels.iter().flat_map(|(n, v)| [self.symbols.find(n), self.symbols.find(v)]).collect();
                        if let Some(refs) = refs {
                            encoder.exemplar(&refs, *sample);
                        }
                    }
                    Item::Histogram(_, ts_ms, bytes) => {
                        if let Some((histogram, _)) = Histogram::decode(bytes) {
                            encoder.histogram(*ts_ms, &histogram);
                        }
                    }
                }
            }
            encoder.metadata(*metadata);
            encoder.end();
        }
        let request = encoder.finish(&self.symbols);
        self.encoders.lock().push(encoder);
        request
    }

    fn number_exemplars(&mut self, window: &Window) {
        if self.settings.protocol == Protocol::V2 && self.settings.exemplars {
            for (name, value) in window.exemplars.iter().flat_map(|(_, labels, _)| labels.iter()) {
                self.symbols.number(name);
                self.symbols.number(value);
            }
        }
    }

    /// Sends what one shard was dealt, one request after the other; gives what is left when the place does not know such
    /// requests.
    async fn send_shard<'w>(&self, shard: usize, items: Vec<Item<'w>>) -> Vec<Item<'w>> {
        let size = self.settings.http.samples_max.max(1);
        for (i, chunk) in items.chunks(size).enumerate() {
            let mut chunk = chunk.to_vec();
            // Within a series by time: places want it so, and late samples fare best in front.
            chunk.sort_by_key(|item| (item.series(), item.ts_ms()));
            if let Err((done, Misunderstood)) = self.courier.deliver(shard, &chunk, self).await {
                chunk.drain(..done);
                chunk.extend(items.chunks(size).skip(i + 1).flatten());
                return chunk;
            }
        }
        Vec::new()
    }

    /// Speaks version 1 from now on.
    fn fall_back(&mut self, window: &Window) {
        let sink = &self.settings.http.name;
        tracing::warn!(sink, "the place does not know remote write 2.0: it gets 1.0 until the next start or reload");
        self.settings.protocol = Protocol::V1;
        self.ready.clear();
        self.prepare(window);
    }

    /// Sends the families, when it is time; what is not taken waits for the next time.
    async fn send_metadata(&mut self) {
        let MetadataSettings { send, every, families_max } = self.settings.metadata;
        let due = self.metadata_sent.is_none_or(|at| at.elapsed() >= every);
        if !send || !due || self.settings.protocol == Protocol::V2 {
            return;
        }
        self.metadata_sent = Some(Instant::now());
        let families = (self.around.families)();
        let headers = Parcel::<Item<'_>>::headers(self);
        for chunk in families.chunks(families_max.max(1)) {
            let mut encoder = wire::remote_write::Encoder::default();
            chunk.iter().for_each(|family| encoder.add_family(family));
            let Ok(body) = wire::snappy::encode_block(&encoder.take()) else { continue };
            if let Err(text) = self.courier.try_once(&headers, body).await {
                tracing::debug!(sink = self.settings.http.name, "metadata were not taken: {text}");
                return;
            }
        }
    }
}

impl Parcel<Item<'_>> for RemoteWrite {
    fn encode(&self, items: &[Item<'_>]) -> Result<Vec<u8>, String> {
        let request = match self.settings.protocol {
            Protocol::V1 => self.encode_v1(items),
            Protocol::V2 => self.encode_v2(items),
        };
        wire::snappy::encode_block(&request).map_err(|error| error.to_string())
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let (kind, version) = match self.settings.protocol {
            Protocol::V1 => ("application/x-protobuf", "0.1.0"),
            Protocol::V2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        let snappy = ("content-encoding", "snappy".to_owned());
        let version = ("x-prometheus-remote-write-version", version.to_owned());
        vec![("content-type", kind.to_owned()), snappy, version]
    }

    fn is_whole(&self, said: &Said) -> bool {
        match said {
            Said::Refused { status: 413, .. } => true,
            Said::Refused { status: 400 | 422, written, .. } => written.is_none(),
            _ => false,
        }
    }

    fn is_foreign(&self, said: &Said) -> bool {
        self.settings.protocol == Protocol::V2 && matches!(said, Said::Refused { status: 415, .. })
    }

    fn taken(&self, items: &[Item<'_>], written: Option<u64>) -> Result<(), Misunderstood> {
        let rows = rows_in(items);
        // Old places find nothing that they know in the message, and say that all of it is well.
        if self.settings.protocol == Protocol::V2 && written.is_none() && rows > 0 {
            return Err(Misunderstood);
        }
        SinkStats::add(&self.courier.stats.sent, rows);
        SinkStats::add(&self.courier.stats.exemplars, items.len() - rows);
        Ok(())
    }

    fn refused(&self, items: &[Item<'_>], said: &Said) {
        if let Said::Refused { status, text, written } = said {
            let rows = rows_in(items);
            let written = usize::try_from(written.unwrap_or(0)).unwrap_or(0).min(rows);
            SinkStats::add(&self.courier.stats.sent, written);
            self.courier.refused(rows - written, *status, text);
        }
    }
}

fn rows_in(items: &[Item<'_>]) -> usize {
    items.iter().filter(|item| item.is_row()).count()
}

/// Finds what is known of a series' family.
fn metadata_of(
    families: &hashbrown::HashMap<String, Family>,
    symbols: &mut SymbolTable,
    labels: &Labels,
    metric_type: MetricType,
) -> SeriesMetadata {
    let name = labels.metric_name();
    let stems = ["", "_total", "_bucket", "_sum", "_count", "_info", "_created"];
    let found = stems.iter().find_map(|end| families.get(name.strip_suffix(end)?));
    let (help, unit) = found.map_or(("", ""), |family| (family.help.as_str(), family.unit.as_str()));
    SeriesMetadata { metric_type, help: symbols.number(help), unit: symbols.number(unit) }
}

impl Sink for RemoteWrite {
    fn deliver<'a>(&'a mut self, window: &'a Window) -> Later<'a, Result<(), Again>> {
        Box::pin(async move {
            self.prepare(window);
            self.number_exemplars(window);
            let shards = self.courier.shards_for(window.len());
            let mut dealt = self.deal(window, shards);
            while dealt.iter().any(|items| !items.is_empty()) {
                let this = &*self;
                let all = dealt.into_iter().enumerate().map(|(shard, items)| this.send_shard(shard, items));
                dealt = join_all(all).await;
                if dealt.iter().any(|items| !items.is_empty()) {
                    self.fall_back(window);
                }
            }
            self.send_metadata().await;
            Ok(())
        })
    }
}
