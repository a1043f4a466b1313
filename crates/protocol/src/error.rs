//! Stable error codes: the word on the wire, the HTTP status and the command-line exit code, in one table
//! (wire spec §1.5, CLI spec §1.6).

use serde::{Deserialize, Serialize};

/// Exit codes of the command line (CLI spec §1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or nothing to do.
    Success = 0,
    /// A prompt was declined, or a diagnosis failed.
    Cancelled = 1,
    /// Not signed in, signature or token refused, member revoked.
    Auth = 2,
    /// Bad input.
    InvalidArgs = 3,
    /// Broker or daemon unreachable, time-out, rate limit.
    Network = 4,
    /// The named thing does not exist.
    NotFound = 5,
    /// The named thing exists already.
    AlreadyExists = 6,
    /// Role, permission, capability or policy forbids it.
    PermissionDenied = 7,
    /// A bug or a malformed reply.
    Internal = 8,
    /// The agent program was not found.
    AgentMissing = 9,
    /// Local files or databases.
    Io = 10,
}

/// What a sender does with a failed send (wire spec §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: the same frame will be refused again.
    Permanent,
    /// Later, with the same id.
    Transient,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $http:literal, $exit:ident, $retry:ident;)+) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl ErrorCode {
            /// Every code, in table order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The HTTP status that carries it.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)+ }
            }

            /// The exit code of a command that failed with it.
            pub const fn exit_code(self) -> ExitCode {
                match self { $(Self::$variant => ExitCode::$exit,)+ }
            }

            /// Whether a failed send is tried again.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// A frame came before an accepted hello.
    NoHello = "no_hello", 400, Internal, Transient;
    /// A frame or body has the wrong shape.
    Malformed = "malformed", 400, InvalidArgs, Permanent;
    /// The sender's clock is off by more than 60 s.
    TimestampSkew = "timestamp_skew", 401, Auth, Transient;
    /// A signature does not verify, or a signed text was used before.
    BadSignature = "bad_signature", 400, Auth, Permanent;
    /// `sessionPubkey` is no key.
    BadSessionPubkey = "bad_session_pubkey", 400, InvalidArgs, Permanent;
    /// `parentMemberPubkey` is no key.
    BadParentPubkey = "bad_parent_pubkey", 400, InvalidArgs, Permanent;
    /// The attestation names other keys than the frame.
    AttestationMismatch = "attestation_mismatch", 400, Auth, Permanent;
    /// An attestation, invite or message is past its time.
    Expired = "expired", 410, NotFound, Permanent;
    /// An attestation lives longer than 24 h.
    TtlTooLong = "ttl_too_long", 400, InvalidArgs, Permanent;
    /// The member id and the member key belong to different members.
    ParentMemberIdMismatch = "parent_member_id_mismatch", 401, Auth, Permanent;
    /// The key is no member of the mesh.
    Unauthorized = "unauthorized", 401, Auth, Permanent;
    /// The member, invite or key was revoked.
    Revoked = "revoked", 410, NotFound, Permanent;
    /// The mesh has no free connection slot.
    Capacity = "capacity", 429, Network, Transient;
    /// No hello within 10 s.
    HelloTimeout = "hello_timeout", 408, Network, Transient;
    /// A second hello on one socket.
    AlreadyAuthenticated = "already_authenticated", 409, Internal, Permanent;
    /// Another machine holds this member's connection.
    MemberAlreadyConnected = "member_already_connected", 409, AlreadyExists, Transient;
    /// A newer connection of this member took over.
    ReplacedByNewerConnection = "replaced_by_newer_connection", 409, AlreadyExists, Transient;
    /// The frame type is unknown here.
    UnknownMessageType = "unknown_message_type", 400, Internal, Permanent;
    /// Not JSON.
    InvalidJson = "invalid_json", 400, InvalidArgs, Permanent;
    /// A bug or an unexpected failure.
    Internal = "internal", 500, Internal, Transient;
    /// The store or a backend is down or full.
    Unavailable = "unavailable", 503, Network, Transient;
    /// Too many requests.
    RateLimited = "rate_limited", 429, Network, Transient;
    /// Nothing of that name is visible to the caller.
    NotFound = "not_found", 404, NotFound, Permanent;
    /// Role, permission, grant or capability is missing.
    Forbidden = "forbidden", 403, PermissionDenied, Permanent;
    /// Bad arguments of a frame.
    InvalidArgs = "invalid_args", 400, InvalidArgs, Permanent;
    /// A bad argument of `message_status`.
    InvalidArgument = "invalid_argument", 400, InvalidArgs, Permanent;
    /// A bad argument of an administrative frame.
    Invalid = "invalid", 400, InvalidArgs, Permanent;
    /// A prefix matches several things.
    AmbiguousPrefix = "ambiguous_prefix", 400, InvalidArgs, Permanent;
    /// A value is longer than its limit.
    TooLarge = "too_large", 413, InvalidArgs, Permanent;
    /// There are as many as there may be.
    Limit = "limit", 409, AlreadyExists, Permanent;
    /// Something was changed since the caller read it.
    VersionConflict = "version_conflict", 409, AlreadyExists, Permanent;
    /// A send has the wrong shape.
    InvalidRequest = "invalid_request", 400, InvalidArgs, Permanent;
    /// A send names no wire target.
    InvalidTarget = "invalid_target", 400, InvalidArgs, Permanent;
    /// The channel cannot be used with this target.
    InvalidChannel = "invalid_channel", 400, InvalidArgs, Permanent;
    /// A send is larger than the mesh allows.
    PayloadTooLarge = "payload_too_large", 413, InvalidArgs, Permanent;
    /// Nobody of that key, name or topic is known here.
    TargetNotFound = "target_not_found", 404, NotFound, Permanent;
    /// No such topic in this mesh.
    TopicNotFound = "topic_not_found", 404, NotFound, Permanent;
    /// Plaintext where the mesh or topic requires encryption.
    EncryptionRequired = "encryption_required", 409, InvalidArgs, Permanent;
    /// The topic key is outdated; refetch and seal again.
    StaleEpoch = "stale_epoch", 409, Network, Transient;
    /// The client id was used for something else.
    IdempotencyConflict = "idempotency_conflict", 409, AlreadyExists, Permanent;
    /// Two agents are answering each other without end.
    LoopStopped = "loop_stopped", 429, PermissionDenied, Permanent;
    /// The recipient has too much waiting.
    QueueFull = "queue_full", 429, Network, Transient;
    /// The recipient is offline and this cannot wait.
    RecipientOffline = "recipient_offline", 503, Network, Transient;
    /// A time limit passed.
    Timeout = "timeout", 504, Network, Transient;
    /// No account token was sent.
    MissingBearerToken = "missing_bearer_token", 401, Auth, Permanent;
    /// The account token is empty.
    EmptyBearerToken = "empty_bearer_token", 401, Auth, Permanent;
    /// The account token is unknown, expired or revoked.
    InvalidOrRevokedToken = "invalid_or_revoked_token", 401, Auth, Permanent;
    /// A field of a form is wrong; `fields` says which.
    Validation = "validation", 422, InvalidArgs, Permanent;
    /// The mesh name is taken; `suggestion` names a free one.
    SlugTaken = "slug_taken", 409, AlreadyExists, Permanent;
    /// The mesh was archived.
    MeshArchived = "mesh_archived", 410, NotFound, Permanent;
    /// The invite has no use left.
    Exhausted = "exhausted", 410, NotFound, Permanent;
    /// The key is banned from the mesh.
    Banned = "banned", 403, PermissionDenied, Permanent;
    /// Old-style invites are switched off here.
    InviteV1Retired = "invite_v1_retired", 410, NotFound, Permanent;
    /// Old-style invite: signature.
    InviteBadSignature = "invite_bad_signature", 400, Auth, Permanent;
    /// Old-style invite: mesh unknown.
    MeshNotFound = "mesh_not_found", 400, NotFound, Permanent;
    /// Old-style invite: the mesh has no owner key.
    MeshMissingOwnerKey = "mesh_missing_owner_key", 400, Internal, Permanent;
    /// Old-style invite: signed by somebody else.
    InviteOwnerMismatch = "invite_owner_mismatch", 400, Auth, Permanent;
    /// Old-style invite: unknown.
    InviteNotFound = "invite_not_found", 400, NotFound, Permanent;
    /// Old-style invite: of another mesh.
    InviteMeshMismatch = "invite_mesh_mismatch", 400, Auth, Permanent;
    /// Old-style invite: revoked.
    InviteRevoked = "invite_revoked", 400, NotFound, Permanent;
    /// Old-style invite: expired.
    InviteExpired = "invite_expired", 400, NotFound, Permanent;
    /// Old-style invite: no use left.
    InviteExhausted = "invite_exhausted", 400, NotFound, Permanent;
    /// Old-style invite: the roster could not be written.
    MemberInsertFailed = "member_insert_failed", 500, Internal, Transient;
    /// The server has its first account already.
    SetupDone = "setup_done", 409, AlreadyExists, Permanent;
    /// Wrong setup code.
    InvalidSetupCode = "invalid_setup_code", 403, Auth, Permanent;
    /// Fields of a member that only admins edit; `fields` names them.
    AdminManaged = "admin_managed", 403, PermissionDenied, Permanent;
    /// No such permission.
    InvalidPermission = "invalid_permission", 400, InvalidArgs, Permanent;
    /// A claim of a mesh owner that must stay.
    OwnerCannotLeave = "owner_cannot_leave", 409, PermissionDenied, Permanent;
    /// HTTP method not known for the route.
    MethodNotAllowed = "method_not_allowed", 405, Internal, Permanent;
    /// Body is not of the required content type.
    UnsupportedMediaType = "unsupported_media_type", 415, InvalidArgs, Permanent;

    /// Local API: a field has a wrong value; `field` names it.
    InvalidField = "invalid_field", 400, InvalidArgs, Permanent;
    /// Local API: a field is missing; `field` names it.
    MissingField = "missing_field", 400, InvalidArgs, Permanent;
    /// Local API: several meshes, none chosen; `attached` names them.
    MeshRequired = "mesh_required", 400, InvalidArgs, Permanent;
    /// Local API: the mesh is not joined here.
    MeshNotAttached = "mesh_not_attached", 404, NotFound, Permanent;
    /// Local API: the name fits several members; `candidates` lists them.
    AmbiguousTarget = "ambiguous_target", 400, InvalidArgs, Permanent;
    /// Local API: the target is the caller itself.
    SelfTarget = "self_target", 400, InvalidArgs, Permanent;
    /// Local API: the key in the header and in the body differ.
    IdempotencyKeyConflict = "idempotency_key_conflict", 400, InvalidArgs, Permanent;
    /// Local API: the session token is unknown.
    UnknownSession = "unknown_session", 401, Auth, Permanent;
    /// Local API: the process is not ours or not alive.
    PidNotOurs = "pid_not_ours", 400, InvalidArgs, Permanent;
    /// Local API: too many sessions.
    TooManySessions = "too_many_sessions", 429, Network, Transient;
    /// Local API: too many event streams.
    TooManyStreams = "too_many_streams", 429, Network, Transient;
    /// Local API: too many requests in flight.
    DaemonBusy = "daemon_busy", 429, Network, Transient;
    /// Local API: the transport may not use this route.
    UdsOnly = "uds_only", 403, PermissionDenied, Permanent;
    /// Local API: `Host` names somebody else.
    ForbiddenHost = "forbidden_host", 403, PermissionDenied, Permanent;
    /// Local API: a browser asks.
    ForbiddenOrigin = "forbidden_origin", 403, PermissionDenied, Permanent;
    /// Local API: a token stands in the URL.
    TokenInQuery = "token_in_query", 400, InvalidArgs, Permanent;
    /// Local API: duplicate or broken headers.
    BadRequest = "bad_request", 400, InvalidArgs, Permanent;
    /// Local API: refusing to delete without a filter.
    MissingFilter = "missing_filter", 400, InvalidArgs, Permanent;
    /// Local API: the daemon is stopping.
    ShuttingDown = "shutting_down", 503, Network, Transient;
    /// Local API: no connection to the broker.
    BrokerUnavailable = "broker_unavailable", 503, Network, Transient;
    /// Local API: the broker did not answer in time.
    BrokerTimeout = "broker_timeout", 504, Network, Transient;
    /// Local API: the answer was lost; whether the broker did it is not known, and asking again could do it twice.
    OutcomeUnknown = "outcome_unknown", 504, Network, Permanent;
    /// Local API: the disk or the queue is full.
    InsufficientStorage = "insufficient_storage", 507, Io, Transient;
    /// Local API: no such operation.
    UnknownOp = "unknown_op", 404, InvalidArgs, Permanent;
    /// Local API: the body did not come in time.
    BodyTimeout = "body_timeout", 408, Network, Transient;
    /// Local API: the daemon cannot store anything at the moment.
    Degraded = "degraded", 503, Io, Transient;
    /// Local API: this member was removed from the mesh.
    MemberRevoked = "member_revoked", 403, Auth, Permanent;
    /// Local API: the outbox row is on its way to the broker.
    RowInflight = "row_inflight", 409, AlreadyExists, Transient;
    /// Local API: the outbox row is done or aborted; `row_status` says which.
    RowFinished = "row_finished", 409, AlreadyExists, Permanent;
    /// Local API: no bearer token came over TCP.
    MissingToken = "missing_token", 401, Auth, Permanent;
    /// Local API: the bearer or hook token is wrong or has ended.
    InvalidToken = "invalid_token", 401, Auth, Permanent;
    /// Local API: a hook's token does not reach this far.
    ScopeMissing = "scope_missing", 403, PermissionDenied, Permanent;
    /// Local API: the family of operations is switched off in `config.toml`.
    CapabilityDisabled = "capability_disabled", 403, PermissionDenied, Permanent;
    /// Local API: a `pre-send` hook said no; `hook` and `reason` tell.
    BlockedByHook = "blocked_by_hook", 422, PermissionDenied, Permanent;
    /// Local API: the member's key could not be changed; nothing is different.
    KeyRotationFailed = "key_rotation_failed", 502, Network, Transient;
    /// Command line: the daemon's files were made on another machine.
    HostMismatch = "host_mismatch", 409, PermissionDenied, Permanent;
    /// Command line: a daemon runs, and this needs its files alone.
    DaemonRunning = "daemon_running", 409, AlreadyExists, Permanent;
    /// Command line: this is no backup, or one of a newer version.
    BackupFormat = "backup_format", 400, InvalidArgs, Permanent;
    /// Command line: wrong passphrase, or the backup is damaged.
    BackupAuth = "backup_auth", 401, Auth, Permanent;
    /// Command line: the passphrase is too short.
    WeakPassphrase = "weak_passphrase", 400, InvalidArgs, Permanent;
    /// Command line: this system has no service manager that we know.
    ServiceUnsupported = "service_unsupported", 400, InvalidArgs, Permanent;
    /// The session that sent a message has ended and its key is gone.
    SenderSessionGone = "sender_session_gone", 409, NotFound, Permanent;
    /// Command line: the daemon cannot be reached or started.
    DaemonUnreachable = "daemon_unreachable", 503, Network, Transient;
    /// Command line: no such word.
    UnknownCommand = "unknown_command", 400, InvalidArgs, Permanent;
    /// Command line: nothing joined here.
    NoMesh = "no_mesh_joined", 404, NotFound, Permanent;
    /// Command line: a local file cannot be read or written.
    Io = "io_error", 500, Io, Permanent;
}

