//! `GET /health`, `GET /health/ready`, `GET /metrics` (broker spec §5.1, §6.5).

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use claudemesh_crypto::tokens::SecretText;
use claudemesh_protocol::ErrorCode;
use serde::Serialize;

use crate::edge::error::{ApiError, ApiResult};
use crate::edge::limit::ClientAddress;
use crate::state::{Broker, Readiness};

/// Longest wait for the store's sign of life.
const STORE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Version of this build.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Body of `GET /health`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    db: &'static str,
    version: &'static str,
    #[serde(rename = "gitSha")]
    git_sha: String,
    /// Seconds since the start.
    uptime: u64,
    #[serde(rename = "brokerPubkey")]
    broker_pubkey: String,
    features: Vec<&'static str>,
}

/// Body of `GET /health/ready`.
#[derive(Serialize)]
struct ReadyBody {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    version: &'static str,
    #[serde(rename = "gitSha")]
    git_sha: String,
}

/// Liveness: 200 also while the database is down.
pub(crate) async fn health(State(broker): State<Broker>) -> Response {
    let is_up = is_store_up(&broker).await;
    Json(Health {
        status: "ok",
        db: if is_up { "up" } else { "down" },
        version: VERSION,
        git_sha: broker.settings().git_sha.clone(),
        uptime: broker.now().since(broker.started_at()).as_secs(),
        broker_pubkey: broker.signing_key().public().to_hex(),
        features: vec!["invites_v2", "message_status"],
    })
    .into_response()
}

/// Whether new work should be sent here.
pub(crate) async fn ready(State(broker): State<Broker>) -> Response {
    let reason = match broker.readiness() {
        Readiness::Draining => Some("draining"),
        Readiness::Starting => Some("readiness_check_error"),
        Readiness::Ready if !is_store_up(&broker).await => Some("db_down"),
        Readiness::Ready => None,
    };
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = ReadyBody {
        status: if reason.is_none() { "ready" } else { "not_ready" },
        reason,
        version: VERSION,
        git_sha: broker.settings().git_sha.clone(),
    };
    (status, Json(body)).into_response()
}

/// Prometheus text, for this machine or with the token.
pub(crate) async fn metrics(
    State(broker): State<Broker>,
    client: ClientAddress,
    headers: HeaderMap,
) -> ApiResult<Response> {
    if !client.is_local && !has_metrics_token(&broker, &headers) {
        return Err(ApiError::new(
            ErrorCode::Unauthorized,
            "metrics are for this machine, or with the token",
        ));
    }
    crate::live::count_presences(&broker);
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((content_type, broker.metrics().render()).into_response())
}

fn has_metrics_token(broker: &Broker, headers: &HeaderMap) -> bool {
    let presented = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match (&broker.settings().metrics_token, presented) {
        (Some(token), Some(presented)) => **token == SecretText::new(presented.to_owned()),
        _ => false,
    }
}

/// Asks the store, within [`STORE_CHECK_TIMEOUT`], and notes the answer in the metrics.
pub(crate) async fn is_store_up(broker: &Broker) -> bool {
    let answer = tokio::time::timeout(STORE_CHECK_TIMEOUT, broker.store().ping()).await;
    let is_up = matches!(answer, Ok(Ok(())));
    broker.metrics().db_healthy.set(i64::from(is_up));
    is_up
}
