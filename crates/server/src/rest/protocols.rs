//! Which formats a registered target is asked for, and which histograms are taken from it.

use collect::{Protocol, TargetSpec};
use serde_json::{Map, Value, json};

use super::fields::{Fields, Severity, join};

/// Protocols and histograms of a `scrape_config`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Formats {
    /// Best first; empty means Prometheus' order.
    pub protocols: Vec<Protocol>,
    /// Native histograms are taken.
    pub native_histograms: bool,
    /// Their classic buckets are taken, too.
    pub always_classic_histograms: bool,
}

impl Formats {
    /// Reads the fields `protocols`, `scrape_native_histograms` and `always_scrape_classic_histograms`.
    pub fn read(f: &mut Fields) -> Formats {
        Formats {
            protocols: read_protocols(f),
            native_histograms: f.boolean("scrape_native_histograms").unwrap_or(false),
            always_classic_histograms: f.boolean("always_scrape_classic_histograms").unwrap_or(false),
        }
    }

    /// Adds what differs from the defaults to a normal form.
    pub fn write(&self, scrape: &mut Map<String, Value>) {
        if !self.protocols.is_empty() {
            let words: Vec<&str> = self.protocols.iter().map(|p| p.as_str()).collect();
            scrape.insert("protocols".to_owned(), json!(words));
        }
        for (name, yes) in [
            ("scrape_native_histograms", self.native_histograms),
            ("always_scrape_classic_histograms", self.always_classic_histograms),
        ] {
            if yes {
                scrape.insert(name.to_owned(), json!(true));
            }
        }
    }

    /// Sets what the collector works with.
    pub fn apply(&self, spec: &mut TargetSpec) {
        spec.native_histograms = self.native_histograms;
        spec.always_classic_histograms = self.always_classic_histograms;
        if !self.protocols.is_empty() {
            spec.protocols.clone_from(&self.protocols);
        } else if self.native_histograms {
            spec.protocols = Protocol::PROTO_FIRST.to_vec();
        }
    }
}

fn read_protocols(f: &mut Fields) -> Vec<Protocol> {
    let mut protocols = Vec::new();
    let pointer = f.at("protocols");
    // A list with more entries than there are protocols holds one twice.
    for (at, value) in f.array("protocols").into_iter().flatten().enumerate().take(Protocol::PROTO_FIRST.len() + 1) {
        let place = join(&pointer, &at.to_string());
        match value.as_str().and_then(Protocol::parse) {
            Some(protocol) if protocols.contains(&protocol) => {
                let detail = format!("{} stands twice", protocol.as_str());
                f.issues.add(Severity::Refused, place, "duplicate", detail);
            }
            Some(protocol) => protocols.push(protocol),
            None => {
                let known = Protocol::PROTO_FIRST.map(Protocol::as_str).join(", ");
                f.issues.add(Severity::Malformed, place, "unknown_value", format!("{value}: expected one of {known}"));
            }
        }
    }
    protocols
}

#[cfg(test)]
mod tests {
    use collect::AddressPolicy;

    use super::super::problem::Problem;
    use super::super::registration::Registration;
    use super::*;

    fn read(scrape: Value) -> Result<Registration, Problem> {
        let mut body = json!({
            "source_id": "s", "collection_method": "PULL_SCRAPING", "scrape_config": {"target_url": "10.0.0.1:9100"}
        });
        if let (Some(to), Value::Object(from)) = (body["scrape_config"].as_object_mut(), scrape) {
            to.extend(from);
        }
        Registration::read(&body, true, &AddressPolicy::strict(true))
    }

    fn spec(scrape: Value) -> TargetSpec {
        let registration = read(scrape).unwrap_or_else(|e| panic!("{e:?}"));
        let again = Registration::read(&registration.normal(), true, &AddressPolicy::strict(true));
        assert_eq!(again.as_ref().ok(), Some(&registration), "the normal form says the same");
        let spec = registration
            .to_spec(
                &AddressPolicy::strict(true),
                &crate::access::vault::Vault::of(&[7; 32], Default::default()).unwrap(),
            )
            .unwrap_or_else(|e| panic!("{e:?}"));
        spec.expect("it is scraped")
    }

    #[test]
    fn protocols_and_histograms_reach_the_collector() {
        let plain = spec(json!({"protocols": []}));
        assert_eq!((plain.protocols, plain.native_histograms), (Protocol::DEFAULT.to_vec(), false));
        let native = spec(json!({"scrape_native_histograms": true}));
        assert_eq!((native.protocols, native.native_histograms), (Protocol::PROTO_FIRST.to_vec(), true));
        let given = spec(json!({
            "protocols": ["PrometheusText0.0.4", "PrometheusProto"],
            "scrape_native_histograms": true, "always_scrape_classic_histograms": true,
        }));
        assert_eq!(given.protocols, [Protocol::Text004, Protocol::Proto]);
        assert!(given.native_histograms && given.always_classic_histograms);
    }

    #[test]
    fn what_is_no_protocol_is_refused_with_its_place() {
        for (protocols, status, place) in [
            (json!(["PrometheusProto", "Morse"]), 400, "/scrape_config/protocols/1"),
            (json!([1]), 400, "/scrape_config/protocols/0"),
            (json!("PrometheusProto"), 400, "/scrape_config/protocols"),
            (json!(["PrometheusProto", "PrometheusProto"]), 422, "/scrape_config/protocols/1"),
        ] {
            let problem = read(json!({"protocols": protocols})).err().unwrap_or_else(|| panic!("{protocols}"));
            assert_eq!(problem.status, status, "{problem:?}");
            assert!(problem.errors.iter().any(|e| e.pointer == place), "{problem:?}");
        }
    }
}
