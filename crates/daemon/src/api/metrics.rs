//! `GET /v1/metrics` (daemon spec §22).

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use claudemesh_protocol::ErrorCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::Api;
use super::failure::Failure;

/// Version 0.0.4 of the text form of Prometheus.
const TEXT_FORM: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) async fn scrape(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    if !api.has_metrics {
        return Err(Failure::new(ErrorCode::NotFound, "figures are switched off")
            .hint("set metrics.prometheus = true in config.toml and restart the daemon"));
    }
    let figures = &api.daemon.context().figures;
    let text = figures.scrape(&api.daemon, api.streams.taken()).await?;
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, TEXT_FORM);
    Ok(response)
}
