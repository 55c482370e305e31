//! Request parameters of the Prometheus paths, read as Prometheus reads them.
//!
//! Limits: a form body of 10 MiB and [`FORM_PARAMS_MAX`] parameters; times within ±73 million years, so that arithmetic on milliseconds cannot overflow.

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use jiff::Timestamp;
use model::Matcher;

use super::error::ApiError;
use crate::rest::problem::Problem;

const FORM_BYTES_MAX: usize = 10 << 20;
/// Each costs some fifty bytes beside its text, which may have two.
const FORM_PARAMS_MAX: usize = 10_000;
/// Far beyond any real time and far from where sums of milliseconds overflow.
const TIME_MS_MAX: i64 = i64::MAX / 4;
const MIN_TIME_TEXT: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

/// The earliest time a parameter may name; the default of an absent `start`.
pub const TIME_MIN_MS: i64 = -TIME_MS_MAX;
/// The latest time a parameter may name; the default of an absent `end`.
pub const TIME_MAX_MS: i64 = TIME_MS_MAX;

/// The parameters of a request: those of a form body first, then those of the URL.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads `a=1&b=2`.
    pub fn parse(query: &str) -> Params {
        let mut params = Params::default();
        params.extend(query.as_bytes());
        params
    }

    fn extend(&mut self, form: &[u8]) {
        self.0.extend(url::form_urlencoded::parse(form).map(|(k, v)| (k.into_owned(), v.into_owned())));
    }

    /// Gives the first value of a name; `""` when it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// Gives all values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Gives all names with their values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Writes them as a form.
    pub fn as_form(&self) -> String {
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(self.pairs()).finish()
    }

    /// Reads a time that must be there.
    pub fn time_ms(&self, name: &str) -> Result<i64, ApiError> {
        parse_time_ms(self.get(name)).map_err(|e| ApiError::invalid_parameter(name, e))
    }

    /// Reads a time that may be absent.
    pub fn time_ms_or(&self, name: &str, default: i64) -> Result<i64, ApiError> {
        match self.get(name) {
            "" => Ok(default),
            text => parse_time_ms(text)
                .map_err(|e| ApiError::invalid_parameter(name, format!("invalid time value for '{name}': {e}"))),
        }
    }

    /// Reads `limit`; `None` when it is absent or 0.
    pub fn limit(&self) -> Result<Option<usize>, ApiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(None);
        }
        let number = parse_int(text).map_err(|e| ApiError::invalid_parameter("limit", e))?;
        if number < 0 {
            return Err(ApiError::invalid_parameter("limit", "limit must be non-negative"));
        }
        Ok(usize::try_from(number).ok().filter(|n| *n > 0))
    }

    /// Reads the selectors of `match[]`.
    pub fn selectors(
        &self,
        parse: impl Fn(&str) -> Result<Vec<Matcher>, String>,
    ) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let mut sets = Vec::new();
        for text in self.all("match[]") {
            sets.push(parse(text).map_err(|e| ApiError::invalid_parameter("match[]", e))?);
        }
        if sets.iter().any(|set| set.iter().all(Matcher::matches_empty)) {
            let text = "match[] must contain at least one non-empty matcher";
            return Err(ApiError::invalid_parameter("match[]", text));
        }
        Ok(sets)
    }
}

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Params, Response> {
        let (parts, body) = request.into_parts();
        let mut params = Params::default();
        let url = parts.uri.query().unwrap_or("").as_bytes();
        let bad = |text: String| refused(parts.uri.path(), StatusCode::BAD_REQUEST, text);
        check_encoding(url).map_err(bad)?;
        let form = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"));
        if form && parts.method == Method::POST {
            let too_much = |text: String| refused(parts.uri.path(), StatusCode::PAYLOAD_TOO_LARGE, text);
            let form = axum::body::to_bytes(body, FORM_BYTES_MAX).await;
            let form = form.map_err(|_| too_much("http: request body too large".to_owned()))?;
            // A parameter stands behind each separator.
            if form.iter().filter(|b| **b == b'&').count() >= FORM_PARAMS_MAX {
                return Err(too_much(format!("more than {FORM_PARAMS_MAX} parameters")));
            }
            check_encoding(&form).map_err(bad)?;
            params.extend(&form);
        }
        params.extend(url);
        Ok(params)
    }
}

/// Finds what is no form: Go refuses it, and what is left when it is passed over is not what was asked.
fn check_encoding(form: &[u8]) -> Result<(), String> {
    let hex = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let mut plain = Vec::with_capacity(form.len());
    let mut at = 0;
    while let Some(byte) = form.get(at) {
        if *byte != b'%' {
            plain.push(*byte);
            at += 1;
            continue;
        }
        let Some((high, low)) = hex(form.get(at + 1)).zip(hex(form.get(at + 2))) else {
            let shown = String::from_utf8_lossy(&form[at..form.len().min(at + 3)]).into_owned();
            return Err(format!("invalid URL escape {shown:?}"));
        };
        plain.push((high << 4 | low) as u8);
        at += 3;
    }
    // Separators are ASCII: the whole is UTF-8 when each value is.
    std::str::from_utf8(&plain)
        .map(drop)
        .map_err(|e| format!("invalid UTF-8 at byte {} of what is encoded", e.valid_up_to()))
}

/// Answers in the shape of the path.
fn refused(path: &str, status: StatusCode, what: String) -> Response {
    let text = format!("error parsing form values: {what}");
    if path.starts_with("/api/v1/metrics") {
        return Problem::new(status, "invalid_form", text).into_response();
    }
    let mut response = ApiError::bad_data(text).into_response();
    *response.status_mut() = status;
    response
}

