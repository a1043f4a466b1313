//! Which session this server speaks for, and how the daemon comes to know it (MCP spec §9, daemon spec §8.3 and §8.8).

use claudemesh_ipc::api::{RegisterRequest, SessionView};
use claudemesh_ipc::{Client, IpcError, SessionToken, env};
use claudemesh_protocol::PublicKey;
use claudemesh_protocol::capability::CapabilitySet;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::MEMBER_NAME_MAX_CHARS;
use claudemesh_protocol::text::sanitized_line;
use claudemesh_protocol::time::Timestamp;

/// Name of a launched session (MCP spec §9).
const DISPLAY_NAME: &str = "CLAUDEMESH_DISPLAY_NAME";
/// Role of a launched session (MCP spec §9).
const ROLE: &str = "CLAUDEMESH_ROLE";

/// What the environment and the command line say about the session; read once.
#[derive(Clone)]
pub struct Claim {
    /// The token of a launched session.
    pub token: Option<SessionToken>,
    /// Id of the agent session, if it has one.
    pub session_id: Option<String>,
    /// Process whose end ends the session.
    pub pid: u32,
    /// Mesh pinned by the caller.
    pub mesh: Option<String>,
    /// Mesh of sessions that were not launched.
    pub ambient_mesh: Option<String>,
    /// Whether a session that was not launched is registered at all.
    pub ambient: Ambient,
    /// Name of the session.
    pub display_name: String,
    /// Role word.
    pub role: Option<String>,
    /// Directory the agent works in.
    pub cwd: Option<String>,
    /// What the session may do at most, when it is restricted. A server that could not register such a session speaks
    /// for nobody, and never for the member.
    pub caps: Option<CapabilitySet>,
}

/// Whether a session that was not launched registers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ambient {
    /// It does.
    #[default]
    Register,
    /// It only listens for the member.
    Off,
}

impl Claim {
    /// Reads the environment; `mesh`, `ambient`, `ambient_mesh` and the member's name come from flags and settings.
    pub fn read(
        mesh: Option<String>,
        ambient: Ambient,
        ambient_mesh: Option<String>,
        name: Option<String>,
    ) -> Self {
        let cwd =
            std::env::current_dir().ok().and_then(|dir| dir.into_os_string().into_string().ok());
        let folder =
            cwd.as_deref().and_then(|dir| dir.rsplit('/').next()).filter(|name| !name.is_empty());
        let name = env::text(DISPLAY_NAME).or(name);
        let name = name.as_deref().or(folder).unwrap_or("agent");
        let launcher = env::text(env::LAUNCH_PID).and_then(|pid| pid.parse().ok());
        Self {
            token: SessionToken::from_env(),
            session_id: env::text(env::CLAUDE_CODE_SESSION_ID)
                .or_else(|| env::text(env::SESSION_ID)),
            pid: launcher.unwrap_or_else(parent_pid),
            mesh,
            ambient_mesh,
            ambient,
            display_name: sanitized_line(name.trim(), MEMBER_NAME_MAX_CHARS),
            role: env::text(ROLE),
            cwd,
            caps: None,
        }
    }
}

/// What the daemon knows about this server's session.
#[derive(Clone)]
pub(crate) struct Standing {
    /// Speaks with the session's token, if there is one.
    pub client: Client,
    /// The session; `None`: only the member is listened for.
    pub session: Option<SessionView>,
    /// Messages stored before this moment are for the welcome; later ones are pushed even after a gap.
    pub listens_since: Timestamp,
}

impl Standing {
    /// The keys of the session and its member, in hex.
    pub(crate) fn own_keys(&self) -> Vec<String> {
        let session = self.session.iter();
        let keys = session.flat_map(|session| [session.session_pubkey, session.member_pubkey]);
        keys.flatten().map(PublicKey::to_hex).collect()
    }
}

/// Makes the session known, and keeps what stays the same over reconnects.
pub(crate) struct Registrar {
    claim: Claim,
    /// Minted once per process, so that a daemon which lost its registry gets the same session back.
    minted: Option<(SessionToken, String)>,
    listens_since: Option<Timestamp>,
    started_at: Timestamp,
}

impl Registrar {
    /// A registrar that has not spoken to a daemon yet.
    pub(crate) fn new(claim: Claim, started_at: Timestamp) -> Self {
        Self { claim, minted: None, listens_since: None, started_at }
    }

    /// The mesh pinned by the caller.
    pub(crate) fn pinned_mesh(&self) -> Option<&str> {
        self.claim.mesh.as_deref()
    }

    /// True when nothing may be done but by a session: one that is restricted has more rights as its member.
    pub(crate) fn needs_session(&self) -> bool {
        self.claim.caps.is_some()
    }

    /// The standing with the daemon behind `client`, registered anew where that is needed.
    ///
    /// # Errors
    /// The daemon cannot be talked to; a refused registration is no error, then only the member is listened for.
    pub(crate) async fn standing(&mut self, client: &Client) -> Result<Standing, IpcError> {
        if let Some(token) = self.claim.token.clone() {
            return self.launched(client.clone().with_token(Some(token))).await;
        }
        match self.claim.ambient {
            Ambient::Off => Ok(self.member_only(client)),
            Ambient::Register => self.ambient(client).await,
        }
    }

