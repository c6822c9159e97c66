//! Authorizes a request and maps its path to a response.

use super::{auth::AuthPolicy, request::Request, response::Response};

/// The result of routing a request.
pub(super) enum Route {
    Respond(Response),
    /// The response needs the contents of the registry.
    Collect(CollectRequest),
}

/// A request that the collector thread answers.
#[derive(Clone, Copy)]
pub(super) struct CollectRequest {
    pub(super) resource: Resource,
    pub(super) accepts_gzip: bool,
    pub(super) head_only: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Metrics,
    Page,
    Readiness,
}

/// Picks the response, credentials first: without one, not even the paths are disclosed.
pub(super) fn route(request: &Request, auth: &AuthPolicy) -> Route {
    let head_only = request.method == "HEAD";
    let respond = |response: Response| Route::Respond(response.head_only(head_only));
    if !auth.is_authorized(request.authorization.as_deref()) {
        let response = Response::status_only(401);
        return respond(response.with_header("WWW-Authenticate", auth.challenge()));
    }
    let resource = match request.path.as_str() {
        "/metrics" => Some(Resource::Metrics),
        "/" => Some(Resource::Page),
        "/-/ready" => Some(Resource::Readiness),
        "/-/healthy" => None,
        _ => {
            return respond(Response::text(
                404,
                "404 Not Found\nThe metrics are at /metrics.\n",
            ));
        }
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return respond(Response::status_only(405).with_header("Allow", "GET, HEAD"));
    }
    match resource {
        Some(resource) => Route::Collect(CollectRequest {
            resource,
            accepts_gzip: request.accepts_gzip,
            head_only,
        }),
        None => respond(Response::text(200, "healthy\n")),
    }
}
