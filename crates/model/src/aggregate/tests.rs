use proptest::prelude::*;

use super::*;

fn labels() -> Labels {
    Labels::from_pairs([("__name__", "requests_total")])
}

fn nothing(_: &Labels) -> Option<(i64, f64)> {
    None
}

/// One collection: children by number, each with its value.
fn collect(sums: &mut Aggregator, values: &[(u64, f64)], at_ms: i64, how: How, resume: Resume<'_>) -> f64 {
    sums.begin(Coming::WHOLE);
    sums.next_step(at_ms);
    for (key, value) in values {
        let child = sums.child(*key, &labels(), how, at_ms, resume).unwrap_or_else(|| panic!("there is room"));
        sums.add(child, *value);
    }
    let totals = sums.totals();
    sums.commit();
    match totals.first() {
        Some(Sum { total: Total::Float(value), at_ms: at, .. }) if *at == at_ms => *value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn resets_and_vanished_children_never_take_anything_away() {
    let mut sums = Aggregator::default();
    let mut step = |values: &[(u64, f64)], at| collect(&mut sums, values, at, How::Cumulative, &nothing);
    assert_eq!(step(&[(1, 10.0), (2, 5.0)], 1), 15.0);
    assert_eq!(step(&[(1, 12.0), (2, 2.0)], 2), 19.0, "2 began again");
    assert_eq!(step(&[(1, 13.0)], 3), 20.0, "2 is gone, what it gave stays");
    assert_eq!(step(&[(1, 13.0), (2, 4.0), (3, 1.0)], 4), 23.0, "2 comes back and goes on, 3 is new");
}

#[test]
fn what_is_not_stored_does_not_count() {
    let mut sums = Aggregator::default();
    collect(&mut sums, &[(1, 10.0)], 1, How::Cumulative, &nothing);
    sums.begin(Coming::WHOLE);
    sums.add(Child(0), 15.0);
    assert_eq!(sums.totals()[0].total, Total::Float(15.0));
    assert_eq!(collect(&mut sums, &[(1, 16.0)], 3, How::Cumulative, &nothing), 16.0);
}

#[test]
fn a_start_goes_on_from_older_bytes_and_the_store_is_the_floor() {
    let mut sums = Aggregator::default();
    collect(&mut sums, &[(1, 100.0), (2, 50.0)], 1, How::Cumulative, &nothing);
    collect(&mut sums, &[(1, 0.0), (2, 50.0)], 2, How::Cumulative, &nothing);
    let mut bytes = Vec::new();
    sums.encode(&mut bytes);
    // Stored, but not in the bytes.
    let stored = collect(&mut sums, &[(1, 7.0), (2, 60.0)], 3, How::Cumulative, &nothing);
    assert_eq!(stored, 167.0);
    let mut again = Aggregator::decode(&bytes).unwrap_or_else(|| panic!("they read back"));
    let resume = |_: &Labels| Some((3, stored));
    assert_eq!(collect(&mut again, &[(1, 9.0), (2, 60.0)], 4, How::Cumulative, &resume), 169.0);
    // Without bytes nothing is known of the children, but the sum does not go down.
    let mut lost = Aggregator::default();
    assert_eq!(collect(&mut lost, &[(1, 9.0), (2, 60.0)], 4, How::Cumulative, &resume), 167.0);
    assert_eq!(collect(&mut lost, &[(1, 10.0), (2, 60.0)], 5, How::Cumulative, &resume), 168.0);
    assert!(Aggregator::decode(&bytes[..bytes.len() - 1]).is_none());
}

#[test]
fn gauges_are_added_or_else() {
    for (function, wanted) in [(Function::Sum, 6.0), (Function::Avg, 2.0), (Function::Max, 3.0), (Function::Min, 1.0)] {
        let mut sums = Aggregator::default();
        let how = How::Gauge(function);
        assert_eq!(collect(&mut sums, &[(1, 1.0), (2, 3.0), (3, 2.0)], 1, how, &nothing), wanted);
        assert_eq!(collect(&mut sums, &[(2, 3.0)], 2, how, &nothing), 3.0, "what is gone does not count");
    }
}

#[test]
fn histograms_are_merged_and_resets_keep_what_was_there() {
    let one = |schema: i32, count: f64| {
        Arc::new(Histogram {
            schema,
            count,
            sum: count,
            positive_spans: vec![crate::histogram::BucketSpan { offset: 1, length: 1 }],
            positive: vec![count],
            ..Histogram::default()
        })
    };
    let mut sums = Aggregator::default();
    let mut step = |values: &[(u64, Arc<Histogram>)], at| {
        sums.begin(Coming::WHOLE);
        sums.next_step(at);
        for (key, histogram) in values {
            let child = sums.child(*key, &labels(), How::Histogram, at, &nothing).unwrap_or_else(|| panic!("room"));
            sums.add_histogram(child, histogram.clone());
        }
        let total = sums.totals().remove(0).total;
        sums.commit();
        match total {
            Total::Histogram(h) => (h.schema, h.count, h.positive.iter().sum::<f64>()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(step(&[(1, one(1, 4.0)), (2, one(0, 2.0))], 1), (0, 6.0, 6.0));
    assert_eq!(step(&[(1, one(1, 1.0)), (2, one(0, 3.0))], 2), (0, 8.0, 8.0), "1 began again");
    assert_eq!(step(&[(1, one(1, 2.0))], 3), (0, 9.0, 9.0), "2 is gone");
    let mut bytes = Vec::new();
    sums.encode(&mut bytes);
    let again = Aggregator::decode(&bytes).unwrap_or_else(|| panic!("they read back"));
    assert_eq!(again.children(), 2);
}

/// Pushes to one gauge or counter: time, child and value of each sample; gives time and value of what is stored.
fn push(sums: &mut Aggregator, how: How, newest_ms: i64, samples: &[(i64, u64, f64)]) -> Vec<(i64, f64)> {
    sums.begin(Coming { lookback_ms: 300_000, newest_ms });
    let mut out = Vec::new();
    for (at_ms, key, value) in samples {
        sums.next_step(*at_ms);
        let child = sums.child(*key, &labels(), how, *at_ms, &nothing).unwrap_or_else(|| panic!("room"));
        sums.add(child, *value);
        for sum in sums.totals() {
            let Total::Float(value) = sum.total else { panic!("{sum:?}") };
            if sum.at_ms <= newest_ms {
                sums.stored(sum.group, sum.at_ms);
                out.push((sum.at_ms, value));
            }
        }
    }
    sums.commit();
    out
}

#[test]
fn parts_of_a_time_that_come_apart_get_times_of_their_own() {
    let mut sums = Aggregator::default();
    let mut push = |samples: &[(i64, u64, f64)]| push(&mut sums, How::Gauge(Function::Sum), i64::MAX, samples);
    assert_eq!(push(&[(1_000, 1, 5.0)]), [(1_000, 5.0)]);
    assert_eq!(push(&[(1_000, 2, 2.0), (16_000, 2, 3.0)]), [(1_001, 7.0), (16_000, 8.0)]);
    assert_eq!(push(&[(400_000, 2, 4.0)]), [(400_000, 4.0)], "1 was not sent for long");
    assert_eq!(sums.last(Child(1)), Some((400_000, Some(4.0))));
}

#[test]
fn a_time_that_is_not_stored_stops_no_sum() {
    let mut sums = Aggregator::default();
    let far = i64::MAX / 2;
    assert_eq!(push(&mut sums, How::Cumulative, 2_000, &[(1_000, 1, 5.0), (far, 2, 1.0)]), [(1_000, 5.0)]);
    assert_eq!(push(&mut sums, How::Cumulative, 3_000, &[(2_000, 1, 6.0)]), [(2_000, 7.0)]);
    // A clock that was wrong for a time is forgotten when it is right again.
    assert_eq!(push(&mut sums, How::Cumulative, far, &[(far, 1, 7.0)]), [(far, 8.0)]);
    assert_eq!(push(&mut sums, How::Cumulative, 9_000, &[(8_000, 3, 1.0)]), [(8_000, 9.0)]);
    assert_eq!(push(&mut sums, How::Cumulative, 9_000, &[(8_000, 4, 1.0)]), [(8_001, 10.0)]);
}

#[test]
fn gauges_of_long_ago_do_not_come_into_the_present() {
    let mut sums = Aggregator::default();
    let how = How::Gauge(Function::Sum);
    assert_eq!(push(&mut sums, how, i64::MAX, &[(1_000_000, 1, 5.0), (1_000_000, 2, 1.0)])[1], (1_000_001, 6.0));
    // A little late: what both show now.
    assert_eq!(push(&mut sums, how, i64::MAX, &[(900_000, 3, 2.0)]), [(1_000_002, 8.0)]);
    assert_eq!(push(&mut sums, how, i64::MAX, &[(600_000, 4, 2.0)]), []);
    assert_eq!(push(&mut sums, how, i64::MAX, &[(1_010_000, 1, 5.0)]), [(1_010_000, 8.0)]);
}

#[test]
fn a_child_that_stands_twice_is_added_once() {
    for how in [How::Gauge(Function::Sum), How::Cumulative] {
        let mut sums = Aggregator::default();
        sums.begin(Coming::WHOLE);
        sums.next_step(1);
        let child = sums.child(1, &labels(), how, 1, &nothing).unwrap_or_else(|| panic!("room"));
        assert_eq!(sums.add(child, 5.0), Added::First);
        assert_eq!((sums.add(child, 5.0), sums.add(child, 3.0)), (Added::Again(true), Added::Again(false)));
        assert_eq!(sums.totals()[0].total, Total::Float(5.0));
    }
}

#[test]
fn what_rests_goes_and_what_it_gave_stays_while_the_sum_goes_on() {
    let mut sums = Aggregator::default();
    let how = How::Cumulative;
    collect(&mut sums, &[(1, 10.0), (2, 5.0)], 1, how, &nothing);
    sums.sweep(0);
    collect(&mut sums, &[(1, 11.0)], 2, how, &nothing);
    sums.sweep(REST_MAX_MS);
    assert_eq!((sums.children(), sums.groups()), (2, 1));
    // Under way nothing is touched.
    sums.begin(Coming::WHOLE);
    sums.sweep(10 * REST_MAX_MS);
    sums.abandon();
    let epoch = sums.epoch();
    sums.sweep(REST_MAX_MS + 1);
    assert_eq!((sums.children(), sums.groups()), (1, 1), "2 rested");
    assert!(sums.epoch() > epoch && sums.knows(1) && !sums.knows(2));
    assert_eq!(collect(&mut sums, &[(1, 12.0), (3, 1.0)], 3, how, &nothing), 18.0);
    sums.sweep(2 * REST_MAX_MS);
    sums.sweep(3 * REST_MAX_MS + 1);
    assert_eq!((sums.children(), sums.groups()), (0, 0));
    assert_eq!(collect(&mut sums, &[(1, 4.0)], 4, how, &nothing), 4.0, "it begins anew");
}

proptest! {
    /// However children rise, begin again, vanish and come back, and whenever the process starts again from its bytes: the sum
    /// is what all of them counted, and never goes down.
    #[test]
    fn the_sum_is_what_was_counted(
        steps in prop::collection::vec((prop::collection::vec((0u8..3, 0u32..50), 4), any::<bool>(), any::<bool>()), 1..30)
    ) {
        let mut sums = Aggregator::default();
        let (mut values, mut counted, mut last) = ([0.0f64; 4], 0.0, 0.0);
        for (at, (children, stored, restart)) in steps.into_iter().enumerate() {
            let at_ms = at as i64;
            sums.begin(Coming::WHOLE);
            sums.next_step(at_ms);
            let (mut next, mut gained, mut any) = (values, 0.0, false);
            for (key, (what, by)) in children.into_iter().enumerate() {
                // 0: absent, 1: rises, 2: begins again.
                if what == 0 { continue; }
                let by = f64::from(by);
                let begins_again = what == 2 && by < next[key];
                next[key] = if begins_again { by } else { next[key] + by };
                gained += by;
                any = true;
                let child = sums.child(key as u64, &labels(), How::Cumulative, at_ms, &nothing);
                let child = child.unwrap_or_else(|| panic!("there is room"));
                sums.add(child, next[key]);
            }
            if !any { continue; }
            let total = match sums.totals().first() {
                Some(Sum { total: Total::Float(total), .. }) => *total,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(total, counted + gained);
            if stored {
                sums.commit();
                (values, counted) = (next, counted + gained);
                prop_assert!(total >= last);
                last = total;
            }
            if restart {
                sums.begin(Coming::WHOLE);
                let mut bytes = Vec::new();
                sums.encode(&mut bytes);
                sums = Aggregator::decode(&bytes).unwrap_or_else(|| panic!("they read back"));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Aggregator::decode(&bytes);
    }
}
