//! `POST /v1/profile`: what others see of a session or of the member (daemon spec §9.7).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use claudemesh_ipc::api::{ProfileReply, ProfileRequest};
use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::capability::Capability;
use claudemesh_protocol::limits::SUMMARY_MAX_CHARS;
use claudemesh_protocol::status::StatusSource;
use claudemesh_protocol::wire::{ClientFrame, SetProfile, SetStatus, SetSummary, SetVisible};

use super::caller::Caller;
use super::failure::Failure;
use super::{Api, input};
use crate::mesh::{MeshHandle, Via};

pub(super) async fn profile(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<ProfileReply>, Failure> {
    let body: ProfileRequest = input::json(request, input::MEDIUM).await?;
    caller.need_capability(Capability::ProfileWrite)?;
    if body.summary.as_ref().is_some_and(|text| text.chars().count() > SUMMARY_MAX_CHARS) {
        let message = format!("a summary has at most {SUMMARY_MAX_CHARS} characters");
        return Err(Failure::field("summary", message));
    }
    let (applied, frames) = frames_of(&body);
    let meshes = api.meshes(body.mesh.as_deref(), &caller)?;
    let mut reply = ProfileReply {
        ok: true,
        applied: applied.into_iter().map(str::to_owned).collect(),
        meshes: Vec::new(),
        target: "member".to_owned(),
    };
    let mut last_failure = None;
    for mesh in &meshes {
        let roads = api.presences(mesh, &caller);
        if roads.iter().any(|via| matches!(via, Via::Session(_))) {
            "session".clone_into(&mut reply.target);
        }
        match apply(mesh, &roads, &frames).await {
            Ok(()) => {
                if let Some(status) = body.status {
                    api.daemon.set_status_by_hand(mesh.slug(), &roads, status).await;
                }
                reply.meshes.push(mesh.slug().to_owned());
            }
            Err(failure) => last_failure = Some(failure),
        }
    }
    match last_failure {
        Some(failure) if reply.meshes.is_empty() => Err(failure),
        _ => Ok(Json(reply)),
    }
}

impl Api {
    /// The presences that a caller speaks for: its session's; without one all own sessions of the mesh, else the
    /// member's.
    pub(super) fn presences(&self, mesh: &MeshHandle, caller: &Caller) -> Vec<Via> {
        if let Some(session) = &caller.session {
            return vec![session.key().map_or(Via::Member, Via::Session)];
        }
        let live = self.daemon.context().sessions.live(mesh.slug());
        let sessions: Vec<_> =
            live.iter().filter_map(|session| session.key()).map(Via::Session).collect();
        if sessions.is_empty() { vec![Via::Member] } else { sessions }
    }
}

async fn apply(mesh: &MeshHandle, roads: &[Via], frames: &[ClientFrame]) -> Result<(), Failure> {
    for via in roads {
        for frame in frames {
            mesh.request(*via, frame.clone()).await.map_err(|error| broker_failure(&error))?;
        }
    }
    Ok(())
}

/// A request to the broker that failed.
pub(super) fn broker_failure(error: &crate::mesh::RequestError) -> Failure {
    let failure = Failure::of_broker(&error.code, error.message.clone());
    match error.retry_after_ms {
        Some(wait) => failure.retry_after(std::time::Duration::from_millis(wait)),
        None if error.code == ErrorCode::BrokerUnavailable.as_str() => failure.hint(
            "the daemon keeps trying to connect; `claudemesh daemon status` shows how it stands",
        ),
        None => failure,
    }
}

fn frames_of(body: &ProfileRequest) -> (Vec<&'static str>, Vec<ClientFrame>) {
    let mut applied = Vec::new();
    let mut frames = Vec::new();
    if let Some(summary) = &body.summary {
        applied.push("summary");
        frames.push(ClientFrame::SetSummary(Box::new(SetSummary { summary: summary.clone() })));
    }
    if let Some(status) = body.status {
        applied.push("status");
        let source = Some(StatusSource::Manual);
        frames.push(ClientFrame::SetStatus(Box::new(SetStatus { status, source })));
    }
    if let Some(visible) = body.visible {
        applied.push("visible");
        frames.push(ClientFrame::SetVisible(Box::new(SetVisible { visible })));
    }
    let fields = [
        ("avatar", body.avatar.is_some()),
        ("title", body.title.is_some()),
        ("bio", body.bio.is_some()),
        ("capabilities", body.capabilities.is_some()),
    ];
    if fields.iter().any(|(_, is_given)| *is_given) {
        applied.extend(fields.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name));
        frames.push(ClientFrame::SetProfile(Box::new(SetProfile {
            avatar: body.avatar.clone(),
            title: body.title.clone(),
            bio: body.bio.clone(),
            role: None,
            capabilities: body.capabilities.clone(),
        })));
    }
    (applied, frames)
}
