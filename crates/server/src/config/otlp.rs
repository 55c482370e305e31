//! `otlp`: how points of OpenTelemetry become samples. The keys and their rules are Prometheus'.

use wire::otlp::{Options, Strategy};

use super::fields::{Fields, Problems};
use super::yaml::Node;

/// Reads the value of `otlp:`; what is absent keeps Prometheus' default.
pub fn read(node: &Node, problems: &mut Problems) -> Options {
    let mut fields = Fields::open(node, "otlp", problems);
    let mut options = Options {
        promote_resource_attributes: attributes(&mut fields, "promote_resource_attributes", "promoted", problems),
        ignore_resource_attributes: attributes(&mut fields, "ignore_resource_attributes", "ignored", problems),
        ..Options::default()
    };
    let parse = |word: &str| match word {
        "" => Ok(Strategy::default()),
        word => Strategy::parse(word).ok_or_else(|| {
            let all = Strategy::ALL.map(Strategy::as_str).join(", ");
            format!("unsupported OTLP translation strategy {word:?}, must be one of {all}")
        }),
    };
    if let Some(strategy) = fields.parsed("translation_strategy", problems, parse) {
        options.strategy = strategy;
    }
    let switches = [
        ("promote_all_resource_attributes", &mut options.promote_all_resource_attributes),
        ("keep_identifying_resource_attributes", &mut options.keep_identifying_resource_attributes),
        ("convert_histograms_to_nhcb", &mut options.convert_histograms_to_nhcb),
        ("promote_scope_metadata", &mut options.promote_scope_metadata),
        ("label_name_underscore_sanitization", &mut options.label_name_underscore_sanitization),
        ("label_name_preserve_multiple_underscores", &mut options.label_name_preserve_multiple_underscores),
    ];
    for (key, switch) in switches {
        *switch = fields.bool(key, problems).unwrap_or(*switch);
    }
    check(&fields, &options, problems);
    fields.finish(problems);
    options
}

fn check(fields: &Fields<'_>, options: &Options, problems: &mut Problems) {
    let all = options.promote_all_resource_attributes;
    if all && !options.promote_resource_attributes.is_empty() {
        let text =
            "'promote_all_resource_attributes' and 'promote_resource_attributes' cannot be configured simultaneously";
        problems.error(fields.place_of("promote_resource_attributes"), text);
    }
    if !all && !options.ignore_resource_attributes.is_empty() {
        let text = "'ignore_resource_attributes' cannot be configured unless 'promote_all_resource_attributes' is true";
        problems.error(fields.place_of("ignore_resource_attributes"), text);
    }
}

/// Reads a list of keys of resource attributes; `what` is done to them.
fn attributes(fields: &mut Fields<'_>, key: &'static str, what: &str, problems: &mut Problems) -> Vec<String> {
    let at = fields.place_of(key);
    let mut out: Vec<String> = Vec::new();
    for text in fields.strings(key, problems).unwrap_or_default() {
        let attribute = text.trim();
        if attribute.is_empty() {
            problems.error(at, format!("empty {what} OTel resource attribute"));
        } else if out.iter().any(|known| known == attribute) {
            problems.error(at, format!("duplicated {what} OTel resource attribute {attribute:?}"));
        } else {
            out.push(attribute.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;

    fn read_text(text: &str) -> (Options, Vec<String>) {
        let mut problems = Problems::default();
        let options = read(&yaml::parse(text).unwrap(), &mut problems);
        (options, problems.0.into_iter().map(|p| p.text).collect())
    }

    #[test]
    fn what_prometheus_takes_is_taken() {
        let (options, problems) = read_text(
            "promote_resource_attributes: [k8s.cluster.name, ' k8s.job.name ']\n\
             translation_strategy: NoUTF8EscapingWithSuffixes\nkeep_identifying_resource_attributes: true\n\
             convert_histograms_to_nhcb: true\npromote_scope_metadata: true\n\
             label_name_underscore_sanitization: false\nlabel_name_preserve_multiple_underscores: false\n",
        );
        assert_eq!(problems, Vec::<String>::new());
        let wanted = Options {
            strategy: Strategy::NoUtf8EscapingWithSuffixes,
            promote_resource_attributes: vec!["k8s.cluster.name".into(), "k8s.job.name".into()],
            keep_identifying_resource_attributes: true,
            convert_histograms_to_nhcb: true,
            promote_scope_metadata: true,
            label_name_underscore_sanitization: false,
            label_name_preserve_multiple_underscores: false,
            ..Options::default()
        };
        assert_eq!(options, wanted);
        let (options, problems) = read_text("{promote_all_resource_attributes: true, ignore_resource_attributes: [a]}");
        assert!(problems.is_empty() && options.promote_all_resource_attributes, "{problems:?}");
        for word in Strategy::ALL.map(Strategy::as_str) {
            assert_eq!(read_text(&format!("translation_strategy: {word}")).0.strategy.as_str(), word);
        }
    }

    #[test]
    fn what_prometheus_refuses_is_refused() {
        for (text, wanted) in [
            ("{promote_all_resource_attributes: true, promote_resource_attributes: [a]}", "simultaneously"),
            ("ignore_resource_attributes: [a]", "unless 'promote_all_resource_attributes' is true"),
            ("promote_resource_attributes: [a, '']", "empty promoted OTel resource attribute"),
            ("promote_resource_attributes: [a, ' a']", "duplicated promoted OTel resource attribute \"a\""),
            ("translation_strategy: Nothing", "unsupported OTLP translation strategy \"Nothing\""),
            ("promote_scope_metadataa: true", "did you mean \"promote_scope_metadata\"?"),
        ] {
            let (_, problems) = read_text(text);
            assert!(matches!(&problems[..], [one] if one.contains(wanted)), "{text}: {problems:?}");
        }
    }
}
