//! Set operations on sorted ids.

/// Keeps what is in both; the first set is best the smaller one.
pub fn intersect(mut small: Vec<u32>, large: &[u32]) -> Vec<u32> {
    let mut rest = large;
    small.retain(|id| {
        rest = &rest[gallop(rest, *id)..];
        rest.first() == Some(id)
    });
    small
}

/// Keeps what is not in the second set.
pub fn subtract(mut from: Vec<u32>, what: &[u32]) -> Vec<u32> {
    let mut rest = what;
    from.retain(|id| {
        rest = &rest[gallop(rest, *id)..];
        rest.first() != Some(id)
    });
    from
}

/// Joins sets.
pub fn union(mut sets: Vec<&[u32]>) -> Vec<u32> {
    if sets.len() == 1 {
        return sets.pop().map(<[u32]>::to_vec).unwrap_or_default();
    }
    let mut all: Vec<u32> = Vec::with_capacity(sets.iter().map(|s| s.len()).sum());
    sets.iter().for_each(|s| all.extend_from_slice(s));
    // Runs that are sorted already are what this sort is fastest on.
    all.sort();
    all.dedup();
    all
}

/// Finds the first position that is not below `id`, looking near the start first.
fn gallop(ids: &[u32], id: u32) -> usize {
    let mut step = 1;
    while ids.get(step - 1).is_some_and(|at| *at < id) {
        step *= 2;
    }
    let from = step / 2;
    let to = step.min(ids.len());
    from + ids.get(from..to).map_or(0, |part| part.partition_point(|at| *at < id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn they_are_set_operations(a: BTreeSet<u8>, b: BTreeSet<u8>) {
            let vec = |s: &BTreeSet<u8>| s.iter().map(|n| u32::from(*n)).collect::<Vec<_>>();
            prop_assert_eq!(intersect(vec(&a), &vec(&b)), vec(&(&a & &b)));
            prop_assert_eq!(subtract(vec(&a), &vec(&b)), vec(&(&a - &b)));
            prop_assert_eq!(union(vec![&vec(&a), &vec(&b)]), vec(&(&a | &b)));
        }
    }
}
