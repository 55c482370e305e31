//! One row of `metric_targets`, its checksum, and the requests that change it.
//!
//! Invariant: the checksum covers every column but itself, in a fixed order, with lengths.

use std::collections::BTreeMap;

use model::{CollectionMethod, Health};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::CatalogError;
use crate::time;

/// What a registration brings along.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NewTarget {
    /// Unique name, at most 100 characters.
    pub target_id: String,
    /// Where to scrape, or where to push; at most 500 characters.
    pub target_url: String,
    /// The specification's MetricSource; at most 50 characters.
    pub source_type: String,
    /// The scrape configuration, or `null` for a push.
    pub scrape_config: Value,
    /// Labels of all its series.
    pub labels: BTreeMap<String, String>,
    /// Whether to collect.
    pub enabled: bool,
    /// At most 100 characters.
    pub source_id: String,
    /// How its samples come.
    pub collection_method: CollectionMethod,
    /// Who registered it: `api`, or `discovery:<job>`.
    pub origin: String,
    /// The request in its normal form; two registrations are the same exactly when these are equal.
    pub request: Value,
    /// Filters as given.
    pub filters: Value,
    /// Retention as given.
    pub retention_policy: Value,
    /// Limits as given.
    pub limits: Value,
}

/// What PATCH may change; `None` leaves it as it is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TargetPatch {
    /// Collect or not.
    pub enabled: Option<bool>,
    /// The whole new label set.
    pub labels: Option<BTreeMap<String, String>>,
    /// The whole new filters.
    pub filters: Option<Value>,
    /// The whole new limits.
    pub limits: Option<Value>,
    /// The whole new retention.
    pub retention_policy: Option<Value>,
    /// Another MetricSource.
    pub source_type: Option<String>,
    /// The request in its normal form after the change.
    pub request: Option<Value>,
    /// A new address.
    pub target_url: Option<String>,
    /// The whole new scrape configuration.
    pub scrape_config: Option<Value>,
}

/// One registered target.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// Key of the row.
    pub id: Uuid,
    /// What was registered, with later changes.
    pub spec: NewTarget,
    /// State after the last collection.
    pub health: Health,
    /// Milliseconds since 1970.
    pub created_at_ms: i64,
    /// Rises with every change but health's.
    pub version: i64,
    /// Milliseconds since 1970.
    pub updated_at_ms: i64,
    /// Set while deleted but not forgotten.
    pub deleted_at_ms: Option<i64>,
    /// What the deletion was answered with.
    pub deletion: Option<Value>,
    /// Why this row cannot be trusted. Such a target is disabled; replacing or deleting it heals the row.
    pub damage: Option<String>,
}

impl Target {
    /// Makes the first version of a target.
    pub fn new(spec: NewTarget, now_ms: i64) -> Target {
        let health = if spec.enabled { Health::Unknown } else { Health::Disabled };
        Target {
            id: Uuid::new_v4(),
            spec,
            health,
            created_at_ms: now_ms,
            version: 1,
            updated_at_ms: now_ms,
            deleted_at_ms: None,
            deletion: None,
            damage: None,
        }
    }

    /// Tells whether it is not deleted.
    pub fn is_live(&self) -> bool {
        self.deleted_at_ms.is_none()
    }

    /// Gives the end of the time in which a deletion can be undone.
    pub fn undo_until_ms(&self) -> Option<i64> {
        self.deleted_at_ms.map(|t| t.saturating_add(crate::UNDO_WINDOW_MS))
    }

    /// Applies a patch and counts the version up.
    pub fn patched(&self, patch: &TargetPatch, now_ms: i64) -> Target {
        let mut next = self.clone();
        if let Some(enabled) = patch.enabled
            && enabled != next.spec.enabled
        {
            next.spec.enabled = enabled;
            next.health = if enabled { Health::Unknown } else { Health::Disabled };
        }
        if let Some(labels) = &patch.labels {
            next.spec.labels.clone_from(labels);
        }
        if let Some(filters) = &patch.filters {
            next.spec.filters.clone_from(filters);
        }
        if let Some(limits) = &patch.limits {
            next.spec.limits.clone_from(limits);
        }
        if let Some(retention_policy) = &patch.retention_policy {
            next.spec.retention_policy.clone_from(retention_policy);
        }
        if let Some(source_type) = &patch.source_type {
            next.spec.source_type.clone_from(source_type);
        }
        if let Some(request) = &patch.request {
            next.spec.request.clone_from(request);
        }
        if let Some(url) = &patch.target_url {
            next.spec.target_url.clone_from(url);
        }
        if let Some(config) = &patch.scrape_config {
            next.spec.scrape_config.clone_from(config);
        }
        next.version += 1;
        next.updated_at_ms = now_ms;
        next
    }

    /// Checks the lengths of the columns.
    pub fn check_lengths(&self) -> Result<(), CatalogError> {
        let columns = [
            ("target_id", &self.spec.target_id, 100),
            ("target_url", &self.spec.target_url, 500),
            ("source_type", &self.spec.source_type, 50),
            ("source_id", &self.spec.source_id, 100),
            ("origin", &self.spec.origin, 200),
        ];
        for (field, text, limit) in columns {
            let length = text.chars().count();
            if length > limit {
                return Err(CatalogError::TooLong { field, length, limit });
            }
        }
        Ok(())
    }