impl ErrorCode {
    /// Reads a code, old clients' words included; an unknown word is `None` and counts as a plain failure.
    pub fn parse(word: &str) -> Option<Self> {
        let canonical = match word {
            "rate_limit" => "rate_limited",
            "unknown_target" | "no_recipient" => "target_not_found",
            "peer_offline" => "recipient_offline",
            "blocked" | "missing_capability" | "not_topic_member" => "forbidden",
            "message_too_large" => "payload_too_large",
            "idempotency_key_reused" => "idempotency_conflict",
            other => other,
        };
        Self::from_word(canonical)
    }

    /// The code in front of an `ack.error` text (`code: sentence`).
    pub fn of_ack_error(text: &str) -> Option<Self> {
        Self::parse(text.split(':').next().unwrap_or(text).trim())
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Body of every HTTP error, at the broker and at the local API (wire spec §1.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The stable code.
    pub error: String,
    /// One sentence for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request it answers, for the logs.
    #[serde(default)]
    pub request_id: String,
    /// Named extra fields (`field`, `suggestion`, `serverTime`, `candidates`, …).
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_are_unique() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn old_words_map_to_ours() {
        assert_eq!(ErrorCode::parse("rate_limit"), Some(ErrorCode::RateLimited));
        assert_eq!(
            ErrorCode::of_ack_error("idempotency_key_reused: x"),
            Some(ErrorCode::IdempotencyConflict)
        );
        assert_eq!(ErrorCode::of_ack_error("payload too large: 5 bytes"), None);
    }
}
