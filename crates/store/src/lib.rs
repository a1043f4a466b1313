//! The broker's durable state, on SQLite and on PostgreSQL with the same results.
//!
//! # Overview
//!
//! [`Store`] is a cheap handle; everything is a method on it. Outcomes that a caller branches on are enums in `Ok`
//! ([`CreateMesh::SlugTaken`], [`ClaimInvite::Exhausted`]); [`StoreError`] is for the database itself. Every method
//! that writes is one transaction: on `Ok` it is on disk (fsync; claims and acks alone are spared the wait, see there), on
//! `Err` nothing of it is there. The store holds no
//! rules: who may do something is decided before it is called. Times come in as arguments; there is no clock in here.
//!
//! ```text
//! Store::open(&location) → migrate() → … → close()            open_migrated() does the first two
//!
//! accounts   has_account · create_first_account · create_user · user
//!            create_cli_session · use_cli_session · revoke_cli_session
//! meshes     create_mesh · mesh · mesh_by_slug · mesh_secrets · meshes_of_user · set_mesh_settings · archive_mesh
//! members    member · member_by_key · member_of_user · roster · add_members · bind_member · purge_unbound_members
//!            touch_members · set_default_groups · merge_grants · merge_permissions · revoke_member · revoked_keys
//!            ban_member · unban_member · bans · rotate_key · edit_member · mesh_events
//! invites    create_invite · invite_by_code · invite_by_token · invites · revoke_invite · claim_invite
//! presences  open_presence (with hello replay check) · save_presence_states · heartbeat · lease_presences
//!            end_presence · lease_previous_run · stale_presences · peer_state · peer_states_of_present
//!            save_peer_states · session_key · keep_pending_status · purge_short_lived
//! messages   commit (accept, ack, release, reroute, receipt; ONE commit for a batch) · commit_announcing · lookup_dedupe
//!            number_rows · next_delivery_seq · claim · copies
//!            release_expired_claims · expire · next_due · backlog · backlog_total · recipients_with_held_rows
//!            message_status · senders_of_held · drop_messages_of_banned
//! state      write_state · state_entry · state_entries · state_keys
//! audit      append_audit_entries · audit_entries · verify_audit; security decisions append in their own transaction
//!            unsigned_audit_meshes · audit_tail · keep_audit_head · audit_head
//! secrets    broker_secret · keep_broker_secret
//! upkeep     cleanup_messages · purge_dedupe · orphaned_dedupe_rows · purge
//! ```
//!
//! The message path calls [`Store::commit`] from one task that takes everything queued meanwhile; the number of
//! statements of a commit does not depend on the size of the batch. On SQLite all writes go through one writer
//! connection with group commit (`claudemesh-sqlite`), readers never wait for it. On PostgreSQL each write method is a
//! transaction on a pooled connection, and claims skip rows that other replicas have locked.

pub mod message;

mod account;
mod admin;
mod audit;
mod engine;
mod error;
mod invite;
mod maintenance;
mod member;
mod mesh;
mod peer_state;
mod pending_status;
mod presence;
mod rights;
mod secret;
mod state;
mod store;

pub use account::{
    CliLogin, CliSessionKind, FirstAccount, NewCliSession, NewUser, TokenHash, User, UserRole,
};
pub use admin::{
    Ban, Banned, EditMember, FormerKey, MemberChange, MeshEvent, Missed, NewBan, RotateKey,
    Rotation, RotationProof,
};
pub use audit::{
    AuditEntry, AuditFault, AuditHead, AuditPage, AuditPayload, AuditTail, AuditValue,
    AuditVerdict, NewAuditEntry,
};
pub use error::{Result, StoreError};
pub use invite::{ClaimInvite, CreateInvite, Invite, InviteForm, InvitePreset, NewInvite};
pub use maintenance::{CLEANUP_STEP, CleanupAges, PurgeBefore, Purged};
pub use member::{
    AddMember, BindMember, Grants, Member, NewIdentity, NewMember, PermissionOverrides, Revocation,
    RevokeKind, RosterEntry,
};
pub use mesh::{
    ClonePolicy, CreateMesh, DedupeRetention, Mesh, MeshSecrets, MeshSettings, NewMesh, UserMesh,
};
pub use message::{
    AckById, AssertedBy, Backlog, BacklogTotal, Claim, ClaimId, ClaimedDelivery, ClientMessage,
    Dedupe, DeliveryOutcome, DeliveryReceipt, DeliverySeq, DeliveryState, DeliveryStatus,
    DeliveryWrite, DestinationKind, DeviceCopy, DroppedRow, Expired, InitialState, MessageLookup,
    MessageRef, MessageStatus, NewDelivery, NewMessage, NewReceipt, Receipted, Recipient,
    RecipientKind, ReleasedRow, Reroute, Rerouted, SenderKind, StoredMessage, Told,
};
pub use peer_state::{PeerState, SessionKeySeen};
pub use pending_status::{PendingStatus, PendingStatusOf};
pub use presence::{
    EndPresence, HelloSeen, OpenPresence, PresenceEnded, PresenceRow, PresenceState, PreviousRun,
};
pub use rights::MergeGrants;
pub use secret::{BrokerSecret, Encrypted};
pub use state::{StateEntries, StateEntry, StateWritten, WriteState};
pub use store::{PostgresLocation, SqliteLocation, Store, StoreLocation};
