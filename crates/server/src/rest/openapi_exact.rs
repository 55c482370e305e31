//! What the document says beyond what the types of the handlers do: exact shapes of requests, the errors that every path has.
//!
//! Requests are read by hand, so that mistakes have pointers, and their shapes are written by hand, too: `openapi_exact.json` is laid
//! over the derived document. `scripts/openapi` holds the result against a running server.

use serde_json::{Map, Value, json};

use super::registration::merge;
use crate::prom::openapi as prometheus;

const EXACT: &str = include_str!("openapi_exact.json");
/// Deeper than any document is.
const DEPTH_MAX: usize = 64;
/// What each path may answer that reads anything at all.
const ANYWHERE: [(&str, &str); 5] = [
    ("400", "A parameter or the body is not understood"),
    ("401", "Nobody knows who asks"),
    ("403", "Who asks may not"),
    ("429", "Too many requests, or no room for it; Retry-After says when"),
    ("503", "The server starts or stops, or cannot at the moment"),
];
/// What each path may answer that takes a body.
const WITH_A_BODY: [(&str, &str); 3] = [
    ("413", "The body is too large"),
    ("415", "A content type or encoding that is not known"),
    ("422", "Understood and refused"),
];
/// Shapes of answers, whose fields are as they are.
const ANSWERS: [&str; 4] = ["LatestMetric", "MetricTarget", "QueryForm", "StreamedEvent"];

/// Lays what is exact over a document.
pub fn lay_over(mut document: Value) -> Value {
    let exact: Value = serde_json::from_str(EXACT).unwrap_or_default();
    let schemas = exact["schemas"].as_object().map(Map::keys).into_iter().flatten();
    let requests: Vec<&String> = schemas.filter(|name| !ANSWERS.contains(&name.as_str())).collect();
    merge(&mut document["components"]["schemas"], &exact["schemas"], DEPTH_MAX);
    merge(&mut document["paths"], &exact["paths"], DEPTH_MAX);
    merge(&mut document["components"]["schemas"], &prometheus::schemas(), DEPTH_MAX);
    merge(&mut document["paths"], &Value::Object(prometheus::paths()), DEPTH_MAX);
    let patch = patch_of(&document["components"]["schemas"]["MetricCollectionRequest"]);
    document["components"]["schemas"]["TargetPatch"] = patch;
    for name in requests.into_iter().map(String::as_str).chain(["TargetPatch"]) {
        take_null(&mut document["components"]["schemas"][name]);
    }
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, methods) in paths {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            let overlay = &exact["parameters"][format!("{method} {path}")];
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                lay_parameter(parameter, overlay);
            }
            add_problems(operation, path.starts_with("/api/v1/metrics"));
        }
    }
    document
}

/// A patch may have any field of what it changes.
fn patch_of(request: &Value) -> Value {
    let mut patch = request.clone();
    if let Some(patch) = patch.as_object_mut() {
        patch.retain(|name, _| !matches!(name.as_str(), "required" | "oneOf"));
        patch.insert("description".to_owned(), json!("A merge patch (RFC 7396) of a MetricCollectionRequest"));
    }
    patch
}

/// A parameter is text: it is there or not, and never null.
fn lay_parameter(parameter: &mut Value, overlay: &Value) {
    if let Some(patch) = parameter["name"].as_str().and_then(|name| overlay.get(name)) {
        merge(&mut parameter["schema"], patch, DEPTH_MAX);
    }
    // Where not any text will do, `?name=` is as if it were not there.
    let schema = &parameter["schema"];
    let narrow = ["enum", "format"].iter().any(|word| !schema[word].is_null())
        || ["integer", "boolean"].iter().any(|kind| schema["type"] == *kind);
    if parameter["in"] == "query" && parameter["required"] != true && narrow {
        parameter["allowEmptyValue"] = json!(true);
    }
    let Some(kind) = parameter.pointer_mut("/schema/type") else { return };
    if let Some(kinds) = kind.as_array_mut() {
        kinds.retain(|kind| kind != "null");
        if let [one] = &kinds[..] {
            *kind = one.clone();
        }
    }
}

/// Errors have their own content type, and some come from everywhere.
fn add_problems(operation: &mut Value, with_problems: bool) {
    let takes_body = operation.get("requestBody").is_some();
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    for content in responses.values_mut().filter_map(|r| r.get_mut("content")?.as_object_mut()) {
        if content.get("application/json").is_some_and(|c| c["schema"] == problem)
            && let Some(body) = content.remove("application/json")
        {
            content.insert("application/problem+json".to_owned(), body);
        }
    }
    if !with_problems {
        return;
    }
    let with_a_body = WITH_A_BODY.iter().filter(|_| takes_body);
    for (status, text) in ANYWHERE.iter().chain(with_a_body) {
        let response = json!({"description": text, "content": {"application/problem+json": {"schema": problem}}});
        responses.entry(*status).or_insert(response);
    }
}

