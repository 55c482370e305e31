//! The syntax tree of a query as `parse_query` answers it: the shape that Prometheus' own pages read.
//!
//! Limits: recursion is as deep as the tree, which the parser bounds.

use model::Matcher;
use promql::ast::{
    Aggregate, At, Binary, Cardinality, DurationExpr, Expr, ExprKind, Grouping, Matching, RangeExtension, ValueType,
    VectorSelector,
};
use promql::{functions_table, go_text};

use super::json;

/// Writes an expression; members stand in order of their names, as Go writes maps.
pub fn write(out: &mut Vec<u8>, expr: &Expr) {
    match &expr.kind {
        ExprKind::Number(value) | ExprKind::Duration(value) => {
            Object::open(out).text("type", "numberLiteral").text("val", &go_text::float(*value)).close();
        }
        ExprKind::String(text) => Object::open(out).text("type", "stringLiteral").text("val", text).close(),
        ExprKind::Vector(selector) => write_selector(out, "vectorSelector", selector, None),
        ExprKind::Matrix { selector, range } => write_selector(out, "matrixSelector", selector, Some(range)),
        ExprKind::Subquery { expr, range, step, offset, at } => {
            let (timestamp, start_or_end) = at_parts(*at);
            Object::open(out)
                .with("expr", |out| write(out, expr))
                .number("offset", offset.as_ref().map_or(0, milliseconds))
                .number("range", milliseconds(range))
                .raw("startOrEnd", start_or_end)
                .number("step", step.as_ref().map_or(0, milliseconds))
                .raw("timestamp", &timestamp)
                .text("type", "subquery")
                .close();
        }
        ExprKind::Aggregate(aggregate) => write_aggregate(out, aggregate),
        ExprKind::Call { name, args } => Object::open(out)
            .with("args", |out| json::list(out, args, write))
            .with("func", |out| write_function(out, name))
            .text("type", "call")
            .close(),
        ExprKind::Binary(binary) => write_binary(out, binary),
        ExprKind::Unary { negative, expr } => Object::open(out)
            .with("expr", |out| write(out, expr))
            .text("op", if *negative { "-" } else { "+" })
            .text("type", "unaryExpr")
            .close(),
        ExprKind::Paren(inner) => {
            Object::open(out).with("expr", |out| write(out, inner)).text("type", "parenExpr").close();
        }
    }
}

/// An object under construction.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut Vec<u8>) -> Object<'o> {
        out.push(b'{');
        Object { out, empty: true }
    }

    fn with(mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) -> Object<'o> {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(b',');
        }
        json::string(self.out, name);
        self.out.push(b':');
        value(self.out);
        self
    }

    fn text(self, name: &str, value: &str) -> Object<'o> {
        self.with(name, |out| json::string(out, value))
    }

    fn raw(self, name: &str, value: &str) -> Object<'o> {
        self.with(name, |out| out.extend_from_slice(value.as_bytes()))
    }

    fn number(self, name: &str, value: i64) -> Object<'o> {
        self.raw(name, &value.to_string())
    }

    fn flag(self, name: &str, value: bool) -> Object<'o> {
        self.raw(name, if value { "true" } else { "false" })
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

fn write_selector(out: &mut Vec<u8>, kind: &str, selector: &VectorSelector, range: Option<&DurationExpr>) {
    let (timestamp, start_or_end) = at_parts(selector.at);
    let mut object = Object::open(out)
        .flag("anchored", selector.extension == Some(RangeExtension::Anchored))
        .with("matchers", |out| json::list(out, &selector.matchers, write_matcher))
        .text("name", selector.name.as_deref().unwrap_or_default())
        .number("offset", selector.offset.as_ref().map_or(0, milliseconds));
    if let Some(range) = range {
        object = object.number("range", milliseconds(range));
    }
    object
        .flag("smoothed", selector.extension == Some(RangeExtension::Smoothed))
        .raw("startOrEnd", start_or_end)
        .raw("timestamp", &timestamp)
        .text("type", kind)
        .close();
}

fn write_matcher(out: &mut Vec<u8>, matcher: &Matcher) {
    Object::open(out)
        .text("name", matcher.name())
        .text("type", matcher.op().as_str())
        .text("value", matcher.value())
        .close();
}

fn write_aggregate(out: &mut Vec<u8>, aggregate: &Aggregate) {
    let (without, grouping) = match &aggregate.grouping {
        Grouping::By(names) => (false, names),
        Grouping::Without(names) => (true, names),
    };
    Object::open(out)
        .with("expr", |out| write(out, &aggregate.expr))
        .with("grouping", |out| json::strings(out, grouping))
        .text("op", aggregate.op.as_str())
        .with("param", |out| match &aggregate.param {
            Some(param) => write(out, param),
            None => out.extend_from_slice(b"null"),
        })
        .text("type", "aggregation")
        .flag("without", without)
        .close();
}

fn write_function(out: &mut Vec<u8>, name: &str) {
    let Some(spec) = functions_table::lookup(name) else {
        return Object::open(out).text("name", name).close();
    };
    Object::open(out)
        .with("argTypes", |out| json::list(out, spec.args, |out, kind| json::string(out, type_word(*kind))))
        .text("name", name)
        .text("returnType", type_word(spec.returns))
        .number("variadic", i64::from(spec.variadic))
        .close();
}

