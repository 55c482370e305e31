use proptest::prelude::*;

use super::*;
use crate::matcher::MatchOp;
use crate::relabel::Pattern;

fn buf(pairs: &[(&str, &str)]) -> LabelsBuf {
    LabelsBuf::from_labels(&Labels::from_pairs(pairs.iter().copied()))
}

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).unwrap_or_else(|e| panic!("{e}"))
}

fn filter(action: Action, matchers: &[(&str, MatchOp, &str)], labels: &[&str]) -> Filter {
    Filter {
        matchers: matchers.iter().map(|(n, o, v)| matcher(n, *o, v)).collect(),
        labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        ..Filter::new(action)
    }
}

fn applied(set: &FilterSet, pairs: &[(&str, &str)], metric_type: MetricType) -> (Outcome, String) {
    let mut labels = buf(pairs);
    let outcome = set.apply(&mut labels, metric_type);
    (outcome, labels.to_labels().to_string())
}

const PLAIN: Outcome = Outcome::Kept { changed: false, aggregate: None };

#[test]
fn the_first_keep_or_drop_decides_and_transforms_all_run() {
    let set = FilterSet::new(vec![
        filter(Action::DropLabel, &[], &["user"]),
        filter(Action::Keep, &[("__name__", MatchOp::Regex, "http_.*")], &[]),
        filter(Action::Drop, &[("code", MatchOp::Equal, "500")], &[]),
        Filter { to: "c".into(), ..filter(Action::RenameLabel, &[], &["code"]) },
    ]);
    let kept = applied(&set, &[("__name__", "http_a"), ("code", "500"), ("user", "u")], MetricType::Counter);
    assert_eq!(kept, (Outcome::Kept { changed: true, aggregate: None }, r#"http_a{c="500"}"#.to_owned()));
    let (outcome, _) = applied(&set, &[("__name__", "x"), ("code", "500")], MetricType::Counter);
    assert_eq!(outcome, Outcome::Dropped(DroppedBy::Filter(2)));
    let (outcome, _) = applied(&set, &[("__name__", "x")], MetricType::Counter);
    assert_eq!(outcome, Outcome::Dropped(DroppedBy::NoKeep), "no KEEP accepts it");
    assert_eq!(applied(&FilterSet::default(), &[("__name__", "x")], MetricType::Gauge).0, PLAIN);
}

#[test]
fn types_are_asked_for() {
    let set =
        FilterSet::new(vec![Filter { types: TypeSet::of(&[MetricType::Gauge]), ..filter(Action::Drop, &[], &[]) }]);
    assert_eq!(applied(&set, &[("__name__", "x")], MetricType::Gauge).0, Outcome::Dropped(DroppedBy::Filter(0)));
    assert_eq!(applied(&set, &[("__name__", "x")], MetricType::Counter).0, PLAIN);
    assert!(TypeSet::of(&[]).has(MetricType::Unknown) && set.asks_types() && !set.transforms());
}

#[test]
fn hashes_are_those_of_hashmod_and_absent_labels_stay_absent() {
    let hash = |modulus| FilterSet::new(vec![Filter { modulus, ..filter(Action::HashLabel, &[], &["user"]) }]);
    let (_, text) = applied(&hash(8), &[("__name__", "x"), ("user", "ann")], MetricType::Gauge);
    let (_, again) = applied(&hash(8), &[("__name__", "x"), ("user", "ann")], MetricType::Gauge);
    assert_eq!(text, again);
    assert!(text.len() == r#"x{user="0"}"#.len() && !text.contains("ann"), "{text}");
    assert_eq!(applied(&hash(8), &[("__name__", "x")], MetricType::Gauge), (PLAIN, "x".to_owned()));
}

#[test]
fn what_is_added_up_says_so_and_quantiles_are_not() {
    let set = FilterSet::new(vec![filter(Action::AggregateAway, &[], &["user"])]);
    let (outcome, text) = applied(&set, &[("__name__", "x_total"), ("user", "u")], MetricType::Counter);
    assert_eq!(outcome, Outcome::Kept { changed: true, aggregate: Some(0) });
    assert_eq!(text, "x_total");
    let (outcome, _) = applied(&set, &[("__name__", "x_total")], MetricType::Counter);
    assert_eq!(outcome, Outcome::Kept { changed: false, aggregate: Some(0) }, "it is one of those that are added up");
    let (outcome, _) = applied(&set, &[("__name__", "s"), ("quantile", "0.5")], MetricType::Summary);
    assert_eq!(outcome, Outcome::Dropped(DroppedBy::Quantile(0)));
}

#[test]
fn every_step_is_told() {
    let set = FilterSet::new(vec![
        filter(Action::Keep, &[("a", MatchOp::Equal, "1")], &[]),
        filter(Action::DropLabel, &[], &["b"]),
        filter(Action::Drop, &[], &[]),
    ]);
    let mut labels = buf(&[("__name__", "x"), ("a", "1"), ("b", "2")]);
    let (outcome, steps) = set.explain(&mut labels, MetricType::Gauge);
    assert_eq!(outcome, Outcome::Kept { changed: true, aggregate: None });
    let left = Labels::from_pairs([("__name__", "x"), ("a", "1")]);
    assert_eq!(
        steps,
        vec![Step { filter: 0, effect: Effect::Kept }, Step { filter: 1, effect: Effect::Changed(left) }]
    );
}

#[test]
fn who_acted_is_noted() {
    let set = FilterSet::new(vec![
        filter(Action::Keep, &[("a", MatchOp::Equal, "1")], &[]),
        filter(Action::DropLabel, &[], &["b"]),
        filter(Action::Drop, &[("c", MatchOp::Equal, "1")], &[]),
    ]);
    let acts = |pairs: &[(&str, &str)]| {
        let (_, acts) = set.apply_noting(&mut buf(pairs), MetricType::Gauge);
        acts.each(&set).collect::<Vec<_>>()
    };
    assert_eq!(acts(&[("a", "1"), ("b", "2"), ("c", "1")]), [(Some(0), ActKind::Kept), (Some(1), ActKind::Changed)]);
    assert_eq!(acts(&[("b", "2"), ("c", "1")]), [(Some(1), ActKind::Changed), (Some(2), ActKind::Dropped)]);
    assert_eq!(acts(&[("c", "2")]), [(None, ActKind::Dropped)]);
}

#[test]
fn relabel_rules_run_in_their_place() {
    let rules = vec![
        Rule { target_label: "env".into(), replacement: "prod".into(), ..Rule::default() },
        Rule {
            source_labels: vec!["a".into()],
            regex: Pattern::new("bad").unwrap_or_else(|e| panic!("{e}")),
            action: relabel::Action::Drop,
            ..Rule::default()
        },
    ];
    let set = FilterSet::new(vec![Filter { rules, ..filter(Action::Relabel, &[], &[]) }]);
    let (outcome, text) = applied(&set, &[("__name__", "x"), ("a", "1")], MetricType::Gauge);
    assert_eq!((outcome, text.as_str()), (Outcome::Kept { changed: true, aggregate: None }, r#"x{a="1", env="prod"}"#));
    let (outcome, _) = applied(&set, &[("__name__", "x"), ("a", "bad")], MetricType::Gauge);
    assert_eq!(outcome, Outcome::Dropped(DroppedBy::Filter(0)));
}

#[test]
fn exported_rules_never_drop_what_filters_keep() {
    let of_gauges = |action| Filter { types: TypeSet::of(&[MetricType::Gauge]), ..filter(action, &[], &[]) };
    let by_name = |action, name| filter(action, &[("__name__", MatchOp::Equal, name)], &[]);
    let labelkeep = |regex: &str| Rule {
        regex: Pattern::new(regex).unwrap_or_else(|e| panic!("{e}")),
        action: relabel::Action::LabelKeep,
        ..Rule::default()
    };
    let kept = |export: &Export, name: &str| {
        let mut labels = buf(&[("__name__", name), ("a", "1")]);
        relabel::apply(&export.rules, &mut labels).then(|| labels.to_labels().to_string())
    };
    // A KEEP by type cannot be said.
    let export = to_rules(&FilterSet::new(vec![of_gauges(Action::Keep), by_name(Action::Drop, "x")]));
    assert_eq!(kept(&export, "x").as_deref(), Some(r#"x{a="1"}"#));
    assert_eq!(export.missing.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 0]);
    let export = to_rules(&FilterSet::new(vec![by_name(Action::Keep, "x"), of_gauges(Action::Keep)]));
    assert!(kept(&export, "x").is_some() && kept(&export, "y").is_some());
    // Rules that take labels away leave those of the export.
    let rules = vec![labelkeep("__name__|b")];
    let relabel = || Filter { rules: rules.clone(), ..filter(Action::Relabel, &[], &[]) };
    let export = to_rules(&FilterSet::new(vec![by_name(Action::Keep, "x"), relabel()]));
    assert!(export.missing.is_empty());
    assert_eq!((kept(&export, "x").as_deref(), kept(&export, "y")), (Some("x"), None));
    let rules = vec![Rule { action: relabel::Action::LabelDrop, ..labelkeep("__tmp.*") }];
    let export = to_rules(&FilterSet::new(vec![Filter { rules, ..filter(Action::Relabel, &[], &[]) }]));
    assert_eq!(export.missing.len(), 1);
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let op = prop_oneof![
        Just((MatchOp::Equal, "1")),
        Just((MatchOp::NotEqual, "1")),
        Just((MatchOp::Regex, "1|2|")),
        Just((MatchOp::NotRegex, "2.*")),
        Just((MatchOp::Equal, "")),
        Just((MatchOp::Equal, "a;b")),
    ];
    (prop::sample::select(vec!["a", "b", "c"]), op).prop_map(|(name, (op, value))| matcher(name, op, value))
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let action = prop::sample::select(vec![
        Action::Keep,
        Action::Drop,
        Action::DropLabel,
        Action::RenameLabel,
        Action::HashLabel,
    ]);
    let labels = prop::sample::subsequence(vec!["a", "b", "c"], 1..3);
    (action, prop::collection::vec(any_matcher(), 0..3), labels, 1u64..5).prop_map(
        |(action, matchers, labels, modulus)| Filter {
            matchers,
            labels: labels.into_iter().map(str::to_owned).collect(),
            to: "d".into(),
            modulus,
            ..Filter::new(action)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whoever takes the rules elsewhere gets the same series there.
    #[test]
    fn exported_rules_do_what_the_filters_do(
        filters in prop::collection::vec(any_filter(), 0..5),
        values in prop::collection::vec(prop::sample::select(vec!["", "1", "2", "21", "a;b"]), 3),
    ) {
        let set = FilterSet::new(filters);
        let pairs: Vec<(&str, &str)> = ["a", "b", "c"].into_iter().zip(values).chain([("__name__", "x")]).collect();
        let (mut ours, mut theirs) = (buf(&pairs), buf(&pairs));
        let outcome = set.apply(&mut ours, MetricType::Gauge);
        let export = to_rules(&set);
        prop_assert!(export.missing.is_empty());
        let kept = relabel::apply(&export.rules, &mut theirs);
        prop_assert_eq!(kept, matches!(outcome, Outcome::Kept { .. }));
        if kept {
            prop_assert_eq!(ours.to_labels(), theirs.to_labels());
        }
    }
}
