//! What is answered to which request.

use super::{auth::Credentials, request::Request, response::Response};

/// The way to an answer.
pub(super) enum Route {
    Known(Response),
    /// It takes the registry.
    Asked(Ask),
}

/// What somebody has to look up in the registry.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub(super) question: Question,
    pub(super) accepts_gzip: bool,
    pub(super) head_only: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Metrics,
    Page,
    IsReady,
}

pub(super) fn route(request: &Request, credentials: &Credentials) -> Route {
    let head_only = request.method == "HEAD";
    let known = |response: Response| Route::Known(response.head_only(head_only));
    if !credentials.admit(request.authorization.as_deref()) {
        let refusal = Response::refusal(401);
        return known(refusal.with("WWW-Authenticate", credentials.challenge()));
    }
    let question = match request.path.as_str() {
        "/metrics" => Some(Question::Metrics),
        "/" => Some(Question::Page),
        "/-/ready" => Some(Question::IsReady),
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
        Some(question) => Route::Asked(Ask {
            question,
            accepts_gzip: request.accepts_gzip,
            head_only,
        }),
        None => known(Response::text(200, "healthy\n")),
    }
}
