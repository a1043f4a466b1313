//! `hello` and `session_hello`: verified in the order of broker spec §2.1, the first failure answers with its code.
//!
//! What is checked here is who somebody is. Where the presence goes, and whether there is room, is `live`'s business.

mod answer;

use std::sync::Arc;

use claudemesh_core::presence::{ClientInfo, Handshake, role_of};
use claudemesh_crypto::attestation::{self, AttestationError};
use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::{hello as signed_hello, statement};
use claudemesh_protocol::attestation::ParentAttestation;
use claudemesh_protocol::limits::{
    GROUPS_PER_PRESENCE, HELLO_CAPABILITIES_MAX, HELLO_NAME_MAX_CHARS, HELLO_TEXT_MAX_BYTES,
    PEER_TYPE_MAX_CHARS, PROFILE_WORD_MAX_CHARS, SESSION_KEY_MEMORY,
};
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::wire::{ClientFrame, DecodeError, ErrorFrame, Hello, SessionHello};
use claudemesh_protocol::{ErrorCode, Group, MemberId, PublicKey, SignatureBytes, Timestamp};
use claudemesh_store::{BindMember, Member, RevokeKind, StoreError};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::answer::hello_ack;
use crate::live::{self, Arriving, Close, Connection, Mesh, Unsettled};
use crate::ops::{Peer, news};
use crate::state::Broker;

/// What came of a frame on a fresh socket.
pub(crate) enum Greeted {
    /// The handshake is done.
    Accepted(Box<Peer>),
    /// Not a hello: answered, the socket stays.
    NotYet(ErrorFrame),
    /// Refused: answered, then closed.
    Refused { error: ErrorFrame, close: Close },
}

/// Why a hello is refused.
struct Refused {
    code: ErrorCode,
    message: String,
    close: Close,
    server_time: Option<Timestamp>,
}

impl Refused {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let close = Close::policy(code.as_str());
        Self { code, message: message.into(), close, server_time: None }
    }

    fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Malformed, message)
    }

    fn bad_signature() -> Self {
        Self::new(ErrorCode::BadSignature, "hello rejected: bad_signature")
    }

    /// The same words whether the mesh is unknown, archived, or the key is no member of it.
    fn unauthorized() -> Self {
        Self::new(ErrorCode::Unauthorized, "hello rejected: unauthorized")
    }

    fn revoked(mesh_name: &str) -> Self {
        let message = live::removed_sentence(mesh_name);
        Self { close: Close::BANNED, ..Self::new(ErrorCode::Revoked, message) }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a hello failed at the store");
        let code = if error.is_transient() { ErrorCode::Unavailable } else { ErrorCode::Internal };
        Self { close: Close::INTERNAL, ..Self::new(code, "the broker cannot take a hello now") }
    }
}

/// Handles one frame of a socket that has had no accepted hello.
pub(crate) async fn greet(
    broker: &Broker,
    connection: &Arc<Connection>,
    text: &Utf8Bytes,
) -> Greeted {
    let accepted = match ClientFrame::decode(text) {
        Ok(inbound) => match inbound.frame {
            ClientFrame::Hello(hello) => Box::pin(member_hello(broker, connection, *hello)).await,
            ClientFrame::SessionHello(hello) => {
                Box::pin(session_hello(broker, connection, *hello)).await
            }
            _ => return not_yet(inbound.req_id.as_deref()),
        },
        Err(DecodeError::Malformed { word, reason, .. })
            if word == "hello" || word == "session_hello" =>
        {
            Err(Refused::malformed(reason))
        }
        Err(DecodeError::InvalidJson) => {
            let error =
                ErrorFrame::new(ErrorCode::InvalidJson, "not a JSON object with a type", None);
            return Greeted::NotYet(error);
        }
        Err(error) => return not_yet(error.req_id()),
    };
    match accepted {
        Ok(peer) => Greeted::Accepted(Box::new(peer)),
        Err(refused) => {
            let mut error = ErrorFrame::new(refused.code, refused.message, None);
            error.server_time = refused.server_time.map(Timestamp::as_millis);
            Greeted::Refused { error, close: refused.close }
        }
    }
}

fn not_yet(req_id: Option<&str>) -> Greeted {
    Greeted::NotYet(ErrorFrame::new(ErrorCode::NoHello, "the first frame is a hello", req_id))
}

