//! What the store can prove: what came in and what became of it, by target and over time, and what was found damaged.

use model::{Counts, TimeRange};

use crate::accounts::{AccountReport, Durability};
use crate::store::Store;

/// The ledger of one store, told about a range of time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Integrity {
    /// Everything that ever came in, over all restarts.
    pub totals: Counts,
    /// Of it, what no account holds: it came before the accounts began, or its account is past the retention.
    pub elsewhere: Counts,
    /// Whether the totals add up, and all accounts together are the totals.
    pub balanced: bool,
    /// Accounts with something in the range, sorted by target, source and method.
    pub accounts: Vec<AccountReport>,
    /// Damage and failures, over all restarts.
    pub durability: Durability,
    /// Blocks and pieces of files that are kept aside.
    pub kept_aside: u64,
}

impl Store {
    /// Tells what the ledger knows about a range, for the accounts that `wanted` picks by target and source.
    ///
    /// **Cost** a look at every account; the writers wait only for a copy of the table.
    pub fn integrity(&self, range: TimeRange, wanted: impl Fn(&str, &str) -> bool) -> Integrity {
        let (totals, accounts) = {
            let applied = self.core.applied.lock();
            (applied.totals, applied.accounts())
        };
        let mut reports: Vec<AccountReport> = accounts
            .iter()
            .filter(|a| wanted(&a.target_id, &a.source_id))
            .filter_map(|account| account.report(range))
            .collect();
        reports.sort_by(|a, b| (&a.target_id, &a.source_id, a.method).cmp(&(&b.target_id, &b.source_id, b.method)));
        let mut durability = accounts.durability;
        durability.fsync_failures += u64::from(self.pipeline.has_failed());
        let balanced = totals.balances() && accounts.totals() == totals;
        Integrity {
            totals,
            balanced,
            elsewhere: accounts.elsewhere,
            accounts: reports,
            durability,
            kept_aside: self.kept_aside(),
        }
    }

    fn kept_aside(&self) -> u64 {
        let dir = &self.core.config.dir;
        let count = |path: std::path::PathBuf| self.core.fs.list(&path).map_or(0, |names| names.len() as u64);
        count(dir.join("damaged")) + count(dir.join("blocks").join("damaged"))
    }
}
