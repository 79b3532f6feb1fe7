//! Plain HTTP: on the client port beside gRPC, and on a port of its own for probes and scrapes.

mod checks;
mod health;
mod process;
mod scrape;

use crate::etcd::Service;
use crate::etcd::versions;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use std::sync::Arc;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Answers a request on the client port.
pub(crate) async fn client_port(service: Arc<Service>, request: Request<()>) -> Response<Bytes> {
    match request.uri().path() {
        "/version" => get(&request).unwrap_or_else(|| version(&service)),
        _ => health_port(service, request).await,
    }
}

/// Answers a request on the health port.
pub(crate) async fn health_port(service: Arc<Service>, request: Request<()>) -> Response<Bytes> {
    let path = request.uri().path();
    let query = Query(request.uri().query().unwrap_or(""));
    let is_probe = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    if !(path == "/metrics" || path == "/health" || is_probe("/livez") || is_probe("/readyz")) {
        return answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n");
    }
    if let Some(refusal) = get(&request) {
        return refusal;
    }
    match path {
        "/metrics" => scrape::scrape(&service),
        "/health" => health::health(&service, query).await,
        _ => checks::probe(&service, path, query).await,
    }
}

/// Answers on the health port while there is no node yet: the process lives and is not ready.
pub(crate) fn before_a_node(head: &http::request::Parts, why: &str) -> Response<Bytes> {
    let path = head.uri.path();
    if head.method != Method::GET {
        return not_allowed();
    }
    let is_probe = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let unready = StatusCode::SERVICE_UNAVAILABLE;
    match path {
        _ if is_probe("/livez") => answer(StatusCode::OK, TEXT, "ok\n"),
        _ if is_probe("/readyz") => answer(unready, TEXT, format!("[-]start failed: {why}\n")),
        "/health" => {
            let body = serde_json::json!({ "health": "false", "reason": why });
            answer(unready, JSON, body.to_string())
        }
        "/metrics" => answer(unready, TEXT, format!("{why}\n")),
        _ => answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
    }
}

fn version(service: &Service) -> Response<Bytes> {
    let cluster = if service.has_leader() { versions::CLUSTER } else { "not_decided" };
    let text = format!(
        r#"{{"etcdserver":"{}","etcdcluster":"{cluster}","storage":"{}"}}"#,
        versions::SERVER,
        versions::STORAGE
    );
    answer(StatusCode::OK, JSON, text)
}

/// A refusal of whatever is not GET.
fn get(request: &Request<()>) -> Option<Response<Bytes>> {
    if request.method() == Method::GET {
        return None;
    }
    Some(not_allowed())
}

fn not_allowed() -> Response<Bytes> {
    let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n");
    refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    refusal
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The part of a URL after the question mark.
#[derive(Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// All values of a parameter; empty for one without.
    fn all(self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    fn has(self, name: &'a str) -> bool {
        self.all(name).next().is_some()
    }

    fn is_true(self, name: &'a str) -> bool {
        self.all(name).any(|value| value.eq_ignore_ascii_case("true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query("verbose&exclude=a&exclude=b&serializable=True");
        assert!(query.has("verbose") && !query.has("verb"));
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["a", "b"]);
        assert!(query.is_true("serializable") && !query.is_true("verbose"));
        assert!(!Query("").has("x"));
    }
}