fn key(text: &str, code: ErrorCode) -> Result<PublicKey, Refused> {
    text.parse().map_err(|error| Refused::new(code, format!("hello rejected: {code}: {error}")))
}

fn signature(text: &str) -> Result<SignatureBytes, Refused> {
    // Signatures are read in either letter case (wire spec §0).
    text.to_ascii_lowercase()
        .parse()
        .map_err(|error| Refused::malformed(format!("signature: {error}")))
}

fn check_skew(timestamp: Timestamp, now: Timestamp) -> Result<(), Refused> {
    statement::check_window(timestamp, now).map_err(|_| Refused {
        server_time: Some(now),
        ..Refused::new(ErrorCode::TimestampSkew, "hello rejected: timestamp_skew")
    })
}

/// Free text of a hello is bounded, so that hostile ones cannot fill memory.
fn check_texts(info: &ClientInfo, name: Option<&str>) -> Result<(), Refused> {
    let long = |text: &str| text.len() > HELLO_TEXT_MAX_BYTES;
    let optional = [&info.hostname, &info.host_fingerprint, &info.channel, &info.model];
    if long(&info.session_id)
        || long(&info.cwd)
        || optional.into_iter().flatten().any(|text| long(text))
    {
        return Err(Refused::malformed("a text of the hello is longer than 4096 bytes"));
    }
    if name.is_some_and(|name| name.chars().count() > HELLO_NAME_MAX_CHARS) {
        return Err(Refused::malformed("displayName is longer than 128 characters"));
    }
    if info.peer_type.as_ref().is_some_and(|word| word.chars().count() > PEER_TYPE_MAX_CHARS) {
        return Err(Refused::malformed("peerType is longer than 32 characters"));
    }
    if info.capabilities.len() > HELLO_CAPABILITIES_MAX
        || info.capabilities.iter().any(|word| word.chars().count() > PROFILE_WORD_MAX_CHARS)
    {
        return Err(Refused::malformed("too many or too long capabilities"));
    }
    Ok(())
}

fn check_groups(groups: Option<&[Group]>) -> Result<(), Refused> {
    if groups.is_some_and(|groups| groups.len() > GROUPS_PER_PRESENCE) {
        return Err(Refused::malformed("more than 32 groups"));
    }
    Ok(())
}

fn words(capabilities: Option<Vec<String>>) -> Vec<String> {
    let mut words = capabilities.unwrap_or_default();
    words.sort_unstable();
    words.dedup();
    words
}

/// Step 3: a full mesh refuses before any work. Returning peers are told by the identity they claim; whether it is
/// theirs is checked after.
fn check_capacity(
    broker: &Broker,
    mesh_id: &claudemesh_protocol::MeshId,
    claimed: (PublicKey, Option<PublicKey>, &ClientInfo),
) -> Result<(), Refused> {
    let Some(mesh) = broker.live().loaded(mesh_id) else { return Ok(()) };
    let state = mesh.lock();
    let mesh_limit = state.info.settings.max_peers.map_or(usize::MAX, |max| max as usize);
    if state.presence_count() < broker.limits().max_connections_per_mesh.min(mesh_limit) {
        return Ok(());
    }
    let (member_key, session_key, client) = claimed;
    let is_returning = state.member_by_key(member_key).is_some_and(|member| {
        state.of_member(&member.member.id).any(|entry| {
            let presence = &entry.presence;
            let theirs = &presence.client;
            theirs.session_id == client.session_id
                || (session_key.is_some() && presence.session_key == session_key)
                || (theirs.host_fingerprint.is_some()
                    && theirs.host_fingerprint == client.host_fingerprint
                    && entry.connection.is_none())
        })
    });
    if is_returning { Ok(()) } else { Err(full()) }
}

fn full() -> Refused {
    Refused::new(ErrorCode::Capacity, "hello rejected: capacity: the mesh has no free connection")
}

