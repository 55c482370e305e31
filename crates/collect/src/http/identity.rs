//! Who we are where that has to be fetched first: tokens, and keys that sign.

use std::time::Duration;

use http::StatusCode;

use super::cloud::{Aws, Azure, Environment, Google};
use super::oauth2::TokenSource;
use super::settings::{Auth, HttpSettingsError};
use super::token_answer::failed;
use crate::address::AddressPolicy;
use crate::outcome::ScrapeError;

/// One of them.
pub(super) enum Identity {
    Oauth2(TokenSource),
    Google(Google),
    Azure(Azure),
    Aws(Aws),
}

impl Identity {
    /// Makes what goes with an authentication; `None` where nothing is fetched.
    pub(super) fn of(auth: &Auth, environment: &Environment) -> Result<Option<Identity>, HttpSettingsError> {
        Ok(match auth {
            Auth::Oauth2(options) => Some(Identity::Oauth2(TokenSource::new(options)?)),
            Auth::Google(options) => Some(Identity::Google(Google::new(options, environment)?)),
            Auth::Azure(options) => Some(Identity::Azure(Azure::new(options, environment)?)),
            Auth::Sigv4(options) => Some(Identity::Aws(Aws::new(options, environment)?)),
            Auth::None | Auth::Basic { .. } | Auth::Bearer { .. } | Auth::ApiKey { .. } => None,
        })
    }

    /// Gives a token that is still good.
    ///
    /// **Takes** the policy for addresses that the giver of the credentials chose.
    pub(super) async fn bearer(&self, policy: &AddressPolicy, timeout: Duration) -> Result<String, ScrapeError> {
        match self {
            Identity::Oauth2(tokens) => tokens.token(policy, timeout).await,
            Identity::Google(google) => google.token(policy, timeout).await,
            Identity::Azure(azure) => azure.token(timeout).await,
            Identity::Aws(_) => Err(failed("requests to AWS are signed, there is no token")),
        }
    }

    pub(super) fn signer(&self) -> Option<&Aws> {
        match self {
            Identity::Aws(aws) => Some(aws),
            _ => None,
        }
    }

    /// Forgets what was not accepted.
    pub(super) fn judged(&self, status: StatusCode) {
        match (self, status) {
            (Identity::Oauth2(tokens), StatusCode::UNAUTHORIZED) => tokens.forget(),
            (Identity::Google(google), StatusCode::UNAUTHORIZED) => google.forget(),
            (Identity::Azure(azure), StatusCode::UNAUTHORIZED) => azure.forget(),
            // AWS says 403 of keys that have ended.
            (Identity::Aws(aws), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => aws.forget(),
            _ => {}
        }
    }
}