/// Reads Unix seconds with decimals, or RFC 3339; gives milliseconds.
pub fn parse_time_ms(text: &str) -> Result<i64, String> {
    let error = || format!("cannot parse {text:?} to a valid timestamp");
    if let Some(seconds) = parse_float(text) {
        let ms = (seconds * 1000.0).round();
        return if ms.abs() <= TIME_MS_MAX as f64 { Ok(ms as i64) } else { Err(error()) };
    }
    match text {
        MIN_TIME_TEXT => return Ok(TIME_MIN_MS),
        MAX_TIME_TEXT => return Ok(TIME_MAX_MS),
        _ => {}
    }
    if text.as_bytes().get(10) != Some(&b'T') {
        return Err(error());
    }
    text.parse::<Timestamp>().map(|t| t.as_millisecond()).map_err(|_| error())
}

/// Reads seconds with decimals or a duration such as `5m`; gives milliseconds with decimals.
pub fn parse_duration_ms(text: &str) -> Result<f64, String> {
    if let Some(seconds) = parse_float(text) {
        return if (seconds * 1e9).abs() < i64::MAX as f64 {
            Ok(seconds * 1000.0)
        } else {
            Err(format!("cannot parse {text:?} to a valid duration. It overflows int64"))
        };
    }
    model::parse_duration_ms(text).map(|ms| ms as f64).map_err(|_| format!("cannot parse {text:?} to a valid duration"))
}

/// Reads a finite number; what Rust reads and Go does not (nothing) and infinities are left to the caller's error.
fn parse_float(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|v| v.is_finite())
}

/// Reads a whole number, with the error text of Go's `strconv.Atoi`.
pub fn parse_int(text: &str) -> Result<i64, String> {
    text.parse::<i64>().map_err(|e| {
        let reason = match e.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {text:?}: {reason}")
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn times_in_all_spellings() {
        let known = [
            ("0", 0),
            ("1435781430.781", 1_435_781_430_781),
            ("1.5e3", 1_500_000),
            ("-1.5", -1500),
            ("2015-06-03T13:21:58.555Z", 1_433_337_718_555),
            ("2015-06-03T14:21:58.555+01:00", 1_433_337_718_555),
            (MIN_TIME_TEXT, TIME_MIN_MS),
            (MAX_TIME_TEXT, TIME_MAX_MS),
        ];
        for (text, ms) in known {
            assert_eq!(parse_time_ms(text), Ok(ms), "{text}");
        }
        for bad in
            ["", "foo", "30s", "2015-06-03", "2015-13-03T13:21:58Z", "NaN", "Inf", "1e300", "2015-06-03 13:21:58Z"]
        {
            assert_eq!(parse_time_ms(bad), Err(format!("cannot parse {bad:?} to a valid timestamp")));
        }
    }

    #[test]
    fn durations_in_all_spellings() {
        assert_eq!(parse_duration_ms("1.5"), Ok(1500.0));
        assert_eq!(parse_duration_ms("1h30m"), Ok(5_400_000.0));
        assert_eq!(parse_duration_ms("foo"), Err("cannot parse \"foo\" to a valid duration".to_owned()));
        assert_eq!(
            parse_duration_ms("1e30"),
            Err("cannot parse \"1e30\" to a valid duration. It overflows int64".to_owned())
        );
    }

    #[test]
    fn limits_speak_like_prometheus() {
        let limit = |q: &str| Params::parse(q).limit().map_err(|e| e.text);
        assert_eq!(limit(""), Ok(None));
        assert_eq!(limit("limit=0"), Ok(None));
        assert_eq!(limit("limit=7"), Ok(Some(7)));
        assert_eq!(limit("limit=-1"), Err("invalid parameter \"limit\": limit must be non-negative".to_owned()));
        assert_eq!(
            limit("limit=x"),
            Err("invalid parameter \"limit\": strconv.Atoi: parsing \"x\": invalid syntax".to_owned())
        );
    }

    #[tokio::test]
    async fn forms_of_too_many_parameters_are_refused() {
        let form = |n: usize| {
            let request = http::Request::post("/").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            request.body(Body::from("a=1&".repeat(n - 1) + "b=2")).unwrap()
        };
        let params = Params::from_request(form(FORM_PARAMS_MAX), &()).await.unwrap();
        assert_eq!((params.get("b"), params.all("a").count()), ("2", FORM_PARAMS_MAX - 1));
        let refused = Params::from_request(form(FORM_PARAMS_MAX + 1), &()).await.err().map(|r| r.status());
        assert_eq!(refused, Some(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn what_is_no_form_is_found() {
        for good in ["", "a=1&b=%C3%BC+x", "match[]=up%7B%7D", "=&&=", "a=\u{fc}"] {
            assert_eq!(check_encoding(good.as_bytes()), Ok(()), "{good}");
        }
        for (bad, word) in
            [("a=%", "\"%\""), ("a=%zz", "\"%zz\""), ("a=%4", "\"%4\""), ("a=%FF", "byte 2"), ("a=%C3&%BC=1", "UTF-8")]
        {
            assert!(check_encoding(bad.as_bytes()).is_err_and(|e| e.contains(word)), "{bad}");
        }
    }

    #[test]
    fn the_first_value_counts_and_match_collects_all() {
        let params = Params::parse("a=1&match%5B%5D=x&a=2&match[]=y+z");
        assert_eq!(params.get("a"), "1");
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["x", "y z"]);
    }
}