async fn member_hello(
    broker: &Broker,
    connection: &Arc<Connection>,
    hello: Hello,
) -> Result<Peer, Refused> {
    let now = broker.now();
    let member_key = key(&hello.pubkey, ErrorCode::Malformed)?;
    let signature = signature(&hello.signature)?;
    let session_key = match hello.session_pubkey.as_deref() {
        None | Some("") => None,
        Some(text) => Some(key(text, ErrorCode::BadSessionPubkey)?),
    };
    let client = ClientInfo {
        session_id: hello.session_id,
        pid: hello.pid,
        cwd: hello.cwd.unwrap_or_default(),
        hostname: hello.hostname,
        host_fingerprint: hello.host_fingerprint,
        peer_type: hello.peer_type,
        channel: hello.channel,
        model: hello.model,
        capabilities: words(hello.capabilities),
    };
    check_texts(&client, hello.display_name.as_deref())?;
    check_groups(hello.groups.as_deref())?;
    check_capacity(broker, &hello.mesh_id, (member_key, session_key, &client))?;
    let timestamp = Timestamp::from_millis(hello.timestamp);
    check_skew(timestamp, now)?;
    signed_hello::verify(&hello.mesh_id, &hello.member_id, member_key, timestamp, &signature)
        .map_err(|_| Refused::bad_signature())?;
    let mesh = live::open_mesh(broker, &hello.mesh_id).await?.ok_or_else(Refused::unauthorized)?;
    let member = find_member(broker, &mesh, member_key, Some(&hello.member_id)).await?;
    if member.id != hello.member_id {
        return Err(Refused::unauthorized());
    }
    let mut warnings = Vec::new();
    if let Some(session) = session_key {
        let is_proven = hello.session_proof.as_deref().is_some_and(|proof| {
            proof.to_ascii_lowercase().parse().is_ok_and(|proof| {
                let mesh = &hello.mesh_id;
                signed_hello::verify_session(mesh, member_key, session, timestamp, &proof).is_ok()
            })
        });
        if !is_proven {
            refuse_foreign_key(broker, &mesh, session, &member.id).await?;
            warnings.push("session_pubkey_unproven".to_owned());
        }
    }
    let attestation =
        hello.parent_attestation.as_ref().zip(session_key).and_then(|(value, session)| {
            let checked = checked_attestation(value, member_key, session, now).ok();
            if checked.is_none() {
                warnings.push("parent_attestation_ignored".to_owned());
            }
            checked
        });
    let is_transient = client.has(capability::TRANSIENT);
    let saved = if is_transient {
        None
    } else {
        broker.store().peer_state(&mesh.id, &member.id, None).await?
    };
    let arriving = Arriving {
        handshake: Handshake::Member,
        member_id: member.id.clone(),
        member_key,
        member_name: member.display_name.clone(),
        session_key,
        role: role_of(Handshake::Member, hello.peer_role.as_deref(), client.peer_type.as_deref()),
        display_name: given(hello.display_name),
        client,
        groups: hello.groups,
        default_groups: member.default_groups.clone(),
        role_label: None,
        session_caps: None,
        attestation,
        hello_key: member_key,
        hello_timestamp: timestamp,
        signature_hash: sha256(signature.as_bytes()),
        saved,
    };
    let (version, mesh_seq) = (hello.protocol_version, hello.mesh_seq);
    let welcome = Welcome { member, mesh_seq, version, warnings };
    admit(broker, &mesh, connection, arriving, welcome).await
}

fn given(name: Option<String>) -> Option<String> {
    name.filter(|name| !name.trim().is_empty())
}

