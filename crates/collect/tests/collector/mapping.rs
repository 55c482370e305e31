//! Labels: the target's, the body's, and what rules make of them.

use std::sync::Arc;

use model::relabel::{Action, Pattern, Rule};

use crate::support::*;

fn rule(action: Action, source: &str, regex: &str) -> Rule {
    let source_labels = if source.is_empty() { vec![] } else { vec![source.to_owned()] };
    Rule { source_labels, regex: Pattern::new(regex).unwrap(), action, ..Rule::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_renamed_or_honored() {
    let exporter = Exporter::text("a{job=\"x\"} 1\n");
    let world = World::with(exporter.spec());
    let renamed = "a{exported_job=\"x\", instance=\"i\", job=\"j\"}".to_owned();
    assert_eq!(world.scrape().await.1.body(), [(renamed.clone(), 1.0)]);
    let mut spec = exporter.spec();
    spec.honor_labels = true;
    world.collector.upsert(spec);
    let (_, stored) = world.scrape().await;
    assert_eq!(stored.body(), [("a{instance=\"i\", job=\"x\"}".to_owned(), 1.0)]);
    assert_eq!(stored.stale(), [renamed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_series_are_counted_but_leave_no_trace() {
    let exporter = Exporter::text("a 1\ngo_x 2\nb 3\n");
    let mut spec = exporter.spec();
    spec.metric_relabel = Arc::from([rule(Action::Drop, "__name__", "go_.*")]);
    let world = World::with(spec);
    for round in 0..3 {
        let (outcome, stored) = world.scrape().await;
        assert_eq!(stored.body(), valued(&[("a", 1.0), ("b", 3.0)]));
        assert_eq!(stored.by_id + stored.by_labels, 7);
        assert_eq!(stored.facts(), (1.0, 3.0, 2.0, if round == 0 { 2.0 } else { 0.0 }));
        assert_eq!((outcome.counts.filtered, outcome.series, outcome.samples_post_relabeling), (1, 2, 2));
        assert_eq!(world.heard.last().1.health, model::Health::Healthy);
    }
    exporter.say("a 1\nb 3\n");
    assert_eq!(world.scrape().await.1.stale(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_series_keep_their_new_name() {
    let exporter = Exporter::text("old 1\nother 2\n");
    let mut spec = exporter.spec();
    let rename =
        Rule { target_label: "__name__".into(), replacement: "new".into(), ..rule(Action::Replace, "__name__", "old") };
    spec.metric_relabel = Arc::from([rename]);
    let world = World::with(spec);
    for _ in 0..2 {
        assert_eq!(world.scrape().await.1.body(), valued(&[("new", 1.0), ("other", 2.0)]));
    }
    // Both texts lead to one series: it goes on when one of them goes.
    exporter.say("new 1\nold 1\nother 2\n");
    let (outcome, _) = world.scrape().await;
    assert_eq!(outcome.counts.duplicates, 1);
    exporter.say("new 3\nother 2\n");
    let (_, stored) = world.scrape().await;
    assert_eq!((stored.body(), stored.stale()), (valued(&[("new", 3.0), ("other", 2.0)]), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_takes_the_name_away_fails_the_scrape() {
    let exporter = Exporter::text("a 1\n");
    let mut spec = exporter.spec();
    spec.metric_relabel = Arc::from([rule(Action::LabelDrop, "", "__name__")]);
    let (outcome, _) = World::with(spec).scrape().await;
    assert_eq!(outcome.error.unwrap().message, "missing metric name (__name__ label)");
}