/// A field that may be left out may be null: they are read the same.
fn take_null(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(take_null),
        Value::Object(map) => {
            let needed = needed(map);
            for (name, field) in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
                if !needed.iter().any(|n| n == name) {
                    add_null(field);
                }
            }
            map.values_mut().for_each(take_null);
        }
        _ => {}
    }
}

/// The fields that an object has, or has in one of its variants.
fn needed(map: &Map<String, Value>) -> Vec<Value> {
    let variants = map.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let lists = map.get("required").into_iter().chain(variants.filter_map(|variant| variant.get("required")));
    lists.filter_map(Value::as_array).flatten().cloned().collect()
}

fn add_null(field: &mut Value) {
    let Some(map) = field.as_object_mut() else { return };
    let nothing = json!({"type": "null"});
    if let Some(reference) = map.remove("$ref") {
        map.insert("anyOf".to_owned(), json!([{"$ref": reference}, nothing]));
    } else if let Some(variants) = map.get_mut("oneOf").and_then(Value::as_array_mut) {
        if !variants.contains(&nothing) {
            variants.push(nothing);
        }
    } else {
        if let Some(words) = map.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
        match map.get_mut("type") {
            Some(Value::Array(kinds)) if !kinds.iter().any(|kind| kind == "null") => kinds.push("null".into()),
            Some(kind @ Value::String(_)) if *kind != "null" => *kind = json!([kind.clone(), "null"]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi;

    use super::super::openapi::ApiDoc;
    use super::*;

    fn derived() -> Value {
        serde_json::to_value(ApiDoc::openapi()).expect("it is JSON")
    }

    #[test]
    fn all_that_is_laid_over_lies_on_something() {
        let exact: Value = serde_json::from_str(EXACT).expect("it is JSON");
        let document = lay_over(derived());
        for (place, names) in exact["parameters"].as_object().expect("an object") {
            let (method, path) = place.split_once(' ').expect("a method and a path");
            let known = document["paths"][path][method]["parameters"].as_array().expect(place);
            for name in names.as_object().expect("an object").keys() {
                assert!(known.iter().any(|p| p["name"] == **name), "{place} has no {name}");
            }
        }
        let derived = derived();
        for (name, schema) in exact["schemas"].as_object().expect("an object") {
            let Some(fields) = derived["components"]["schemas"][name]["properties"].as_object() else { continue };
            for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
                // Milliseconds stand beside their durations, and are no fields of the derived shape.
                assert!(fields.contains_key(field) || field.ends_with("_ms"), "{name} has no {field}");
            }
        }
    }

    #[test]
    fn parameters_are_never_null_and_optional_fields_may_be() {
        let document = lay_over(derived());
        for (path, methods) in document["paths"].as_object().expect("an object") {
            for (method, operation) in methods.as_object().expect("an object") {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    assert!(!parameter["schema"]["type"].is_array(), "{method} {path} {}", parameter["name"]);
                }
            }
        }
        let request = &document["components"]["schemas"]["MetricCollectionRequest"]["properties"];
        assert_eq!(request["target_id"]["anyOf"][1]["type"], "null");
        assert_eq!(request["source_id"]["$ref"], "#/components/schemas/SourceId");
        let metric = &document["components"]["schemas"]["Metric"]["properties"];
        assert_eq!((&metric["value"]["anyOf"], &metric["unit"]["type"]), (&Value::Null, &json!(["string", "null"])));
    }

    #[test]
    fn nothing_is_null() {
        fn look(value: &Value, at: &str) {
            match value {
                // Words of an `enum` may be.
                Value::Object(map) => map.iter().filter(|(name, _)| *name != "enum").for_each(|(name, value)| {
                    assert!(!value.is_null(), "{at}/{name}");
                    look(value, &format!("{at}/{name}"));
                }),
                Value::Array(list) => list.iter().for_each(|value| look(value, at)),
                _ => {}
            }
        }
        look(&lay_over(derived()), "");
        // A list of types with one twice makes a schema that means nothing.
        assert!(!lay_over(derived()).to_string().contains(r#"["null","null"]"#));
    }

    #[test]
    fn errors_have_the_content_type_of_problems() {
        let text = lay_over(derived()).to_string();
        let wrong = r##""application/json":{"schema":{"$ref":"#/components/schemas/Problem"}}"##;
        assert!(!text.contains(wrong));
        assert!(text.contains(r##""application/problem+json":{"schema":{"$ref":"#/components/schemas/Problem"}}"##));
    }
}
