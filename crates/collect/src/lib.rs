//! Asks targets for their metrics and hands what they say to the store.
//!
//! Owns: the scheduler, the HTTP client, the scrape cache, staleness, limits, and the reports of collections.
//! Not here: storage (seen only as [`model::Append`]), where targets come from, JSON.
//! Start reading at [`Collector`]; one scrape from end to end is `scrape.rs`.

mod address;
mod cache;
mod collector;
mod draft;
mod filter_counts;
mod filtering;
mod gates;
mod gather;
mod http;
mod intake;
mod job;
mod outcome;
mod reader;
pub mod report;
mod report_series;
mod retire;
mod rules;
mod schedule;
mod scrape;
mod slot;
mod spare;
mod sums;
mod table;
mod target;

pub use address::{AddressPolicy, Cidr, ForbiddenAddress};
pub use collector::Collector;
pub use filter_counts::{FilterCounts, OfSource};
pub use filtering::{Explained, FilterEffects, explain};
pub use gather::{Gather, Gathering};
pub use http::{
    Auth, AzureCloud, AzureOptions, AzureWay, Environment, GoogleOptions, HttpOptions, HttpSettings, HttpSettingsError,
    Oauth2Options, Posted, Poster, Secret, Sigv4Options, TlsOptions, TlsPeer,
};
pub use job::{DropReason, DroppedTarget, ScrapeJob, build_targets};
pub use outcome::{
    IgnoreReports, LabelCardinality, Observe, ScrapeError, ScrapeErrorKind, ScrapeOutcome, TargetStatus,
};
pub use reader::BodyReader;
pub use sums::{BYTES_MAX as SUMS_BYTES_MAX, OwnSums, Resume, Sums, Turn};
pub use target::{OnExceed, Protocol, ScrapeLimits, TargetOrigin, TargetSpec};
