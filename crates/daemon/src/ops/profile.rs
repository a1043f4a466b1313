//! What others see of a session, or of the member (MCP spec §7.2, daemon spec §9.7).

use claudemesh_ipc::api::ProfileRequest;
use claudemesh_protocol::PeerStatus;
use claudemesh_protocol::ops::profile::{Applied, Profile, Status, Summary, Visible};
use claudemesh_protocol::status::StatusSource;
use claudemesh_protocol::wire::{ClientFrame, SetProfile, SetStatus, SetSummary, SetVisible};

use super::{Answer, Call, Place, broker_failure, fields};
use crate::api::{Api, Caller, Failure};
use crate::mesh::{Line, Via};

/// `profile.summary`.
pub(super) async fn summary<P: Place>(
    call: Call<'_, P>,
    asked: Summary,
) -> Result<Answer, Failure> {
    let mut change = Change::default();
    change.summary(asked.summary);
    change.apply_to(call).await
}

/// `profile.status`.
pub(super) async fn status<P: Place>(call: Call<'_, P>, asked: Status) -> Result<Answer, Failure> {
    let mut change = Change::default();
    change.status(asked.status);
    change.apply_to(call).await
}

/// `profile.visible`.
pub(super) async fn visible<P: Place>(
    call: Call<'_, P>,
    asked: Visible,
) -> Result<Answer, Failure> {
    let mut change = Change::default();
    change.visible(asked.visible);
    change.apply_to(call).await
}

/// `profile.edit`; without a field nothing changes.
pub(super) async fn edit<P: Place>(call: Call<'_, P>, asked: Profile) -> Result<Answer, Failure> {
    let mut change = Change::default();
    change.profile(SetProfile {
        avatar: asked.avatar,
        title: asked.title,
        bio: asked.bio,
        role: asked.role,
        capabilities: asked.capabilities,
    });
    change.display_name = asked.display_name;
    change.apply_to(call).await
}

/// `POST /v1/profile`: the four operations in one call.
pub(crate) async fn apply_profile(
    api: &Api,
    caller: &Caller,
    asked: ProfileRequest,
) -> Result<Applied, Failure> {
    let mut change = Change::default();
    if let Some(summary) = asked.summary {
        change.summary(summary);
    }
    if let Some(status) = asked.status {
        change.status(status);
    }
    if let Some(visible) = asked.visible {
        change.visible(visible);
    }
    change.profile(SetProfile {
        avatar: asked.avatar,
        title: asked.title,
        bio: asked.bio,
        role: None,
        capabilities: asked.capabilities,
    });
    change.apply(api, caller, asked.mesh.as_deref()).await
}

/// What is to be said, as frames, and which fields that is.
#[derive(Default)]
struct Change {
    applied: Vec<&'static str>,
    frames: Vec<ClientFrame>,
    status: Option<PeerStatus>,
    display_name: Option<String>,
}

impl Change {
    fn summary(&mut self, summary: String) {
        self.applied.push("summary");
        self.frames.push(SetSummary { summary }.into());
    }

    fn status(&mut self, status: PeerStatus) {
        self.applied.push("status");
        self.status = Some(status);
        self.frames.push(SetStatus { status, source: Some(StatusSource::Manual) }.into());
    }

    fn visible(&mut self, visible: bool) {
        self.applied.push("visible");
        self.frames.push(SetVisible { visible }.into());
    }

    fn profile(&mut self, profile: SetProfile) {
        let given = [
            ("avatar", profile.avatar.is_some()),
            ("title", profile.title.is_some()),
            ("bio", profile.bio.is_some()),
            ("capabilities", profile.capabilities.is_some()),
            ("role", profile.role.is_some()),
        ];
        let before = self.applied.len();
        self.applied.extend(given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name));
        if self.applied.len() > before {
            self.frames.push(profile.into());
        }
    }

    async fn apply_to<P: Place>(self, call: Call<'_, P>) -> Result<Answer, Failure> {
        let applied = self.apply(call.place, call.caller, call.mesh).await?;
        let mesh = match applied.meshes.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        Ok(Answer { mesh, result: fields(&applied)? })
    }

    /// On the named mesh, else on all; a failure only when none took it.
    async fn apply<P: Place>(
        mut self,
        place: &P,
        caller: &Caller,
        mesh: Option<&str>,
    ) -> Result<Applied, Failure> {
        let meshes = place.meshes(mesh, caller)?;
        if self.display_name.is_some() {
            self.applied.push("display_name");
        }
        let mut applied = Applied {
            ok: true,
            applied: self.applied.iter().map(ToString::to_string).collect(),
            meshes: Vec::new(),
            target: "member".to_owned(),
        };
        let mut last_failure = None;
        for mesh in &meshes {
            let roads = place.presences(mesh, caller);
            if roads.iter().any(|via| matches!(via, Via::Session(_))) {
                "session".clone_into(&mut applied.target);
            }
            match self.say(place, mesh, &roads).await {
                Ok(()) => applied.meshes.push(mesh.slug().to_owned()),
                Err(failure) => last_failure = Some(failure),
            }
        }
        match last_failure {
            Some(failure) if applied.meshes.is_empty() => Err(failure),
            _ => Ok(applied),
        }
    }

    async fn say<P: Place>(&self, place: &P, mesh: &P::Line, roads: &[Via]) -> Result<(), Failure> {
        if let Some(name) = &self.display_name {
            mesh.rename_member(name).await.map_err(|error| broker_failure(&error))?;
        }
        for via in roads {
            for frame in &self.frames {
                mesh.request(*via, frame.clone()).await.map_err(|error| broker_failure(&error))?;
            }
        }
        if let (Some(status), Some(api)) = (self.status, place.as_daemon()) {
            api.daemon().set_status_by_hand(mesh.slug(), roads, status).await;
        }
        Ok(())
    }
}
