//! Templates as rules have them, with the answers that Prometheus gives.

use super::*;

fn expand(text: &str) -> Result<String, String> {
    let query = |text: &str| match text {
        "metric{instance='a'}" => Ok(vec![(Labels::from_pairs([("__name__", "metric"), ("instance", "a")]), 11.0)]),
        "metric" => Ok(vec![
            (Labels::from_pairs([("__name__", "metric"), ("instance", "b")]), 21.0),
            (Labels::from_pairs([("__name__", "metric"), ("instance", "a"), ("__value__", "a")]), 11.0),
        ]),
        "none" => Ok(vec![]),
        other => Err(format!("parse error in {other}")),
    };
    let external = [("cluster".to_owned(), "eu".to_owned())];
    let around = Surroundings {
        query: &query,
        now_s: 1_500_000_000.5,
        external_labels: &external,
        external_url: "http://quiver.example/path/",
    };
    let labels = Labels::from_pairs([("instance", "host.example:9100"), ("job", "node")]);
    let template = Template::parse(text).map_err(|e| e.to_string())?;
    template.expand(&labels, Value::Float(1_234_567.0), &around).map_err(|e| e.to_string())
}

#[test]
fn templates_expand_as_in_prometheus() {
    for (text, expected) in [
        ("plain text", "plain text"),
        (
            "{{ $labels.instance }} of {{ $labels.job }} is at {{ $value }}",
            "host.example:9100 of node is at 1.234567e+06",
        ),
        ("{{ .Labels.job }} {{ .Value | humanize }} {{ $labels.nothing }}|", "node 1.235M |"),
        (
            "{{ $externalLabels.cluster }} {{ $externalURL }} {{ externalURL }} {{ pathPrefix }}",
            "eu http://quiver.example/path/ http://quiver.example/path/ /path",
        ),
        ("{{ query \"metric{instance='a'}\" | first | value }}", "11"),
        ("{{ range query \"metric\" }}{{.Labels.instance}}:{{.Value}} {{end}}", "b:21 a:11 "),
        (
            "{{ range query \"metric\" | sortByLabel \"instance\" }}{{.Labels.instance}}:{{.Value}}: {{end}}",
            "a:11: b:21: ",
        ),
        ("{{ range query \"none\" }}x{{else}}none{{end}}", "none"),
        ("{{ with query \"none\" }}x{{ else }}y{{ end }}", "y"),
        ("{{ with query \"metric\" }}{{ . | first | label \"instance\" }}{{ end }}", "b"),
        ("{{ query \"metric\" | sortByLabel \"__value__\" | strvalue }}", "err"),
        ("{{ (query \"metric\" | first).Labels.instance }}", "b"),
        ("{{ range $i, $e := query \"metric\" }}{{ if $i }}, {{ end }}{{ $e.Value }}{{ end }}", "21, 11"),
        ("{{ if gt $value 100.0 }}high{{ else if lt $value 0.0 }}low{{ else }}fine{{ end }}", "high"),
        ("{{ if and (eq $labels.job \"node\") (ne $labels.instance \"\") }}yes{{ end }}", "yes"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        (
            "{{ define \"t\" }}[{{ .arg0 }}-{{ .arg1 }}]{{ end }}{{ template \"t\" (args 1 \"b\") }}{{ tmpl \"t\" (args 2 \"c\") | toUpper }}",
            "[1-b][2-C]",
        ),
        (
            "{{ stripPort $labels.instance }} {{ stripDomain $labels.instance }} {{ stripPort \"[::1]:80\" }} {{ stripDomain \"10.0.0.1:80\" }}",
            "host.example host:9100 ::1 10.0.0.1:80",
        ),
        (
            "{{ reReplaceAll \"(.*):.*\" \"$1\" $labels.instance }} {{ match \"^h.*0$\" $labels.instance }}",
            "host.example true",
        ),
        ("{{ \"aa bb CC\" | title }} {{ toLower \"ABC\" }}", "Aa Bb CC abc"),
        (
            "{{ graphLink \"up{a='b'} + 1\" }} {{ tableLink \"up\" }}",
            "/graph?g0.expr=up%7Ba%3D%27b%27%7D+%2B+1&g0.tab=0 /graph?g0.expr=up&g0.tab=1",
        ),
        ("{{ printf \"%.1f%% of %s\" 12.34 $labels.job }}", "12.3% of node"),
        ("{{ humanizeDuration 3661 }} {{ humanize1024 \"2048\" }} {{ humanizePercentage 0.5 }}", "1h 1m 1s 2ki 50%"),
        (
            "{{ 1435065584.5 | humanizeTimestamp }} {{ (1435065584.5 | toTime) }}",
            "2015-06-23 13:19:44.5 +0000 UTC 2015-06-23 13:19:44.5 +0000 UTC",
        ),
        ("{{ toDuration \"90\" }} {{ parseDuration \"1h2m\" }} {{ now }}", "1m30s 3720 1.5000000005e+09"),
        (
            "{{ len \"abc\" }} {{ index $labels \"job\" }} {{ slice \"abcd\" 1 3 }} {{ not true }} {{ print 1 2 \"a\" }}",
            "3 node bc false 1 2a",
        ),
        ("a {{- /* hidden */ -}} b{{ \"\\n\" }}{{ `raw\\n` }}", "ab\nraw\\n"),
        ("{{ range 3 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ . }}{{ end }}", "02"),
        ("{{ range $k, $v := $labels }}{{ $k }}={{ $v }};{{ end }}", "instance=host.example:9100;job=node;"),
        ("{{ urlQueryEscape \"a b/ü~*\" }} {{ html \"<a>\" }}", "a+b%2F%C3%BC~%2A &lt;a&gt;"),
        ("{{ $labels }}", "map[instance:host.example:9100 job:node]"),
    ] {
        match expected {
            "err" => assert!(expand(text).is_err(), "{text}"),
            _ => assert_eq!(expand(text).as_deref(), Ok(expected), "{text}"),
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    for (text, part) in [
        ("{{ nothing }}", "line 1: function \"nothing\" not defined"),
        ("a\n{{ $nothing }}", "line 2: undefined variable \"$nothing\""),
        ("{{ if true }}", "{{end}} is missing"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ query \"bad{\" }}", "error calling query: parse error in bad{"),
        ("{{ query \"none\" | first }}", "first() called on vector with no elements"),
        ("{{ gt $value 1 }}", "incompatible types for comparison"),
        ("{{ template \"x\" }}", "template \"x\" not defined"),
        ("{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}", "templates call one another"),
        ("{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}", "did not end"),
        ("{{ range 90000 }}xxxxxxxxxx{{ end }}", "writes more than"),
        ("{{ $x := \"aaaaaaaa\" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}", "makes a text of more than"),
        ("{{ $x := args 1 }}{{ range 30000 }}{{ $x = args $x }}{{ end }}", "args lie in one another"),
        ("{{ $x := args 1 }}{{ range 30 }}{{ $x = args $x $x $x }}{{ end }}{{ $x }}", "writes more than"),
        (
            "{{ $x := printf \"%900d\" 1 }}{{ $y := print $x $x $x $x $x $x }}{{ reReplaceAll \"\" $y $y }}",
            "makes a text of more than",
        ),
        ("{{ .Labels.a.b }}", "can't evaluate field b in type string"),
        ("{{ break }}", "outside {{range}}"),
        ("{{ \"a\" | \"b\" }}", "non executable command"),
        ("{{ ( }}", "unclosed left paren"),
        ("{{ reReplaceAll \"(\" \"\" \"\" }}", "unclosed group"),
        ("{{ humanize true }}", "can't convert bool to float"),
    ] {
        let error = expand(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
    let nested = format!("{}{}", "{{ if true }}".repeat(20), "{{ end }}".repeat(20));
    let calls: String = (0..20)
        .map(|i| {
            let call = format!("{{{{ template \"t{}\" }}}}{{{{ end }}}}", i + 1);
            format!("{{{{ define \"t{i}\" }}}}{}{{{{ end }}}}", nested.replacen("{{ end }}", &call, 1))
        })
        .collect();
    let error = expand(&format!("{calls}{{{{ define \"t20\" }}}}{{{{ end }}}}{{{{ template \"t0\" }}}}")).unwrap_err();
    assert!(error.contains("too deep"), "{error}");
    let deep = "{{ if true }}".repeat(1000);
    assert!(expand(&deep).unwrap_err().contains("too deeply"));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(1000), ")".repeat(1000));
    assert!(expand(&deep).unwrap_err().contains("too deeply"));
}
