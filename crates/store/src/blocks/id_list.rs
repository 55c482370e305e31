//! A sorted list of series numbers as bytes.
//!
//! Series are sorted by labels, so that those of one name stand side by side, and a label that all have lists all:
//! runs of neighbours cost next to nothing. A number is the difference to the one before (varint; before the first
//! stands -1); three or more neighbours are a 0 and how many.

use crate::coding::{Cursor, Malformed, put_varint};

/// Shorter runs take no more bytes as differences.
const RUN_MIN: usize = 3;

/// Appends a list; the numbers rise strictly.
pub fn put_list(out: &mut Vec<u8>, ids: &[u32]) {
    let mut last = -1i64;
    let mut rest = ids;
    while let Some(first) = rest.first() {
        let run = rest.iter().zip(last + 1..).take_while(|(id, next)| i64::from(**id) == *next).count();
        let taken = if run >= RUN_MIN {
            put_varint(out, 0);
            put_varint(out, run as u64);
            run
        } else {
            put_varint(out, (i64::from(*first) - last) as u64);
            1
        };
        last = rest.get(taken - 1).map_or(last, |id| i64::from(*id));
        rest = rest.get(taken..).unwrap_or_default();
    }
}

/// Reads a list of `count` numbers.
pub fn read_list(bytes: &[u8], count: usize) -> Result<Vec<u32>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    // A run of a few bytes may stand for many: room is made for what the caller's table says, within reason.
    let mut ids = Vec::with_capacity(count.min(bytes.len().saturating_mul(64)));
    let mut next = 0u32;
    while ids.len() < count {
        match cursor.varint()? {
            0 => {
                let run = usize::try_from(cursor.varint()?).map_err(|_| Malformed)?;
                if run == 0 || run > count - ids.len() {
                    return Err(Malformed);
                }
                let end = u32::try_from(run).ok().and_then(|run| next.checked_add(run)).ok_or(Malformed)?;
                ids.extend(next..end);
                next = end;
            }
            gap => {
                let id = u32::try_from(gap - 1).ok().and_then(|skip| next.checked_add(skip)).ok_or(Malformed)?;
                ids.push(id);
                next = id.checked_add(1).ok_or(Malformed)?;
            }
        }
    }
    if cursor.is_at_end() { Ok(ids) } else { Err(Malformed) }
}

/// Reads a list of the first format: differences alone, before the first stands 0.
pub fn read_first_list(bytes: &[u8], count: usize) -> Result<Vec<u32>, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let mut ids = Vec::with_capacity(count.min(bytes.len()));
    let mut last = 0u32;
    for _ in 0..count {
        let gap = u32::try_from(cursor.varint()?).map_err(|_| Malformed)?;
        last = last.checked_add(gap).ok_or(Malformed)?;
        ids.push(last);
    }
    if cursor.is_at_end() { Ok(ids) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_list_comes_back(ids in prop::collection::btree_set(prop_oneof![0u32..40, 0u32..100_000, Just(u32::MAX - 1)], 0..200)) {
            let ids: Vec<u32> = ids.into_iter().collect();
            let mut bytes = Vec::new();
            put_list(&mut bytes, &ids);
            prop_assert_eq!(read_list(&bytes, ids.len()), Ok(ids.clone()));
            prop_assert_eq!(read_list(&bytes, ids.len() + 1), Err(Malformed));
        }

        #[test]
        fn any_bytes_end(bytes: Vec<u8>, count in 0usize..100_000) {
            for read in [read_list, read_first_list] {
                if let Ok(ids) = read(&bytes, count) {
                    prop_assert_eq!(ids.len(), count);
                }
            }
        }
    }

    #[test]
    fn a_label_that_all_series_have_takes_a_few_bytes() {
        let mut bytes = Vec::new();
        put_list(&mut bytes, &(0..100_000).collect::<Vec<_>>());
        assert!(bytes.len() < 6, "{}", bytes.len());
    }
}
