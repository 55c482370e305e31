//! How others reach the server: the URL that they know, and the path below which it answers. Both as Prometheus has them.

use axum::response::{IntoResponse, Response};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderValue, StatusCode, header};
use url::Url;

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// The URL that others know, without a slash at its end.
    url: Option<Url>,
    /// `""`, or `/x/y`: everything is answered below it.
    prefix: String,
}

impl Outside {
    /// Reads `--web.external-url` and `--web.route-prefix`; without the second the path of the first counts.
    ///
    /// **Errors** are sentences.
    pub fn read(url: Option<&str>, prefix: Option<&str>) -> Result<Outside, String> {
        let url = url.filter(|url| !url.is_empty()).map(outer).transpose()?;
        let path = url.as_ref().map_or("", |url| url.path());
        let prefix = plain(prefix.filter(|prefix| !prefix.is_empty()).unwrap_or(path));
        let fits = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
        if !prefix.chars().all(fits) || prefix.split('/').any(|part| part == "." || part == "..") {
            return Err(format!("--web.route-prefix {prefix:?}: letters, digits, - . _ ~ and / make a path here"));
        }
        Ok(Outside { url, prefix })
    }

    /// Gives the URL that others know, if it was said.
    pub fn url(&self) -> Option<String> {
        self.url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned())
    }

    /// Gives its host and port, if it was said.
    pub fn host(&self) -> Option<String> {
        let url = self.url.as_ref()?;
        let host = url.host_str()?;
        Some(url.port().map_or(host.to_owned(), |port| format!("{host}:{port}")))
    }

    /// Gives the path below which everything is answered.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Gives the path that others see in front of ours.
    pub fn shown(&self) -> String {
        self.url.as_ref().map_or_else(|| self.prefix.clone(), |url| plain(url.path()))
    }

    /// Takes the prefix off a request's path.
    ///
    /// **Errors** with the answer to a path that is not below it.
    pub fn inner(&self, uri: &Uri) -> Result<Uri, Box<Response>> {
        let path = uri.path();
        if matches!(path, "/" | "") || path == self.prefix {
            // The root may be a proxy's: from there to where it is answered, as Prometheus does.
            let to = if path == self.prefix { self.shown() } else { self.prefix.clone() };
            let location = HeaderValue::from_str(&format!("{to}/")).map_err(|_| nothing())?;
            return Err(Box::new((StatusCode::FOUND, [(header::LOCATION, location)]).into_response()));
        }
        let rest = path.strip_prefix(&self.prefix).filter(|rest| rest.starts_with('/')).ok_or_else(nothing)?;
        let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(format!("{rest}{query}")).map_err(|_| nothing())?);
        Uri::from_parts(parts).map_err(|_| nothing())
    }

    /// Puts what others see in front of a place that an answer names.
    pub fn outward(&self, response: &mut Response) {
        let shown = self.shown();
        let headers = response.headers_mut();
        let here = |text: &&str| text.starts_with('/') && !text.starts_with("//");
        let place = headers.get(header::LOCATION).and_then(|place| place.to_str().ok()).filter(here);
        if let Some(Ok(place)) = place.map(|place| HeaderValue::from_str(&format!("{shown}{place}"))) {
            headers.insert(header::LOCATION, place);
        }
        let link = headers.get(header::LINK).and_then(|link| link.to_str().ok()?.strip_prefix("</"));
        if let Some(Ok(link)) = link.map(|rest| HeaderValue::from_str(&format!("<{shown}/{rest}"))) {
            headers.insert(header::LINK, link);
        }
    }
}

fn outer(text: &str) -> Result<Url, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!("--web.external-url {text:?}: {why}; such as https://metrics.example.org/quiver")
    };
    let mut url = Url::parse(text).map_err(|e| wrong(&e))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong(&"it begins with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(&"it has a host and a path, nothing else"));
    }
    let path = plain(url.path());
    url.set_path(&path);
    Ok(url)
}

/// Gives a path with a slash at its beginning and none at its end; `""` for the root.
fn plain(path: &str) -> String {
    match path.trim_matches('/') {
        "" => String::new(),
        inside => format!("/{inside}"),
    }
}

fn nothing() -> Box<Response> {
    Box::new((StatusCode::NOT_FOUND, "404 page not found\n").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_the_path_of_the_url_unless_it_is_said() {
        let read = |url: &str, prefix: &str| {
            let outside = Outside::read(Some(url), Some(prefix)).unwrap();
            (outside.url().unwrap_or_default(), outside.prefix().to_owned(), outside.shown())
        };
        let all = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(read("", ""), all("", "", ""));
        assert_eq!(read("", "q/"), all("", "/q", "/q"));
        assert_eq!(read("https://m.example.org", ""), all("https://m.example.org", "", ""));
        assert_eq!(read("http://m:8080//q/r/", ""), all("http://m:8080/q/r", "/q/r", "/q/r"));
        assert_eq!(read("http://m/q", "/"), all("http://m/q", "", "/q"));
        assert_eq!(Outside::read(Some("http://m:8080/q"), None).unwrap().host().as_deref(), Some("m:8080"));
        for (url, prefix) in
            [("m/q", ""), ("ftp://m", ""), ("http://m?x", ""), ("http://u:p@m", ""), ("", "/a/../b"), ("", "/a b")]
        {
            assert!(Outside::read(Some(url), Some(prefix)).is_err(), "{url} {prefix}");
        }
    }

    #[test]
    fn paths_come_in_and_go_out() {
        let outside = Outside::read(Some("https://m/out"), Some("/in")).unwrap();
        let inner = |uri: &str| {
            outside.inner(&uri.parse().unwrap()).map(|uri| uri.to_string()).map_err(|r| r.status().as_u16())
        };
        assert_eq!(inner("/in/api/v1/query?query=up%2F"), Ok("/api/v1/query?query=up%2F".to_owned()));
        assert_eq!(inner("/in/"), Ok("/".to_owned()));
        assert_eq!((inner("/"), inner("/in")), (Err(302), Err(302)));
        assert_eq!((inner("/inside"), inner("/api/v1/query")), (Err(404), Err(404)));
        let mut response = (StatusCode::CREATED, [(header::LOCATION, "/api/v1/x")]).into_response();
        outside.outward(&mut response);
        assert_eq!(response.headers()[header::LOCATION], "/out/api/v1/x");
        let mut response = [(header::LINK, "</api/v1/x?cursor=1>; rel=\"next\"")].into_response();
        outside.outward(&mut response);
        assert_eq!(response.headers()[header::LINK], "</out/api/v1/x?cursor=1>; rel=\"next\"");
        let to = |outside: &Outside, uri: &str| {
            let answer = outside.inner(&uri.parse().unwrap()).unwrap_err();
            answer.headers()[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!((to(&outside, "/"), to(&outside, "/in")), ("/in/".to_owned(), "/out/".to_owned()));
        let rootless = Outside::read(Some("http://m/"), Some("/in")).unwrap();
        assert_eq!(to(&rootless, "/"), "/in/", "it does not lead to itself");
    }
}
