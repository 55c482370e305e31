//! Who we are at AWS, Google and Microsoft: keys that sign each request, or tokens; from what is configured, or from where a
//! program that runs there finds them, as the providers' own libraries do.
//!
//! Addresses of the providers, and those that variables of the environment name, are the operator's: no policy of targets is
//! asked. The one address that may come with a credential (`token_uri` of Google's files) is under the policy of the target.

mod aws;
mod azure;
mod environment;
mod google;
mod issuer;
mod profile;
mod sigv4;
#[cfg(test)]
mod tests;

pub(super) use aws::Aws;
pub use aws::Sigv4Options;
pub(super) use azure::Azure;
pub use azure::{AzureCloud, AzureOptions, AzureWay};
pub use environment::Environment;
pub(super) use google::Google;
pub use google::GoogleOptions;
