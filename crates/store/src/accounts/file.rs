//! The accounts on disk: `accounts.1` and `accounts.2`, each replaced in one step, one after the other.
//!
//! Invariant: written before the ledger, so that a start finds accounts that are at least as new. The copy with the
//! higher seq counts; a start that finds neither begins anew with what the ledger says.

use std::io;
use std::path::Path;

use model::{CollectionMethod, Counts, Refusal};
use sys::Fs;

use super::buckets::{Bucket, Buckets, LEVELS};
use super::slots::{Hole, HoleCause, SlotCounts, SlotTrack};
use super::{ACCOUNTS_MAX, Account, Accounts, Durability};
use crate::coding::{Cursor, Malformed, open_sealed, put_bytes, put_signed, put_varint, write_sealed};

const NAMES: [&str; 2] = ["accounts.1", "accounts.2"];
const VERSION: u8 = 1;

/// Bits of a set of counts that are not the plain case.
const PLAIN: u8 = 0;
const FULL: u8 = 1;

impl Accounts {
    /// Reads the newer of the copies that check, `None` when there is none; the sentences tell of those that do not.
    pub fn load(fs: &dyn Fs, dir: &Path) -> io::Result<(Option<Accounts>, Vec<String>)> {
        let (mut best, mut damaged): (Option<Accounts>, _) = (None, Vec::new());
        for name in NAMES {
            let path = dir.join(name);
            if !fs.exists(&path) {
                continue;
            }
            match open_sealed(&fs.read(&path)?).map(Accounts::decode) {
                Some(Ok(accounts)) if best.as_ref().is_none_or(|b| b.seq <= accounts.seq) => best = Some(accounts),
                Some(Ok(_)) => {}
                _ => damaged.push(format!("{}: the checksum disagrees; the other copy is used", path.display())),
            }
        }
        Ok((best, damaged))
    }

    /// Makes them durable, both copies.
    pub fn store(&self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        let body = self.encode();
        NAMES.iter().try_for_each(|name| write_sealed(fs, &dir.join(name), &body))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.seq);
        put_counts(&mut out, &self.elsewhere);
        let figures = figures(&self.durability);
        put_varint(&mut out, figures.len() as u64);
        figures.iter().for_each(|n| put_varint(&mut out, *n));
        put_varint(&mut out, self.iter().count() as u64);
        self.iter().for_each(|account| put_account(&mut out, account));
        out
    }

    fn decode(body: &[u8]) -> Result<Accounts, Malformed> {
        let mut cursor = Cursor::new(body);
        if cursor.u8()? != VERSION {
            return Err(Malformed);
        }
        let (seq, elsewhere) = (cursor.varint()?, get_counts(&mut cursor)?);
        let mut accounts = Accounts { seq, elsewhere, ..Accounts::default() };
        let mut read = Vec::new();
        for _ in 0..cursor.count()? {
            read.push(cursor.varint()?);
        }
        accounts.durability = from_figures(&read);
        let count = cursor.count()?;
        // One for each method may stand above the limit.
        if count > ACCOUNTS_MAX + CollectionMethod::ALL.len() {
            return Err(Malformed);
        }
        for _ in 0..count {
            accounts.insert(get_account(&mut cursor)?);
        }
        Ok(accounts)
    }
}

/// New ones go to the end.
fn figures(d: &Durability) -> [u64; 8] {
    [
        d.records_torn,
        d.records_damaged,
        d.samples_orphaned,
        d.files_damaged,
        d.fsync_failures,
        d.stretches_damaged,
        d.files_repaired,
        d.transfers_failed,
    ]
}

fn from_figures(read: &[u64]) -> Durability {
    let at = |i: usize| read.get(i).copied().unwrap_or(0);
    Durability {
        records_torn: at(0),
        records_damaged: at(1),
        samples_orphaned: at(2),
        files_damaged: at(3),
        fsync_failures: at(4),
        stretches_damaged: at(5),
        files_repaired: at(6),
        transfers_failed: at(7),
    }
}

