//! `POST /hook/set-status`: statuses that agents' hooks of old clients report over HTTP (broker spec §2.3). Off unless
//! switched on; hooks of ours go to the daemon.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::random;
use claudemesh_protocol::id::random_row_id;
use claudemesh_protocol::limits::{HELLO_TEXT_MAX_BYTES, HOOK_SOURCES_MAX};
use claudemesh_protocol::{ErrorCode, PeerStatus, PresenceId};
use claudemesh_store::PendingStatus;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use crate::edge::error::{ApiError, ApiResult};
use crate::edge::limit::Limited;
use crate::edge::request::Fields;
use crate::live;
use crate::state::Broker;

/// The window reports are counted in.
const WINDOW: Duration = Duration::from_mins(1);

/// Body of the answer.
#[derive(Serialize)]
pub(crate) struct Reported {
    ok: bool,
    /// The first presence the report concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_id: Option<PresenceId>,
    /// Nobody fits yet; whoever connects soon takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<bool>,
}

/// Takes one report.
///
/// # Errors
/// `not_found` while the endpoint is off, `malformed`, `payload_too_large`, `rate_limited`, `unavailable`.
pub(crate) async fn set_status(
    State(broker): State<Broker>,
    body: Body,
) -> ApiResult<Json<Reported>> {
    if !broker.settings().hook_endpoint {
        return Err(ApiError::new(ErrorCode::NotFound, "no such address"));
    }
    broker.metrics().hook_requests.inc();
    let fields = Fields::read(body).await?;
    let session_id = bounded(&fields, "session_id")?;
    let cwd = bounded(&fields, "cwd")?;
    let pid = fields.optional_integer("pid")?;
    let status: PeerStatus = fields
        .text("status")?
        .parse()
        .map_err(|_| ApiError::field("status", "idle, working or dnd"))?;
    if let Err(limited) = broker.hook_reports().take(&broker, pid, cwd) {
        broker.metrics().hook_requests_limited.inc();
        return Err(limited.into());
    }
    let concerned = live::report_status(&broker, session_id, cwd, status).await;
    if let Some(presence_id) = concerned.into_iter().next() {
        return Ok(Json(Reported { ok: true, presence_id: Some(presence_id), pending: None }));
    }
    let pending = PendingStatus {
        id: random_row_id(random::fill),
        pid,
        cwd: cwd.to_owned(),
        session_id: session_id.to_owned(),
        status,
        created_at: broker.now(),
    };
    broker.store().keep_pending_status(pending).await?;
    Ok(Json(Reported { ok: true, presence_id: None, pending: Some(true) }))
}

/// A text as long as a hello may have it, so that it can fit one.
fn bounded<'a>(fields: &'a Fields, name: &str) -> ApiResult<&'a str> {
    let text = fields.text(name)?;
    if text.is_empty() || text.len() > HELLO_TEXT_MAX_BYTES {
        return Err(ApiError::field(name, "1 to 4096 bytes of text"));
    }
    Ok(text)
}

/// When each process in each directory reported within the last minute. In memory; at most [`HOOK_SOURCES_MAX`] of them
/// are counted, and while that many report no other is heard.
#[derive(Default)]
pub(crate) struct HookReports(Mutex<BTreeMap<[u8; 32], VecDeque<Instant>>>);

impl HookReports {
    fn take(&self, broker: &Broker, pid: Option<i64>, cwd: &str) -> Result<(), Limited> {
        let per_minute = broker.limits().hook_rate_limit_per_min as usize;
        let pid = pid.map_or_else(String::new, |pid| pid.to_string());
        self.take_at(sha256(format!("{pid}:{cwd}").as_bytes()), per_minute, Instant::now())
    }

    fn take_at(&self, source: [u8; 32], per_minute: usize, now: Instant) -> Result<(), Limited> {
        let is_past = |at: &Instant| now.saturating_duration_since(*at) >= WINDOW;
        let mut sources = self.0.lock();
        if !sources.contains_key(&source) && sources.len() >= HOOK_SOURCES_MAX {
            sources.retain(|_, reports| reports.back().is_some_and(|at| !is_past(at)));
            if sources.len() >= HOOK_SOURCES_MAX {
                return Err(Limited { retry_after_seconds: WINDOW.as_secs() });
            }
        }
        let reports = sources.entry(source).or_default();
        while reports.front().is_some_and(is_past) {
            reports.pop_front();
        }
        if let Some(oldest) = reports.front().filter(|_| reports.len() >= per_minute) {
            let wait = WINDOW.saturating_sub(now.saturating_duration_since(*oldest));
            return Err(Limited { retry_after_seconds: wait.as_secs().saturating_add(1) });
        }
        reports.push_back(now);
        Ok(())
    }

    /// Forgets who has been quiet; runs every five minutes.
    pub(crate) fn forget_quiet(&self) {
        let now = Instant::now();
        self.0.lock().retain(|_, reports| {
            reports.back().is_some_and(|at| now.saturating_duration_since(*at) < WINDOW)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// STAT-5: thirty in any minute, not thirty at the start and one every two seconds after.
    #[test]
    fn the_window_slides() {
        let reports = HookReports::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..30 {
            assert!(reports.take_at([1; 32], 30, at(second)).is_ok());
        }
        let limited = reports.take_at([1; 32], 30, at(59)).unwrap_err();
        assert_eq!(limited.retry_after_seconds, 2);
        assert!(reports.take_at([2; 32], 30, at(59)).is_ok());
        assert!(reports.take_at([1; 32], 30, at(60)).is_ok());
        assert!(reports.take_at([1; 32], 30, at(60)).is_err());
    }

    #[test]
    fn the_memory_is_bounded_and_quiet_sources_make_room() {
        let reports = HookReports::default();
        let start = Instant::now();
        let source = |number: usize| sha256(&number.to_be_bytes());
        for number in 0..HOOK_SOURCES_MAX {
            assert!(reports.take_at(source(number), 30, start).is_ok());
        }
        assert!(reports.take_at(source(HOOK_SOURCES_MAX), 30, start).is_err());
        assert!(reports.take_at(source(0), 30, start).is_ok());
        assert!(reports.take_at(source(HOOK_SOURCES_MAX), 30, start + WINDOW).is_ok());
    }
}