fn write_binary(out: &mut Vec<u8>, binary: &Binary) {
    let vectors = [&binary.lhs, &binary.rhs].iter().all(|side| promql::value_type(side) == ValueType::Vector);
    // Between vectors there is always a matching; sets are many to many.
    let mut matching = binary.matching.clone().or_else(|| vectors.then(Matching::default));
    if let Some(matching) = matching.as_mut().filter(|_| binary.op.is_set()) {
        matching.cardinality = Cardinality::ManyToMany;
    }
    Object::open(out)
        .flag("bool", binary.return_bool)
        .with("lhs", |out| write(out, &binary.lhs))
        .with("matching", |out| match &matching {
            Some(matching) => write_matching(out, matching),
            None => out.extend_from_slice(b"null"),
        })
        .text("op", binary.op.as_str())
        .with("rhs", |out| write(out, &binary.rhs))
        .text("type", "binaryExpr")
        .close();
}

fn write_matching(out: &mut Vec<u8>, matching: &Matching) {
    let cardinality = match matching.cardinality {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    Object::open(out)
        .text("card", cardinality)
        .with("fillValues", |out| {
            Object::open(out)
                .with("lhs", |out| number_or_null(out, matching.fill_left))
                .with("rhs", |out| number_or_null(out, matching.fill_right))
                .close();
        })
        .with("include", |out| json::strings(out, &matching.include))
        .with("labels", |out| json::strings(out, &matching.labels))
        .flag("on", matching.on)
        .close();
}

/// JSON has no word for what is not finite.
fn number_or_null(out: &mut Vec<u8>, value: Option<f64>) {
    match value.filter(|v| v.is_finite()) {
        Some(value) => json::float(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// Gives `timestamp` and `startOrEnd`.
fn at_parts(at: Option<At>) -> (String, &'static str) {
    match at {
        None => ("null".to_owned(), "null"),
        Some(At::TimeMs(ms)) => (ms.to_string(), "null"),
        Some(At::Start) => ("null".to_owned(), "\"start\""),
        Some(At::End) => ("null".to_owned(), "\"end\""),
    }
}

/// A computed duration has no value before it is evaluated; Prometheus then says 0.
fn milliseconds(duration: &DurationExpr) -> i64 {
    match duration {
        DurationExpr::Ms(ms) => *ms,
        DurationExpr::Computed(_) => 0,
    }
}

fn type_word(kind: ValueType) -> &'static str {
    match kind {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tree(query: &str) -> Value {
        let mut out = Vec::new();
        write(&mut out, &promql::parse(query).unwrap());
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_selector_has_prometheus_shape() {
        let selector = |kind: &str| {
            json!({
                "type": kind, "name": "foo", "offset": 60_000, "timestamp": 5_000, "startOrEnd": null,
                "anchored": false, "smoothed": false,
                "matchers": [
                    {"name": "a", "type": "=~", "value": "b"}, {"name": "__name__", "type": "=", "value": "foo"},
                ],
            })
        };
        assert_eq!(tree("foo{a=~\"b\"} @ 5 offset 1m"), selector("vectorSelector"));
        let mut matrix = selector("matrixSelector");
        matrix["range"] = json!(300_000);
        assert_eq!(tree("rate(foo{a=~\"b\"}[5m] @ 5 offset 1m)")["args"][0], matrix);
    }

    #[test]
    fn operators_functions_and_aggregations_have_prometheus_shape() {
        let sum = tree("sum without (x) (a) / on (y) group_left (z) -b");
        assert_eq!(sum["lhs"]["grouping"], json!(["x"]));
        assert_eq!((&sum["lhs"]["without"], &sum["lhs"]["param"]), (&json!(true), &Value::Null));
        assert_eq!((&sum["rhs"]["type"], &sum["rhs"]["op"]), (&json!("unaryExpr"), &json!("-")));
        let matching = json!({
            "card": "many-to-one", "labels": ["y"], "on": true, "include": ["z"],
            "fillValues": {"lhs": null, "rhs": null},
        });
        assert_eq!(sum["matching"], matching);
        assert_eq!(tree("a and b")["matching"]["card"], "many-to-many");
        assert_eq!(tree("a > bool 1")["matching"], Value::Null);
        let function =
            json!({"name": "round", "argTypes": ["vector", "scalar"], "variadic": 1, "returnType": "vector"});
        assert_eq!(tree("round(a)")["func"], function);
        let subquery = &tree("max_over_time((a)[1h:5m] @ end())")["args"][0];
        assert_eq!((&subquery["range"], &subquery["step"]), (&json!(3_600_000), &json!(300_000)));
        assert_eq!((&subquery["startOrEnd"], &subquery["expr"]["type"]), (&json!("end"), &json!("parenExpr")));
        assert_eq!(tree("-1.5e3 + Inf")["rhs"], json!({"type": "numberLiteral", "val": "+Inf"}));
        assert_eq!(tree("topk(2, a)")["param"], json!({"type": "numberLiteral", "val": "2"}));
    }
}