fn put_counts(out: &mut Vec<u8>, counts: &Counts) {
    let plain = counts.received == counts.stored && counts.balances();
    out.push(if plain { PLAIN } else { FULL });
    put_varint(out, counts.received);
    if !plain {
        for n in
            [counts.stored, counts.duplicates, counts.filtered, Refusal::COUNT as u64].iter().chain(&counts.refused)
        {
            put_varint(out, *n);
        }
    }
}

fn get_counts(cursor: &mut Cursor) -> Result<Counts, Malformed> {
    let plain = cursor.u8()? == PLAIN;
    let received = cursor.varint()?;
    if plain {
        return Ok(Counts { received, stored: received, ..Counts::default() });
    }
    let mut counts = Counts {
        received,
        stored: cursor.varint()?,
        duplicates: cursor.varint()?,
        filtered: cursor.varint()?,
        ..Counts::default()
    };
    for index in 0..cursor.count()? {
        let n = cursor.varint()?;
        // A reason that is not known here still counts.
        counts.refused[index.min(Refusal::COUNT - 1)] += n;
    }
    Ok(counts)
}

fn put_slots(out: &mut Vec<u8>, slots: &SlotCounts) {
    let plain = SlotCounts { expected: slots.stored, stored: slots.stored, ..SlotCounts::default() } == *slots;
    out.push(if plain { PLAIN } else { FULL });
    put_varint(out, slots.stored);
    if !plain {
        for n in [slots.expected, slots.doubled, HoleCause::COUNT as u64].iter().chain(&slots.missing) {
            put_varint(out, *n);
        }
    }
}

fn get_slots(cursor: &mut Cursor) -> Result<SlotCounts, Malformed> {
    let plain = cursor.u8()? == PLAIN;
    let stored = cursor.varint()?;
    if plain {
        return Ok(SlotCounts { expected: stored, stored, ..SlotCounts::default() });
    }
    let mut slots =
        SlotCounts { expected: cursor.varint()?, stored, doubled: cursor.varint()?, ..SlotCounts::default() };
    for index in 0..cursor.count()? {
        slots.missing[index.min(HoleCause::COUNT - 1)] += cursor.varint()?;
    }
    Ok(slots)
}

fn put_account(out: &mut Vec<u8>, account: &Account) {
    put_bytes(out, account.target_id.as_bytes());
    put_bytes(out, account.source_id.as_bytes());
    out.push(account.method as u8);
    put_counts(out, &account.totals);
    put_varint(out, account.batches);
    put_slots(out, &account.slots);
    put_buckets(out, &account.buckets);
    let track = &account.track;
    out.push(u8::from(track.last.is_some()) | u8::from(track.ended) << 1);
    if let Some((planned_ms, interval_ms)) = track.last {
        put_signed(out, planned_ms);
        put_varint(out, interval_ms);
    }
    put_varint(out, track.epoch);
    put_varint(out, account.holes.len() as u64);
    for hole in &account.holes {
        put_signed(out, hole.from_ms);
        put_signed(out, hole.to_ms);
        put_varint(out, hole.slots);
        out.push(hole.cause as u8);
    }
}

fn get_account(cursor: &mut Cursor) -> Result<Account, Malformed> {
    let mut account = Account {
        target_id: cursor.string()?,
        source_id: cursor.string()?,
        method: CollectionMethod::ALL.get(usize::from(cursor.u8()?)).copied().ok_or(Malformed)?,
        totals: get_counts(cursor)?,
        batches: cursor.varint()?,
        slots: get_slots(cursor)?,
        buckets: get_buckets(cursor)?,
        ..Account::default()
    };
    let flags = cursor.u8()?;
    let last = if flags & 1 != 0 { Some((cursor.signed()?, cursor.varint()?)) } else { None };
    account.track = SlotTrack { last, epoch: cursor.varint()?, ended: flags & 2 != 0 };
    for _ in 0..cursor.count()? {
        let (from_ms, to_ms, slots) = (cursor.signed()?, cursor.signed()?, cursor.varint()?);
        let cause = HoleCause::ALL.get(usize::from(cursor.u8()?)).copied().unwrap_or(HoleCause::Unknown);
        account.holes.push_back(Hole { from_ms, to_ms, slots, cause });
    }
    Ok(account)
}