async fn session_hello(
    broker: &Broker,
    connection: &Arc<Connection>,
    hello: SessionHello,
) -> Result<Peer, Refused> {
    let now = broker.now();
    let session_key = key(&hello.session_pubkey, ErrorCode::BadSessionPubkey)?;
    let member_key = key(&hello.parent_member_pubkey, ErrorCode::BadParentPubkey)?;
    let signature = signature(&hello.signature)?;
    let attestation = hello
        .attestation()
        .map_err(|error| Refused::malformed(format!("parentAttestation: {error}")))?;
    let client = ClientInfo {
        session_id: hello.session_id,
        pid: hello.pid,
        cwd: hello.cwd.unwrap_or_default(),
        hostname: hello.hostname,
        host_fingerprint: None,
        peer_type: hello.peer_type,
        channel: hello.channel,
        model: hello.model,
        capabilities: words(hello.capabilities),
    };
    check_texts(&client, hello.display_name.as_deref())?;
    check_groups(hello.groups.as_deref())?;
    if hello.role.as_ref().is_some_and(|role| role.chars().count() > PROFILE_WORD_MAX_CHARS) {
        return Err(Refused::malformed("role is longer than 64 characters"));
    }
    check_attestation_binding(&attestation, member_key, session_key)?;
    check_capacity(broker, &hello.mesh_id, (member_key, Some(session_key), &client))?;
    check_attestation(&attestation, now)?;
    let timestamp = Timestamp::from_millis(hello.timestamp);
    check_skew(timestamp, now)?;
    signed_hello::verify_session(&hello.mesh_id, member_key, session_key, timestamp, &signature)
        .map_err(|_| Refused::bad_signature())?;
    let mesh = live::open_mesh(broker, &hello.mesh_id).await?.ok_or_else(Refused::unauthorized)?;
    let member = find_member(broker, &mesh, member_key, None).await?;
    if hello.parent_member_id.as_ref().is_some_and(|id| !id.as_str().is_empty() && *id != member.id)
    {
        return Err(Refused::new(
            ErrorCode::ParentMemberIdMismatch,
            "hello rejected: parent_member_id_mismatch",
        ));
    }
    let revoked = broker.store().revoked_keys(&mesh.id, &[session_key]).await?;
    if !revoked.is_empty() {
        return Err(Refused::revoked(&mesh.lock().info.name));
    }
    let saved = broker.store().peer_state(&mesh.id, &member.id, Some(&session_key)).await?;
    let arriving = Arriving {
        handshake: Handshake::Session,
        member_id: member.id.clone(),
        member_key,
        member_name: member.display_name.clone(),
        session_key: Some(session_key),
        role: role_of(Handshake::Session, None, None),
        display_name: given(hello.display_name),
        client,
        groups: hello.groups,
        default_groups: member.default_groups.clone(),
        role_label: hello.role,
        session_caps: attestation.allowed_caps,
        attestation: Some(attestation),
        hello_key: session_key,
        hello_timestamp: timestamp,
        signature_hash: sha256(signature.as_bytes()),
        saved,
    };
    let welcome = Welcome {
        member,
        mesh_seq: hello.mesh_seq,
        version: hello.protocol_version,
        warnings: Vec::new(),
    };
    admit(broker, &mesh, connection, arriving, welcome).await
}

fn check_attestation_binding(
    attestation: &ParentAttestation,
    member_key: PublicKey,
    session_key: PublicKey,
) -> Result<(), Refused> {
    attestation::check_binding(attestation, member_key, session_key).map_err(refused_attestation)
}

fn check_attestation(attestation: &ParentAttestation, now: Timestamp) -> Result<(), Refused> {
    attestation::verify(attestation, now).map_err(refused_attestation)
}

fn refused_attestation(error: AttestationError) -> Refused {
    let code = match error {
        AttestationError::Mismatch => ErrorCode::AttestationMismatch,
        AttestationError::Expired => ErrorCode::Expired,
        AttestationError::TtlTooLong => ErrorCode::TtlTooLong,
        _ => ErrorCode::BadSignature,
    };
    Refused::new(code, format!("hello rejected: {code}"))
}

fn checked_attestation(
    value: &Value,
    member_key: PublicKey,
    session_key: PublicKey,
    now: Timestamp,
) -> Result<ParentAttestation, Refused> {
    let attestation: ParentAttestation = serde_json::from_value(value.clone())
        .map_err(|error| Refused::malformed(error.to_string()))?;
    check_attestation_binding(&attestation, member_key, session_key)?;
    check_attestation(&attestation, now)?;
    Ok(attestation)
}

/// Steps 7 and 8. A member that joined through an old-style claim shows its key with its first hello and is bound to it.
async fn find_member(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    key: PublicKey,
    unbound: Option<&MemberId>,
) -> Result<Member, Refused> {
    if let Some(entry) = mesh.lock().member_by_key(key) {
        return Ok(entry.member.clone());
    }
    let store = broker.store();
    let found = if let Some(member) = store.member_by_key(&mesh.id, &key).await? {
        member
    } else {
        let id = unbound.ok_or_else(Refused::unauthorized)?;
        match store.bind_member(&mesh.id, id, &key, broker.now()).await? {
            BindMember::Bound(member) => member,
            BindMember::NotFound | BindMember::KeyTaken => return Err(Refused::unauthorized()),
        }
    };
    match found.revoked.as_ref().map(|revocation| revocation.kind) {
        Some(RevokeKind::Rotate) => return Err(Refused::unauthorized()),
        Some(RevokeKind::Ban | RevokeKind::Leave) => {
            return Err(Refused::revoked(&mesh.lock().info.name));
        }
        None => {}
    }
    // A member memory does not know: just bound, or added by another process.
    live::mark_stale(mesh);
    live::refresh(broker, mesh).await?;
    Ok(found)
}