    /// Speaks for the session, when there is one.
    pub(crate) fn own(&self, client: &Client) -> Option<Client> {
        let minted = self.minted.as_ref().map(|(token, _)| token);
        let token = self.claim.token.as_ref().or(minted)?;
        Some(client.clone().with_token(Some(token.clone())))
    }

    /// Ends a session that this process registered for itself; a launched one belongs to its launcher.
    pub(crate) async fn farewell(&self, client: &Client) {
        if let Some((token, _)) = &self.minted {
            let client = client.clone().with_token(Some(token.clone()));
            if let Err(error) = client.deregister_session().await {
                tracing::debug!(%error, "session not deregistered; the daemon ends it with its process");
            }
        }
    }

    async fn launched(&mut self, client: Client) -> Result<Standing, IpcError> {
        match client.session().await {
            Ok(session) => Ok(self.known(client, session)),
            Err(error) if error.is(ErrorCode::UnknownSession) => {
                let Some((token, id)) = self.claim.token.clone().zip(self.claim.session_id.clone())
                else {
                    tracing::warn!(
                        "the session token is unknown and there is no session id to register it again"
                    );
                    return Ok(self.member_only(&client));
                };
                self.register(client, token, id, SessionKind::Launched).await
            }
            Err(error) => Err(error),
        }
    }

    async fn ambient(&mut self, client: &Client) -> Result<Standing, IpcError> {
        if self.minted.is_none() {
            let Some(token) = mint() else { return Ok(self.member_only(client)) };
            let id =
                self.claim.session_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            self.minted = Some((token, id));
        }
        let Some((token, id)) = self.minted.clone() else { return Ok(self.member_only(client)) };
        let client = client.clone().with_token(Some(token.clone()));
        if self.listens_since.is_some()
            && let Ok(session) = client.session().await
        {
            return Ok(self.known(client, session));
        }
        self.register(client, token, id, SessionKind::Ambient).await
    }

    async fn register(
        &mut self,
        client: Client,
        token: SessionToken,
        id: String,
        kind: SessionKind,
    ) -> Result<Standing, IpcError> {
        let Some(mesh) = self.mesh(&client).await? else {
            tracing::info!(
                "several meshes or none, and none chosen: listening for the member only"
            );
            return Ok(self.member_only(&client));
        };
        let claim = &self.claim;
        let mut request =
            RegisterRequest::stored(token, id, mesh, claim.display_name.clone(), claim.pid);
        request.cwd.clone_from(&claim.cwd);
        request.role.clone_from(&claim.role);
        request.ambient = kind == SessionKind::Ambient;
        request.caps = self.claim.caps;
        let mut reply = client.register_session(&request).await;
        if reply.as_ref().is_err_and(|error| error.is(ErrorCode::PidNotOurs)) {
            // The parent belongs to somebody else (sudo, a container's init): the session lives as long as we do.
            request.pid = std::process::id();
            reply = client.register_session(&request).await;
        }
        match reply {
            Ok(reply) => {
                let registered_at =
                    Timestamp::parse_iso(&reply.registered_at).unwrap_or(self.started_at);
                // An earlier server of the same agent session was here: what it did not push is pushed now.
                let since = if reply.replaced { Timestamp::ZERO } else { registered_at };
                self.listens_since.get_or_insert(since);
                let session = client.session().await?;
                tracing::info!(mesh = %session.mesh, ambient = session.ambient, "session registered");
                Ok(self.known(client, session))
            }
            Err(error) if error.is(ErrorCode::MeshNotAttached) => Err(error),
            Err(IpcError::Api(error)) => {
                tracing::warn!(%error, "session not registered: listening for the member only");
                Ok(self.member_only(&client))
            }
            Err(error) => Err(error),
        }
    }

    /// `--mesh`, else the setting, else the only mesh there is.
    async fn mesh(&self, client: &Client) -> Result<Option<String>, IpcError> {
        if let Some(mesh) = self.claim.mesh.as_ref().or(self.claim.ambient_mesh.as_ref()) {
            return Ok(Some(mesh.clone()));
        }
        let health = client.health().await?;
        match health.meshes.as_slice() {
            [only] => Ok(Some(only.slug.clone())),
            _ => Ok(None),
        }
    }

    fn known(&mut self, client: Client, session: SessionView) -> Standing {
        let registered_at = Timestamp::parse_iso(&session.registered_at).unwrap_or(self.started_at);
        let listens_since = *self.listens_since.get_or_insert(registered_at);
        Standing { client, session: Some(session), listens_since }
    }

    fn member_only(&self, client: &Client) -> Standing {
        Standing {
            client: client.clone().with_token(None),
            session: None,
            listens_since: self.started_at,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionKind {
    Launched,
    Ambient,
}

/// A fresh token; `None` when the system gives no random bytes.
fn mint() -> Option<SessionToken> {
    let mut bytes = [0; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "no random bytes from the system");
        return None;
    }
    Some(SessionToken::from_bytes(&bytes))
}

fn parent_pid() -> u32 {
    rustix::process::getppid()
        .and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok())
        .unwrap_or_else(std::process::id)
}
