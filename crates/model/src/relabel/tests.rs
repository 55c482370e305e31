use super::*;
use crate::labels::Labels;

/// `labels -> rules -> labels`; `None` means dropped.
fn check(input: &[(&str, &str)], rules: &[Rule], want: Option<&[(&str, &str)]>) {
    for rule in rules {
        assert_eq!(rule.validate(), Ok(()), "{rule:?}");
    }
    let mut labels = LabelsBuf::from_labels(&Labels::from_pairs(input.iter().copied()));
    let kept = apply(rules, &mut labels);
    let want = want.map(|pairs| Labels::from_pairs(pairs.iter().copied()));
    assert_eq!(kept.then(|| labels.to_labels()), want, "{input:?} by {rules:?}");
}

fn rule(action: Action, sources: &[&str], regex: &str, target: &str, replacement: &str) -> Rule {
    let regex = if regex.is_empty() { Pattern::default() } else { pattern(regex) };
    let replacement = if replacement.is_empty() { "$1" } else { replacement };
    Rule {
        source_labels: sources.iter().map(|s| (*s).to_owned()).collect(),
        regex,
        target_label: target.to_owned(),
        replacement: replacement.to_owned(),
        action,
        ..Rule::default()
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap_or_else(|e| panic!("{e}"))
}

fn hashmod(source: &str, target: &str, modulus: u64) -> Rule {
    Rule { modulus, ..rule(Action::HashMod, &[source], "", target, "") }
}

use Action::*;

const ABC: &[(&str, &str)] = &[("a", "foo"), ("b", "bar"), ("c", "baz")];

#[test]
fn replace() {
    check(
        ABC,
        &[rule(Replace, &["a"], "f(.*)", "d", "ch${1}-ch${1}")],
        Some(&[("a", "foo"), ("b", "bar"), ("c", "baz"), ("d", "choo-choo")]),
    );
    check(
        ABC,
        &[
            rule(Replace, &["a", "b"], "f(.*);(.*)r", "a", "b${1}${2}m"),
            rule(Replace, &["c", "a"], "(b).*b(.*)ba(.*)", "d", "$1$2$2$3"),
        ],
        Some(&[("a", "boobam"), ("b", "bar"), ("c", "baz"), ("d", "boooom")]),
    );
    check(&[("a", "abc")], &[rule(Replace, &["a"], ".*(b).*", "d", "$1")], Some(&[("a", "abc"), ("d", "b")]));
    check(&[("a", "boo")], &[rule(Replace, &["a"], "f", "b", "bar")], Some(&[("a", "boo")]));
    check(&[("a", "x\ny")], &[rule(Replace, &["a"], "x.y", "b", "hit")], Some(&[("a", "x\ny"), ("b", "hit")]));
}

#[test]
fn replace_with_references_in_the_target() {
    let input = &[("a", "some-name-value")];
    let pair = "some-([^-]+)-([^,]+)";
    check(input, &[rule(Replace, &["a"], pair, "${1}", "${2}")], Some(&[("a", "some-name-value"), ("name", "value")]));
    check(input, &[rule(Replace, &["a"], pair, "${1}", "${3}")], Some(input));
    let input = &[("a", "some-name-0")];
    check(
        input,
        &[rule(Replace, &["a"], pair, "${3}", "${1}"), rule(Replace, &["a"], "some-([^-]+)(-[^,]+)", "${3}", "${1}")],
        Some(input),
    );
    let tags = ("__meta_sd_tags", "path:/secret,job:some-job,label:foo=bar");
    check(
        &[tags],
        &[
            rule(Replace, &["__meta_sd_tags"], "(?:.+,|^)path:(/[^,]+).*", "__metrics_path__", "${1}"),
            rule(Replace, &["__meta_sd_tags"], "(?:.+,|^)job:([^,]+).*", "job", "${1}"),
            rule(Replace, &["__meta_sd_tags"], "(?:.+,|^)label:([^=]+)=([^,]+).*", "${1}", "${2}"),
        ],
        Some(&[tags, ("__metrics_path__", "/secret"), ("job", "some-job"), ("foo", "bar")]),
    );
}

#[test]
fn an_empty_replacement_deletes() {
    let empty = Rule { replacement: String::new(), ..rule(Replace, &[], "", "a", "x") };
    check(&[("a", "1"), ("b", "2")], std::slice::from_ref(&empty), Some(&[("b", "2")]));
    let empty = Rule { replacement: "${9}".to_owned(), ..empty };
    check(&[("a", "1"), ("b", "2")], &[empty], Some(&[("b", "2")]));
}

#[test]
fn keep_and_drop() {
    let foo = &[("a", "foo")];
    check(foo, &[rule(Drop, &["a"], ".*o.*", "", ""), rule(Replace, &["a"], "f(.*)", "d", "ch$1-ch$1")], None);
    check(&[("a", "foo"), ("b", "bar")], &[rule(Drop, &["a"], ".*o.*", "", "")], None);
    check(foo, &[rule(Drop, &["a"], "no-match", "", "")], Some(foo));
    check(foo, &[rule(Drop, &["a"], "f|o", "", "")], Some(foo));
    check(foo, &[rule(Keep, &["a"], "no-match", "", "")], None);
    check(foo, &[rule(Keep, &["a"], "f.*", "", "")], Some(foo));
}

#[test]
fn keepequal_and_dropequal() {
    let ports = &[("__tmp_port", "1234"), ("__port1", "1234"), ("__port2", "5678")];
    check(ports, &[rule(KeepEqual, &["__tmp_port"], "", "__port1", "")], Some(ports));
    check(ports, &[rule(DropEqual, &["__tmp_port"], "", "__port1", "")], None);
    check(ports, &[rule(DropEqual, &["__tmp_port"], "", "__port2", "")], Some(ports));
    check(ports, &[rule(KeepEqual, &["__tmp_port"], "", "__port2", "")], None);
}

#[test]
fn hash_modulus() {
    check(ABC, &[hashmod("c", "d", 1000)], Some(&[("a", "foo"), ("b", "bar"), ("c", "baz"), ("d", "976")]));
    check(&[("a", "foo\nbar")], &[hashmod("a", "b", 1000)], Some(&[("a", "foo\nbar"), ("b", "734")]));
}

#[test]
fn names() {
    let input = &[("a", "foo"), ("b1", "bar"), ("b2", "baz")];
    check(
        input,
        &[rule(LabelMap, &[], "(b.*)", "", "bar_${1}")],
        Some(&[("a", "foo"), ("b1", "bar"), ("b2", "baz"), ("bar_b1", "bar"), ("bar_b2", "baz")]),
    );
    let meta = [("a", "foo"), ("__meta_my_bar", "aaa"), ("__meta_my_baz", "bbb"), ("__meta_other", "ccc")];
    let mut want = meta.to_vec();
    want.extend([("my_bar", "aaa"), ("my_baz", "bbb")]);
    check(&meta, &[rule(LabelMap, &[], "__meta_(my.*)", "", "${1}")], Some(&want));
    check(input, &[rule(LabelKeep, &[], "(b.*)", "", "")], Some(&[("b1", "bar"), ("b2", "baz")]));
    check(input, &[rule(LabelDrop, &[], "(b.*)", "", "")], Some(&[("a", "foo")]));
}

#[test]
fn a_label_may_return_after_it_was_dropped() {
    let port = "__meta_kubernetes_pod_annotation_XXX_metrics_port";
    let name = "__meta_kubernetes_pod_container_port_name";
    check(
        &[(name, "foo"), (port, "9091")],
        &[
            rule(LabelDrop, &[], &format!("^{name}$"), "", ""),
            rule(Replace, &[port], "(.+)", name, "metrics"),
            rule(Keep, &[name], "^metrics$", "", ""),
        ],
        Some(&[(port, "9091"), (name, "metrics")]),
    );
}

#[test]
fn case() {
    let input = ("foo", "bAr123Foo");
    check(
        &[input],
        &[rule(Uppercase, &["foo"], "", "up", ""), rule(Lowercase, &["foo"], "", "low", "")],
        Some(&[input, ("up", "BAR123FOO"), ("low", "bar123foo")]),
    );
    check(&[("a", "Straße")], &[rule(Uppercase, &["a"], "", "a", "")], Some(&[("a", "STRAßE")]));
}

#[test]
fn rules_that_do_not_fit_are_refused_with_the_known_text() {
    let text = |rule: Rule| rule.validate().err().map(|e| e.0).unwrap_or_default();
    assert_eq!(
        text(rule(Replace, &[], "", "", "")),
        "relabel configuration for replace action requires 'target_label' value"
    );
    assert_eq!(
        text(rule(Lowercase, &[], "", "", "")),
        "relabel configuration for lowercase action requires 'target_label' value"
    );
    assert_eq!(text(rule(HashMod, &["a"], "", "b", "")), "relabel configuration for hashmod requires non-zero modulus");
    assert_eq!(text(rule(Uppercase, &["a"], "", "b", "x")), "'replacement' can not be set for uppercase action");
    assert_eq!(
        text(rule(KeepEqual, &["a"], "x", "b", "")),
        "keepequal action requires only 'source_labels' and `target_label`, and no other fields"
    );
    assert_eq!(
        text(rule(LabelDrop, &["a"], "x", "", "")),
        "labeldrop action requires only 'regex', and no other fields"
    );
    assert_eq!(Action::parse("nope"), Err(RuleError("unknown relabel action \"nope\"".into())));
    assert_eq!(Action::parse("LabelMap"), Ok(LabelMap));
}
