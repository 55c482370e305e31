//! Reading the configuration again: whole or not at all.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::jobs::Jobs;
use super::{Options, RunError, load};
use crate::access::Access;
use crate::alerting::{Groups, Notifier};
use crate::config::{Config, LoadError, Settings};
use crate::filtering::SourceFilters;
use crate::prom::elsewhere::{Elsewhere, ElsewhereSettings};
use crate::sinking::Sinking;

/// Knows the configuration in force and how to replace it.
pub struct Reloader {
    options: Options,
    started_with: Settings,
    in_force: InForce,
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    printed: ArcSwap<String>,
    last: Mutex<LastReload>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
}

/// The parts that follow the configuration.
pub struct InForce {
    pub access: Arc<Access>,
    pub jobs: Arc<Jobs>,
    pub groups: Arc<Groups>,
    pub notifier: Arc<Notifier>,
    pub sinking: Arc<Sinking>,
    pub elsewhere: Elsewhere,
    pub otlp: Arc<ArcSwap<wire::otlp::Options>>,
    pub external_labels: Arc<ArcSwap<Vec<(String, String)>>>,
    pub filters: Arc<SourceFilters>,
}

/// How the last reading went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastReload {
    /// Whether it was taken.
    pub ok: bool,
    /// When the configuration in force was read; milliseconds since 1970.
    pub taken_at_ms: i64,
    /// When it was tried last; milliseconds since 1970.
    pub tried_at_ms: i64,
}

impl Reloader {
    /// Starts with the settings that cannot change while the server runs.
    ///
    /// **Takes** `otlp`: where the options in force are put for whoever reads OTLP.
    pub fn new(
        options: Options,
        started_with: Settings,
        in_force: InForce,
        now: Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Reloader {
        let started_at_ms = now();
        let last = LastReload { ok: true, taken_at_ms: started_at_ms, tried_at_ms: started_at_ms };
        Reloader {
            options,
            started_with,
            in_force,
            now,
            printed: ArcSwap::default(),
            last: Mutex::new(last),
            reloading: tokio::sync::Mutex::default(),
        }
    }

    /// Reads the file again and puts it in force.
    ///
    /// **Errors** leave everything as it was.
    pub async fn reload(&self) -> Result<(), LoadError> {
        let _one = self.reloading.lock().await;
        let loaded = match load(&self.options).await {
            Ok(config) => self.admit(config).await,
            Err(error) => Err(error),
        };
        match loaded {
            Ok(config) => {
                self.apply(config).await;
                tracing::info!("configuration reloaded");
                Ok(())
            }
            Err(error) => {
                let tried_at_ms = (self.now)();
                let mut last = self.last.lock();
                *last = LastReload { ok: false, tried_at_ms, ..*last };
                drop(last);
                tracing::error!("configuration not reloaded, the one before stays in force: {error}");
                Err(match error {
                    RunError::Config(error) => error,
                    other => LoadError::Refused(vec![self.bug(&other)]),
                })
            }
        }
    }

    /// Puts who may come in in force, which is the only part that can be refused.
    async fn admit(&self, config: Config) -> Result<Config, RunError> {
        let (access, settings) = (self.in_force.access.clone(), config.settings.access.clone());
        let applied = tokio::task::spawn_blocking(move || access.apply(settings)).await.map_err(|_| RunError::Bug)?;
        applied.map(|()| config).map_err(RunError::Access)
    }

    fn bug(&self, error: &RunError) -> crate::config::Located {
        crate::config::Located {
            file: self.options.config_file.clone().unwrap_or_default(),
            at: crate::config::yaml::Place { line: 1, column: 1 },
            severity: crate::config::fields::Severity::Error,
            text: error.to_string(),
        }
    }

    /// Puts a configuration in force.
    pub async fn apply(&self, config: Config) {
        let settings = Settings::of(&config.settings, &self.options.overrides);
        if settings != self.started_with {
            tracing::warn!("settings under `quiver:` or `storage:` have changed; they count from the next start on");
        }
        let parts = &self.in_force;
        // Here somebody adds them up.
        let deltas = wire::otlp::Deltas::Mark;
        parts.otlp.store(Arc::new(wire::otlp::Options { deltas, ..config.otlp }));
        parts.external_labels.store(Arc::new(config.global.external_labels));
        parts.filters.configure(config.filters.sources);
        parts.jobs.set_collectors(config.collectors);
        parts.elsewhere.set(config.sinks.queries.as_ref().map(|queries| ElsewhereSettings {
            name: queries.name.clone(),
            url: queries.http.url.clone(),
            client: queries.http.client.clone(),
            timeout: queries.http.timeout,
            always: queries.always,
            kept_ms: self.started_with.retention_ms,
        }));
        parts.sinking.apply(config.sinks).await;
        parts.jobs.apply(config.jobs).await;
        parts.notifier.apply(config.alerting).await;
        parts.groups.apply(config.rules).await;
        self.printed.store(Arc::new(config.printed));
        let now_ms = (self.now)();
        *self.last.lock() = LastReload { ok: true, taken_at_ms: now_ms, tried_at_ms: now_ms };
    }

    /// Gives the configuration in force as YAML without secrets.
    pub fn printed(&self) -> String {
        String::clone(&self.printed.load())
    }

    /// Gives the `relabel_configs` of a job in force.
    pub fn relabel_rules(&self, job: &str) -> Option<Vec<model::relabel::Rule>> {
        self.in_force.jobs.relabel_rules(job)
    }

    /// Gives the external labels in force.
    pub fn external_labels(&self) -> Vec<(String, String)> {
        Vec::clone(&self.in_force.external_labels.load())
    }

    /// Tells how the last reading went.
    pub fn last(&self) -> LastReload {
        *self.last.lock()
    }
}
