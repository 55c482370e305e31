//! Where queries go that ask for more than is kept here: `quiver.sinks.queries`.

use std::path::Path;

use url::Url;

use super::fields::{Fields, Problems};
use super::sinks::{Http, SinkKind, Sinks, read_http, read_url};
use super::yaml::Node;

/// What the queries that are passed on have to know.
#[derive(Clone, Debug)]
pub struct Queries {
    /// The name of the store, for people.
    pub name: String,
    /// Its query URL, and how it is reached.
    pub http: Http,
    /// Everything is asked there.
    pub always: bool,
}

/// Reads `queries`, after all sinks: it may speak of one.
pub fn read(node: &Node, dir: &Path, sinks: &Sinks, problems: &mut Problems) -> Option<Queries> {
    let mut fields = Fields::open(node, "quiver.sinks.queries", problems);
    let url = read_url(&mut fields, problems);
    let always = match fields.string("when", problems).as_deref() {
        None | Some("" | "older") => false,
        Some("always") => true,
        Some(other) => {
            let text = format!("when must be older (than what is kept here) or always, not {other:?}");
            problems.error(fields.place_of("when"), text);
            false
        }
    };
    let sink = fields.string("sink", problems).filter(|name| !name.is_empty());
    let own = read_http(&mut fields, dir, url.clone(), Vec::new(), problems);
    let place = fields.place_of("sink");
    fields.finish(problems);
    let mut http = own?;
    let Some(sink) = sink else {
        let name = host_of(&http.url);
        return Some(Queries { name, http, always });
    };
    let found = sinks.all.iter().find_map(|one| match &one.kind {
        SinkKind::RemoteWrite(http, _) if one.name == sink => Some(http),
        _ => None,
    });
    let Some(found) = found else {
        problems.error(place, format!("there is no remote_write with name {sink:?}"));
        return None;
    };
    // Credentials are for their host.
    if (found.url.host_str(), found.url.port_or_known_default())
        != (http.url.host_str(), http.url.port_or_known_default())
    {
        let text = format!(
            "the url of queries is on another host or port than that of {sink:?}, whose credentials it would get"
        );
        problems.error(place, text);
        return None;
    }
    http.client = found.client.clone();
    Some(Queries { name: sink, http, always })
}

fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}
