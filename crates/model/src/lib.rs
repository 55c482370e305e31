//! The words every other room speaks: labels, samples, batches, matchers, and the three doors.
//!
//! Not here: I/O, async, JSON. A sample enters the store through [`Append`] and leaves it through [`Select`]; who takes
//! what is stored elsewhere stands at [`Follow`]. The doors live here so that no lower crate has to know a higher one.

pub mod aggregate;
mod batch;
pub mod coding;
mod doors;
mod duration;
mod family;
pub mod filter;
mod follow;
pub mod histogram;
pub mod histogram_sum;
mod labels;
mod mark;
mod matcher;
mod refusal;
pub mod relabel;
mod report;
mod sample;
pub mod secret_url;
mod slot;
mod target;

pub use batch::{Batch, BatchExemplar, BatchHistogram, BatchSample, BatchSeries, NO_FAMILY, SeriesIndex};
pub use doors::{
    Append, AppendDone, AppendError, Appended, Changed, LedgerPosition, NoRecall, Recall, Select, SelectError,
    SeriesReader, TimeRange,
};
pub use duration::{DurationError, format_duration_ms, parse_duration_ms};
pub use family::{Family, MetricType};
pub use follow::{Follow, Followed, Follower, SeriesLookUp};
pub use labels::{
    DuplicateLabel, Fingerprint, LABEL_NAME, Labels, LabelsBuf, SeriesId, is_legacy_label_name, is_legacy_metric_name,
};
pub use mark::StreamMark;
pub use matcher::{MatchOp, Matcher, MatcherError, REGEX_BYTES_MAX, compile_anchored};
pub use refusal::{Counts, Refusal, Verdict};
pub use report::{CollectionMethod, CollectionReport, Health, Origin, TypeCounts};
pub use sample::{STALE_NAN_BITS, Sample, Samples, is_stale, stale_nan};
pub use slot::{ScrapeSlot, SlotOutcome};
pub use target::TargetGroup;