/// An unproven session key is taken on trust, as old clients have it, unless it is somebody else's.
async fn refuse_foreign_key(
    broker: &Broker,
    mesh: &Mesh,
    session: PublicKey,
    member: &MemberId,
) -> Result<(), Refused> {
    {
        let state = mesh.lock();
        let is_foreign = state.member_by_key(session).is_some()
            || state.session(session).is_some_and(|entry| entry.presence.member_id != *member);
        if is_foreign {
            return Err(Refused::unauthorized());
        }
    }
    let not_before = broker.now().minus(SESSION_KEY_MEMORY);
    match broker.store().session_key(&mesh.id, &session, not_before).await? {
        Some(seen) if seen.member_id != *member => Err(Refused::unauthorized()),
        _ => Ok(()),
    }
}

/// What the greeting says beyond the presence.
struct Welcome {
    member: Member,
    /// The newest event of the mesh that the client knows.
    mesh_seq: Option<u64>,
    version: Option<u32>,
    warnings: Vec<String>,
}

async fn admit(
    broker: &Broker,
    mesh: &Arc<Mesh>,
    connection: &Arc<Connection>,
    mut arriving: Arriving,
    mut welcome: Welcome,
) -> Result<Peer, Refused> {
    let mesh_seq = welcome.mesh_seq;
    if live::give_way(mesh, &mut arriving) {
        welcome.warnings.push("display_name_taken".to_owned());
    }
    let reservation = match live::reserve(broker, mesh, &arriving) {
        Ok(reservation) => reservation,
        Err(Unsettled::AlreadyConnected(entry)) => {
            broker.record_all([*entry]).await;
            return Err(already_connected());
        }
        Err(reason) => return Err(unsettled(mesh, reason)),
    };
    let last_seen = {
        let state = mesh.lock();
        let former = state.presence(reservation.presence_id()).map(live::Entry::last_seen);
        former.or_else(|| arriving.saved.as_ref().map(|saved| saved.last_seen_at))
    };
    let mut peer = Peer {
        broker: broker.clone(),
        mesh: Arc::clone(mesh),
        presence_id: reservation.presence_id().clone(),
        connection: Arc::clone(connection),
        member_id: arriving.member_id.clone(),
        member_key: arriving.member_key,
        session_key: arriving.session_key,
    };
    let role = arriving.role;
    let settled = live::settle(broker, reservation, arriving, connection, |settled, state| {
        let mut ack = hello_ack(broker, settled, state, welcome);
        ack.peer_role = Some(role);
        connection.say(&ack.into());
    })
    .await
    .map_err(|reason| unsettled(mesh, reason))?;
    peer.presence_id = settled.follow_up(broker, mesh).await;
    if let Err(error) = news::catch_up(&peer, mesh_seq, last_seen).await {
        // It is here all the same; the next hello asks again.
        tracing::warn!(%error, mesh_id = %mesh.id, "cannot tell a peer what it missed");
    }
    Ok(peer)
}

fn already_connected() -> Refused {
    Refused {
        close: Close::ALREADY_CONNECTED,
        ..Refused::new(
            ErrorCode::MemberAlreadyConnected,
            "this member is connected from another machine",
        )
    }
}

fn unsettled(mesh: &Mesh, reason: Unsettled) -> Refused {
    match reason {
        Unsettled::Removed => Refused::revoked(&mesh.lock().info.name),
        Unsettled::Rotated => Refused::unauthorized(),
        Unsettled::Capacity => full(),
        Unsettled::Replayed => Refused::bad_signature(),
        Unsettled::Superseded => Refused {
            close: Close::SESSION_REPLACED,
            ..Refused::new(ErrorCode::Unavailable, "a newer connection of this session is here")
        },
        Unsettled::AlreadyConnected(_) => already_connected(),
        Unsettled::Store(error) => error.into(),
    }
}
