//! `/federate`, held against the pages of Prometheus' own tests.

use super::*;

const TYPES: [(&str, MetricType); 3] =
    [("foo_total", MetricType::Counter), ("temp", MetricType::Gauge), ("mixed", MetricType::Gauge)];

fn filled() -> World {
    let world = World::new();
    world.memory.put(&[("__name__", "m1"), ("foo", "bar"), ("instance", "i")], &[(NOW - 60_000, 0.0), (NOW, 1e6)]);
    world.memory.put(&[("__name__", "m1"), ("foo", "boo")], &[(NOW - 299_999, 0.25)]);
    world.memory.put(&[("__name__", "foo_total")], &[(NOW - 1_000, 3.0)]);
    world.memory.put(&[("__name__", "temp"), ("a", "b\"\\\n")], &[(NOW - 1_000, f64::NEG_INFINITY)]);
    world.memory.put(&[("__name__", "mixed")], &[(NOW, 1.0)]);
    world.memory.put(&[("__name__", "old")], &[(NOW - 300_000, 1.0)]);
    world
        .memory
        .put(&[("__name__", "ended")], &[(NOW - 2_000, 1.0), (NOW - 1_000, f64::from_bits(model::STALE_NAN_BITS))]);
    world.memory.put(&[("__name__", "later")], &[(NOW + 1, 1.0)]);
    world.memory.put(&[("__name__", "a.b"), ("x.y", "1")], &[(NOW, 1.0)]);
    let family = |(name, metric_type): &(&str, MetricType)| Family {
        name: (*name).into(),
        metric_type: *metric_type,
        ..Family::default()
    };
    let mut families = world.memory.families.lock();
    families.extend(TYPES.iter().map(family));
    families.push(family(&("mixed", MetricType::Counter)));
    drop(families);
    world
}

async fn page(world: &World, accept: &str, selectors: &str) -> Answered {
    let headers = [("accept", accept)];
    world.send("GET", &format!("/federate?{}", escaped(selectors)), &headers, Body::empty()).await
}

#[tokio::test]
async fn the_latest_samples_are_shown_sorted_with_their_types_and_external_labels() {
    let world = filled();
    let all = "match[]={__name__=~\".%2B\",__name__!=\"a.b\"}&match[]=m1";
    let answer = page(&world, "", all).await;
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (200, &"text/plain; version=0.0.4; charset=utf-8".parse().unwrap())
    );
    let expected = "# TYPE foo_total counter\n\
        foo_total{foo=\"baz\",instance=\"\",zone=\"ie\"} 3 1750499999000\n\
        # TYPE m1 untyped\n\
        m1{foo=\"bar\",instance=\"i\",zone=\"ie\"} 1e+06 1750500000000\n\
        m1{foo=\"boo\",instance=\"\",zone=\"ie\"} 0.25 1750499700001\n\
        # TYPE mixed untyped\n\
        mixed{foo=\"baz\",instance=\"\",zone=\"ie\"} 1 1750500000000\n\
        # TYPE temp gauge\n\
        temp{a=\"b\\\"\\\\\\n\",foo=\"baz\",instance=\"\",zone=\"ie\"} -Inf 1750499999000\n";
    assert_eq!(answer.text, expected);
    assert!(wire::Parser::new(wire::Format::Text, answer.text.as_bytes()).all(|entry| entry.is_ok()));
}

#[tokio::test]
async fn openmetrics_and_utf8_names_when_they_are_asked_for() {
    let world = filled();
    let scraper = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.7,*/*;q=0.6";
    let answer = page(&world, scraper, "match[]={__name__=~\"foo_total|temp|m1\"}").await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    wire::openmetrics::validate(answer.text.as_bytes()).unwrap();
    for line in ["# TYPE foo counter\n", " 3.0 1750499999\n", " 0.25 1750499700.001\n", "# TYPE m1 unknown\n"] {
        assert!(answer.text.contains(line), "{line}: {}", answer.text);
    }
    let utf8 = page(&world, "text/plain;version=1.0.0;escaping=allow-utf-8", "match[]={\"a.b\"}").await;
    let expected =
        "# TYPE \"a.b\" untyped\n{\"a.b\",\"x.y\"=\"1\",foo=\"baz\",instance=\"\",zone=\"ie\"} 1 1750500000000\n";
    assert_eq!(utf8.text, expected);
    let escaped = page(&world, "text/plain", "match[]={\"a.b\"}").await;
    assert!(escaped.text.starts_with("# TYPE a_b untyped\na_b{x_y=\"1\","), "{}", escaped.text);
    for (scheme, version, start) in [
        ("underscores", "0.0.4", "# TYPE a_b untyped\na_b{x_y=\"1\","),
        ("dots", "0.0.4", "# TYPE a_dot_b untyped\na_dot_b{x_dot_y=\"1\","),
        ("values", "0.0.4", "# TYPE U__a_2e_b untyped\nU__a_2e_b{U__x_2e_y=\"1\","),
        ("allow-utf-8", "1.0.0", "# TYPE \"a.b\" untyped\n{\"a.b\","),
    ] {
        let answer = page(&world, &format!("text/plain;escaping={scheme};q=0.5"), "match[]={\"a.b\"}").await;
        assert!(answer.text.starts_with(start), "{scheme}: {}", answer.text);
        let content_type = format!("text/plain; version={version}; charset=utf-8; escaping={scheme}");
        assert_eq!(answer.headers["content-type"], content_type.as_str());
    }
}

#[tokio::test]
async fn what_is_not_asked_rightly_is_said() {
    let world = filled();
    for (query, text) in
        [("", "no match[] parameter provided"), ("match[]={", "parse error"), ("match[]={a=~\".*\"}", "")]
    {
        let answer = page(&world, "", query).await;
        assert!(answer.status == 400 && answer.text.contains(text), "{query}: {} {}", answer.status, answer.text);
    }
    world.memory.broken.store(true, Ordering::SeqCst);
    let answer = page(&world, "", "match[]=m1").await;
    assert_eq!((answer.status, answer.text.as_str()), (500, "block 7 is damaged\n"));
    let few = World::with(QueryLimits { samples_max: 1, ..QueryLimits::default() }, WriteLimits::default());
    few.memory.put(&[("__name__", "a")], &[(NOW, 1.0)]);
    few.memory.put(&[("__name__", "b")], &[(NOW, 1.0)]);
    assert_eq!(page(&few, "", "match[]=a").await.status, 200);
    assert_eq!(page(&few, "", "match[]={__name__=~\"a|b\"}").await.status, 422);
}
