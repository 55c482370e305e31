//! Asking a target over HTTP: settings, connections, negotiation, bodies.

mod accept;
mod body;
mod cloud;
mod connection;
mod fetch;
mod identity;
mod kept;
mod oauth2;
mod peer;
mod post;
mod settings;
mod token_answer;

pub(crate) use accept::format_of;
pub(crate) use body::{body_limit, inflate};
pub use cloud::{AzureCloud, AzureOptions, AzureWay, Environment, GoogleOptions, Sigv4Options};
pub(crate) use connection::Connection;
pub(crate) use fetch::{Fetch, FetchTrace, Fetched};
pub use oauth2::Oauth2Options;
pub use peer::TlsPeer;
pub use post::{Posted, Poster};
pub use settings::{Auth, HttpOptions, HttpSettings, HttpSettingsError, Secret, TlsOptions};