    /// Gives the columns as they are written.
    pub(crate) fn columns(&self) -> Columns {
        let spec = &self.spec;
        let mut columns = Columns {
            id: self.id.to_string(),
            target_id: spec.target_id.clone(),
            target_url: spec.target_url.clone(),
            source_type: spec.source_type.clone(),
            scrape_config: spec.scrape_config.to_string(),
            labels: Some(serde_json::to_string(&spec.labels).unwrap_or_default()),
            health_status: self.health.as_str().to_owned(),
            enabled: spec.enabled,
            created_at: time::to_text(self.created_at_ms),
            source_id: spec.source_id.clone(),
            collection_method: spec.collection_method.as_str().to_owned(),
            origin: spec.origin.clone(),
            request: Some(spec.request.to_string()),
            filters: Some(spec.filters.to_string()),
            retention_policy: Some(spec.retention_policy.to_string()),
            limits: Some(spec.limits.to_string()),
            version: self.version,
            updated_at: time::to_text(self.updated_at_ms),
            deleted_at: self.deleted_at_ms.map(time::to_text),
            deletion: self.deletion.as_ref().map(Value::to_string),
            checksum: 0,
        };
        columns.checksum = columns.compute_checksum();
        columns
    }
}

/// A row as the database holds it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Columns {
    pub id: String,
    pub target_id: String,
    pub target_url: String,
    pub source_type: String,
    pub scrape_config: String,
    pub labels: Option<String>,
    pub health_status: String,
    pub enabled: bool,
    pub created_at: String,
    pub source_id: String,
    pub collection_method: String,
    pub origin: String,
    pub request: Option<String>,
    pub filters: Option<String>,
    pub retention_policy: Option<String>,
    pub limits: Option<String>,
    pub version: i64,
    pub updated_at: String,
    pub deleted_at: Option<String>,
    pub deletion: Option<String>,
    pub checksum: i64,
}

impl Columns {
    /// Hashes all columns but the checksum.
    pub fn compute_checksum(&self) -> i64 {
        let mut bytes = Vec::with_capacity(512);
        let mut put = |text: Option<&str>| match text {
            None => bytes.push(0),
            Some(text) => {
                bytes.push(1);
                bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        };
        put(Some(&self.id));
        put(Some(&self.target_id));
        put(Some(&self.target_url));
        put(Some(&self.source_type));
        put(Some(&self.scrape_config));
        put(self.labels.as_deref());
        put(Some(&self.health_status));
        put(Some(if self.enabled { "1" } else { "0" }));
        put(Some(&self.created_at));
        put(Some(&self.source_id));
        put(Some(&self.collection_method));
        put(Some(&self.origin));
        put(self.request.as_deref());
        put(self.filters.as_deref());
        put(self.retention_policy.as_deref());
        put(self.limits.as_deref());
        put(Some(&self.version.to_string()));
        put(Some(&self.updated_at));
        put(self.deleted_at.as_deref());
        put(self.deletion.as_deref());
        xxh3_64(&bytes) as i64
    }

    /// Tells whether two rows say the same but for the state of health.
    pub fn same_but_health(&self, other: &Columns) -> bool {
        let plain = |c: &Columns| Columns { health_status: String::new(), checksum: 0, ..c.clone() };
        plain(self) == plain(other)
    }

    /// Tells whether the checksum fits.
    pub fn is_sound(&self) -> bool {
        self.compute_checksum() == self.checksum
    }

    /// Gives the target; a row that is not sound comes back disabled, with the reason.
    pub fn into_target(self) -> Target {
        let expected = self.compute_checksum();
        let mut damage = (expected != self.checksum).then(|| {
            format!("catalog row \"{}\": checksum {:016x}, computed {:016x}", self.target_id, self.checksum, expected)
        });
        let mut json = |name: &str, text: Option<&str>| match text.map(serde_json::from_str::<Value>) {
            None => Value::Null,
            Some(Ok(value)) => value,
            Some(Err(e)) => {
                damage.get_or_insert_with(|| format!("catalog row \"{}\": {name}: {e}", self.target_id));
                Value::Null
            }
        };
        let scrape_config = json("scrape_config", Some(&self.scrape_config));
        let labels = json("labels", self.labels.as_deref());
        let request = json("request", self.request.as_deref());
        let filters = json("filters", self.filters.as_deref());
        let retention_policy = json("retention_policy", self.retention_policy.as_deref());
        let limits = json("limits", self.limits.as_deref());
        let deletion = self.deletion.as_deref().map(|text| json("deletion", Some(text)));
        let sound = damage.is_none();
        let enabled = self.enabled && sound;
        let health = Health::ALL.into_iter().find(|h| h.as_str() == self.health_status).unwrap_or_default();
        let method = CollectionMethod::ALL.into_iter().find(|m| m.as_str() == self.collection_method);
        Target {
            id: Uuid::parse_str(&self.id).unwrap_or_default(),
            spec: NewTarget {
                target_id: self.target_id,
                target_url: self.target_url,
                source_type: self.source_type,
                scrape_config,
                labels: serde_json::from_value(labels).unwrap_or_default(),
                enabled,
                source_id: self.source_id,
                collection_method: method.unwrap_or_default(),
                origin: self.origin,
                request,
                filters,
                retention_policy,
                limits,
            },
            health: if enabled { health } else { Health::Disabled },
            created_at_ms: time::from_text(&self.created_at).unwrap_or_default(),
            version: self.version,
            updated_at_ms: time::from_text(&self.updated_at).unwrap_or_default(),
            deleted_at_ms: self.deleted_at.as_deref().map(|t| time::from_text(t).unwrap_or_default()),
            deletion,
            damage,
        }
    }
}