fn put_buckets(out: &mut Vec<u8>, buckets: &Buckets) {
    put_signed(out, buckets.newest_ms);
    for level in &buckets.levels {
        put_varint(out, level.len() as u64);
        let mut last_ms = 0i64;
        for bucket in level {
            put_signed(out, bucket.start_ms.wrapping_sub(last_ms));
            last_ms = bucket.start_ms;
            put_counts(out, &bucket.counts());
            put_slots(out, &bucket.slots());
        }
    }
}

fn get_buckets(cursor: &mut Cursor) -> Result<Buckets, Malformed> {
    let mut buckets = Buckets { newest_ms: cursor.signed()?, ..Buckets::default() };
    for level in 0..LEVELS.len() {
        let mut last_ms = 0i64;
        for _ in 0..cursor.count()? {
            last_ms = last_ms.wrapping_add(cursor.signed()?);
            let mut bucket = Bucket::starting(last_ms);
            bucket.add(&get_counts(cursor)?, &get_slots(cursor)?);
            buckets.levels[level].push_back(bucket);
        }
    }
    Ok(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Origin, ScrapeSlot, SlotOutcome};
    use proptest::prelude::*;
    use sys::SimFs;

    fn some_accounts() -> Accounts {
        let mut accounts = Accounts { seq: 77, ..Accounts::default() };
        accounts.elsewhere.received = 3;
        accounts.elsewhere.refused[2] = 3;
        accounts.durability = from_figures(&[1, 2, 3, 4, 5, 6, 7, 8]);
        for n in 0..50i64 {
            let method = CollectionMethod::ALL[n as usize % 2];
            let target_id = format!("t{}", n % 5);
            let at = 1_700_000_000_000 + n * 3_000_000;
            let origin = Origin { target_id, source_id: "s".into(), method, received_at_ms: at };
            let outcome = SlotOutcome::ALL[n as usize % 4];
            let slot = ScrapeSlot { planned_ms: at, interval_ms: 1_000_000, outcome, skipped: 1, refused: 0 };
            let counts = Counts { received: 5, stored: 4, duplicates: 1, ..Counts::default() };
            accounts.add(&origin, Some(&slot), &counts, n as u64 / 10);
        }
        accounts
    }

    fn sorted(accounts: &Accounts) -> Vec<Account> {
        let mut all: Vec<Account> = accounts.iter().map(|a| (**a).clone()).collect();
        all.sort_by(|a, b| (&a.target_id, a.method).cmp(&(&b.target_id, b.method)));
        all
    }

    #[test]
    fn accounts_come_back_and_one_broken_copy_is_survived() {
        let (fs, dir) = (SimFs::seeded(1), Path::new("/d"));
        fs.create_dir_all(dir).unwrap();
        assert_eq!(Accounts::load(&fs, dir).unwrap().0.map(|a| a.seq), None);
        let accounts = some_accounts();
        accounts.store(&fs, dir).unwrap();
        for name in NAMES {
            let len = fs.read(&dir.join(name)).unwrap().len();
            for at in (0..len).step_by(7) {
                fs.damage(&dir.join(name), |b| b[at] ^= 0x10).unwrap();
                let (back, damaged) = Accounts::load(&fs, dir).unwrap();
                let back = back.unwrap();
                assert_eq!((sorted(&back), damaged.len()), (sorted(&accounts), 1));
                assert_eq!((back.seq, back.elsewhere, back.durability), (77, accounts.elsewhere, accounts.durability));
                fs.damage(&dir.join(name), |b| b[at] ^= 0x10).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(mut bytes: Vec<u8>) {
            bytes.insert(0, VERSION);
            let _ = Accounts::decode(&bytes);
        }
    }
}
