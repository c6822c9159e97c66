//! What is answered to which request.

use super::{auth::AuthPolicy, request::Request, response::Response};

/// The way to an answer.
pub(super) enum Route {
    Respond(Response),
    /// It takes the registry.
    Collect(CollectRequest),
}

/// What somebody has to look up in the registry.
#[derive(Clone, Copy)]
pub(super) struct CollectRequest {
    pub(super) question: Resource,
    pub(super) accepts_gzip: bool,
    pub(super) head_only: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Metrics,
    Page,
    Readiness,
}

pub(super) fn route(request: &Request, auth: &AuthPolicy) -> Route {
    let head_only = request.method == "HEAD";
    let known = |response: Response| Route::Respond(response.head_only(head_only));
    if !auth.admit(request.authorization.as_deref()) {
        let refusal = Response::refusal(401);
        return known(refusal.with("WWW-Authenticate", auth.challenge()));
    }
    let question = match request.path.as_str() {
        "/metrics" => Some(Resource::Metrics),
        "/" => Some(Resource::Page),
        "/-/ready" => Some(Resource::Readiness),
        "/-/healthy" => None,
        _ => {
            return known(Response::text(
                404,
                "404 Not Found\nThe metrics are at /metrics.\n",
            ));
        }
    };
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return known(Response::refusal(405).with("Allow", "GET, HEAD"));
    }
    match question {
        Some(question) => Route::Collect(CollectRequest {
            question,
            accepts_gzip: request.accepts_gzip,
            head_only,
        }),
        None => known(Response::text(200, "healthy\n")),
    }
}
