//! A mesh as operations use it: over the connections that the daemon keeps, or over one that was opened for a single
//! call (MCP spec §2, CLI spec §1.15).

use std::sync::Arc;
use std::time::Duration;

use claudemesh_ipc::api::MeshStatus;
use claudemesh_protocol::body::Meta;
use claudemesh_protocol::limits::REQUEST_TIMEOUT;
use claudemesh_protocol::wire::{ClientFrame, MemberRow, ServerFrame};
use claudemesh_protocol::{PublicKey, TargetSpec};
use serde_json::Value;

use super::http::MemberHttp;
use super::roster::RosterView;
use super::{
    Listing, MemberIdentity, MeshError, MeshHandle, Peers, RequestError, Resolution, SealError,
    Sealed, Sender, Via,
};

/// One mesh: who we are in it, who is known to be there, and a way to ask its broker. Cloning is cheap.
pub(crate) trait Line: Clone + Send + Sync + 'static {
    /// Its slug.
    fn slug(&self) -> &str;

    /// Our member in it.
    fn member(&self) -> &MemberIdentity;

    /// The session that speaks for whoever has none; `None` where the member does.
    fn own_session(&self) -> Option<PublicKey> {
        None
    }

    /// Who is there, as far as it is known; nobody before the first look.
    fn roster(&self) -> Arc<RosterView>;

    /// Where the connection stands.
    fn status(&self) -> MeshStatus;

    /// How long a message may take to be accepted.
    fn max_age(&self) -> Duration;

    /// What a text without a mesh slug means here, from memory alone. `caller` is the calling session's key.
    fn resolve(&self, text: &str, caller: Option<PublicKey>) -> Resolution;

    /// Seals a message for `target`; CPU only.
    fn seal(
        &self,
        target: &TargetSpec,
        message: &str,
        meta: Option<&Meta>,
        hops: u32,
        sender: &Sender,
    ) -> Result<Sealed, SealError>;

    /// Asks the broker who is there.
    fn fetch_roster(&self) -> impl Future<Output = Result<(), MeshError>> + Send;

    /// Sees to it that something is known of who is there, before names are looked up in memory; an old answer will do.
    fn look(&self) -> impl Future<Output = Result<(), MeshError>> + Send;

    /// Sends a frame on a connection of ours and answers the broker's reply.
    fn request_within(
        &self,
        via: Via,
        frame: ClientFrame,
        limit: Duration,
    ) -> impl Future<Output = Result<ServerFrame, RequestError>> + Send;

    /// Gives our member another name in this mesh.
    fn rename_member(&self, name: &str) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// The broker's HTTP side, as our member.
    fn http(&self) -> Result<MemberHttp, RequestError>;

    /// The shared state was written by us: whoever listens here is told.
    fn state_was_set(&self, key: &str, value: &Value, by_session: Option<&str>);

    /// As [`Line::request_within`], within the time of one request.
    fn request(
        &self,
        via: Via,
        frame: ClientFrame,
    ) -> impl Future<Output = Result<ServerFrame, RequestError>> + Send {
        self.request_within(via, frame, REQUEST_TIMEOUT)
    }

    /// Who is there, asked of the broker; never an empty list in place of a failure.
    fn peers(&self, listing: Listing) -> impl Future<Output = Result<Peers, MeshError>> + Send {
        async move {
            self.fetch_roster().await?;
            Ok(self.roster().listed_for(self.member().public, listing))
        }
    }

    /// The members, absent ones included, asked of the broker.
    fn members(&self) -> impl Future<Output = Result<Vec<MemberRow>, MeshError>> + Send {
        async move {
            self.fetch_roster().await?;
            Ok(self.roster().members.clone())
        }
    }

    /// The name of a session or member, as far as it is known.
    fn name_of(&self, key: PublicKey) -> Option<String> {
        self.roster().name_of(key)
    }
}

impl Line for MeshHandle {
    fn slug(&self) -> &str {
        Self::slug(self)
    }

    fn member(&self) -> &MemberIdentity {
        Self::member(self)
    }

    fn own_session(&self) -> Option<PublicKey> {
        self.own_session_key()
    }

    fn roster(&self) -> Arc<RosterView> {
        self.mesh.roster.view()
    }

    fn status(&self) -> MeshStatus {
        Self::status(self)
    }

    fn max_age(&self) -> Duration {
        self.mesh.negotiated().max_age
    }

    fn resolve(&self, text: &str, caller: Option<PublicKey>) -> Resolution {
        Self::resolve(self, text, caller)
    }

    fn seal(
        &self,
        target: &TargetSpec,
        message: &str,
        meta: Option<&Meta>,
        hops: u32,
        sender: &Sender,
    ) -> Result<Sealed, SealError> {
        Self::seal(self, target, message, meta, hops, sender)
    }

    async fn fetch_roster(&self) -> Result<(), MeshError> {
        Self::fetch_roster(self).await
    }

    /// The refresh task keeps it.
    async fn look(&self) -> Result<(), MeshError> {
        Ok(())
    }

    async fn request_within(
        &self,
        via: Via,
        frame: ClientFrame,
        limit: Duration,
    ) -> Result<ServerFrame, RequestError> {
        Self::request_within(self, via, frame, limit).await
    }

    async fn rename_member(&self, name: &str) -> Result<(), RequestError> {
        Self::rename_member(self, name).await
    }

    fn http(&self) -> Result<MemberHttp, RequestError> {
        Self::http(self)
    }

    fn state_was_set(&self, key: &str, value: &Value, by_session: Option<&str>) {
        Self::state_was_set(self, key, value, by_session);
    }
}
