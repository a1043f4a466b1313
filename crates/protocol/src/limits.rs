//! Every numeric limit of the system, in one place: value, unit, reason, source.
//!
//! Limits an operator may change are fields of [`BrokerLimits`], whose defaults stand here too.

mod broker;

use std::time::Duration;

pub use broker::BrokerLimits;

/// Protocol version this build speaks (wire spec §2.2).
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest `targetSpec`, in characters (wire spec §4.2 step 1).
pub const TARGET_MAX_CHARS: usize = 256;
/// Longest group path, in characters (wire spec §0).
pub const GROUP_NAME_MAX_CHARS: usize = 64;
/// Longest role inside a group, in characters (wire spec §0).
pub const GROUP_ROLE_MAX_CHARS: usize = 64;
/// Groups of one presence (wire spec §0).
pub const GROUPS_PER_PRESENCE: usize = 32;
/// Longest display name stored on a member, in characters (broker spec §1.1).
pub const MEMBER_NAME_MAX_CHARS: usize = 64;
/// Longest display name in a hello, in characters (wire spec §2.2).
pub const HELLO_NAME_MAX_CHARS: usize = 128;
/// Longest free text in a hello (cwd, hostname, model, channel, session id), in bytes; hostile hellos must not fill memory.
pub const HELLO_TEXT_MAX_BYTES: usize = 4096;
/// Longest `peerType`, in characters (wire spec §0).
pub const PEER_TYPE_MAX_CHARS: usize = 32;
/// Capability words in one hello; ours sends eight.
pub const HELLO_CAPABILITIES_MAX: usize = 64;
/// Longest `client_message_id`, in characters of printable ASCII (wire spec §4.2).
pub const CLIENT_MESSAGE_ID_MAX_CHARS: usize = 128;
/// Longest `_reqId`, in bytes (wire spec §1.4).
pub const REQUEST_ID_MAX_BYTES: usize = 128;
/// Longest `replyToId`, in characters (wire spec §4.9).
pub const REPLY_TO_MAX_CHARS: usize = 128;
/// Mentions in one message (wire spec §4.6).
pub const MENTIONS_MAX: usize = 16;
/// Longest summary, in characters (broker spec §2.4).
pub const SUMMARY_MAX_CHARS: usize = 500;
/// Largest user metadata of a message as canonical JSON, in bytes (wire spec §5.3).
pub const BODY_META_MAX_BYTES: usize = 8 * 1024;

/// Longest key of the shared state, in characters (broker spec §4.1).
pub const STATE_KEY_MAX_CHARS: usize = 256;
/// Largest value of the shared state as compact JSON, in bytes (broker spec §4.1).
pub const STATE_VALUE_MAX_BYTES: usize = 32_768;
/// Keys of the shared state of one mesh (broker spec §4.1).
pub const STATE_KEYS_MAX: usize = 5_000;
/// Entries in what one member grants others (broker spec §4.22).
pub const GRANTS_MAX: usize = 1_000;
/// Shortest prefix that names a message or an outbox row, in characters (daemon spec §10.1, broker spec §3.7).
pub const ID_PREFIX_MIN_CHARS: usize = 8;
/// Shortest key prefix that names a member or session, in hexadecimal characters (wire spec §3.22).
pub const KEY_PREFIX_MIN_CHARS: usize = 8;
/// Time an old member key still names its member in targets after a rotation (broker spec §2.6).
pub const ROTATED_KEY_GRACE: Duration = Duration::from_hours(7 * 24);
/// Events of a mesh that are kept for peers that were away (wire spec §6.6).
pub const MESH_EVENTS_KEPT: u64 = 1_000;
/// Days an undelivered message may be held by the setting of a mesh (broker spec §4.28).
pub const MESH_RETENTION_DAYS: std::ops::RangeInclusive<u32> = 1..=365;
/// Days a mesh may remember client message ids; less would not outlive an outbox's retries (broker spec §1.1).
pub const DEDUPE_DAYS: std::ops::RangeInclusive<u32> = 3..=3_650;
/// Longest reason of a ban, in characters; a sentence, not a document.
pub const BAN_REASON_MAX_CHARS: usize = 500;
/// Entries in one answer of the audit log when no limit is given (broker spec §4.19).
pub const AUDIT_QUERY_DEFAULT: u32 = 50;
/// Entries in one answer of the audit log at most (broker spec §4.19).
pub const AUDIT_QUERY_MAX: u32 = 500;
/// Time between two verifications of one mesh's audit log (broker spec §4.19).
pub const AUDIT_VERIFY_INTERVAL: Duration = Duration::from_mins(1);
/// Time between two signatures over the head of one mesh's audit log (broker spec §4.19).
pub const AUDIT_HEAD_PERIOD: Duration = Duration::from_hours(1);
/// Signed heads that are kept for one mesh: a week of busy hours. Ours; the newest alone shows that something is missing,
/// the others where.
pub const AUDIT_HEADS_KEPT: u32 = 168;
/// Entries of the audit log that wait in memory for one mesh before a writer waits itself (broker spec §4.19).
pub const AUDIT_QUEUE_MAX: usize = 10_000;

/// Clock difference tolerated in a hello and in signed requests (wire spec §2.3).
pub const CLOCK_SKEW: Duration = Duration::from_mins(1);
/// How long an accepted hello is kept, to refuse its repeat. The skew rule needs two minutes (wire spec §2.3); an hour
/// keeps a broker's clock that was set forth and back from forgetting one whose time is good again.
pub const HELLO_MEMORY: Duration = Duration::from_hours(1);
/// How long a signed request is remembered, to refuse its repeat (wire spec §2.3).
pub const HELLO_REPLAY_WINDOW: Duration = Duration::from_mins(2);
/// Longest life of a session attestation the broker accepts (wire spec §2.4).
pub const ATTESTATION_MAX_TTL: Duration = Duration::from_hours(24);
/// Life of the attestations we mint (wire spec §2.4).
pub const ATTESTATION_TTL: Duration = Duration::from_hours(12);

/// How long a status that a hook reported waits for its program to connect (broker spec §2.3).
pub const PENDING_STATUS_TTL: Duration = Duration::from_secs(10);
/// Programs whose hook reports are counted at once; bounds the memory of the hook endpoint.
pub const HOOK_SOURCES_MAX: usize = 10_000;
/// Period of the search for presence rows nobody stands for any more (broker spec §2.2).
pub const ROW_SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Silence after which a presence row without a socket or lease in memory is ended (broker spec §2.2).
pub const STALE_ROW_AFTER: Duration = Duration::from_mins(3);

/// A socket must have an accepted hello within this time (wire spec §1.1).
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest first frame, in bytes, before the sender is known (broker spec §7.6).
pub const FIRST_FRAME_MAX_BYTES: usize = 64 * 1024;
/// Largest frame a client may send when the broker did not announce a limit (wire spec §1.1).
pub const LEGACY_FRAME_MAX_BYTES: usize = 65_536;
/// Largest WebSocket frame accepted by broker and daemon, in bytes (wire spec §1.1).
pub const MAX_FRAME_BYTES: usize = 2 * 1024 * 1024;
/// Period of WebSocket pings (wire spec §1.2).
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Silence after which a connection is taken for dead (wire spec §1.2).
pub const SILENCE_LIMIT: Duration = Duration::from_secs(75);
/// Unparsable frames within [`INVALID_JSON_WINDOW`] that close a socket (wire spec §1.1).
pub const INVALID_JSON_MAX: usize = 20;
/// Window of [`INVALID_JSON_MAX`].
pub const INVALID_JSON_WINDOW: Duration = Duration::from_mins(1);
/// Nesting depth of a JSON frame (broker spec §7.6).
pub const JSON_MAX_DEPTH: usize = 32;

/// Longest wait for a connection to PostgreSQL: for a free one, for a new one, or for a sign of life of a kept one.
pub const DB_ACQUIRE_LIMIT: Duration = Duration::from_millis(1_500);
/// Longest operation on PostgreSQL that somebody waits for, from asking for a connection to its last answer. A request is
/// answered within 5 s whatever the database does (broker spec G-2), also when it waits behind a commit that gets no
/// answer and then finds no connection ([`DB_ACQUIRE_LIMIT`]).
pub const DB_OPERATION_LIMIT: Duration = Duration::from_secs(3);
/// Longest operation on PostgreSQL that cleans up or takes over after a start.
pub const DB_UPKEEP_LIMIT: Duration = Duration::from_secs(20);
/// Longest run of one statement at the PostgreSQL server, which ends it: what nobody waits for any more holds no lock for
/// long. Below [`DB_UPKEEP_LIMIT`], so that a slow statement ends with an answer.
pub const DB_STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest pause inside a transaction before the PostgreSQL server undoes it: its broker is gone.
pub const DB_IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which the PostgreSQL server asks whether a broker's machine is still there, pause between two such
/// questions, and how many stay unanswered before it hangs up.
pub const DB_KEEPALIVE: (Duration, Duration, u32) =
    (Duration::from_secs(30), Duration::from_secs(10), 3);
/// A connection to PostgreSQL that rested no longer is used without asking whether it lives.
pub const DB_TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// A connection to PostgreSQL that nobody needed for so long is closed.
pub const DB_IDLE_MAX: Duration = Duration::from_mins(10);
/// A connection to PostgreSQL is replaced after this time, so that neither side collects what it holds for ever.
pub const DB_LIFETIME_MAX: Duration = Duration::from_mins(30);
/// Longest run of the pending migrations on PostgreSQL, so that a start behind a network that went silent ends.
pub const DB_MIGRATION_LIMIT: Duration = Duration::from_hours(1);

/// Outbound buffer of one broker connection, in bytes (broker spec §3.4).
pub const OUTBOUND_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Pushed rows of one connection that may wait for their ack (broker spec §3.4).
pub const UNACKED_MAX: usize = 256;
/// Rows of its member one connected device may be owed while other devices already have them; beyond it, it misses what
/// they acknowledge first. As many as one member may have waiting (broker spec §3.3).
pub const COPIES_OWED_MAX: usize = 10_000;
/// A connection whose outbound buffer stays full this long is closed with 1011 (broker spec §3.4).
pub const SLOW_CONSUMER_AFTER: Duration = Duration::from_secs(30);
/// Rows claimed by one drain step (broker spec §3.4).
pub const CLAIM_BATCH: usize = 100;
/// First claim lease of a pushed row; doubles with each attempt (wire spec §4.5).
pub const CLAIM_LEASE: Duration = Duration::from_secs(30);
/// Longest claim lease (wire spec §4.5).
pub const CLAIM_LEASE_MAX: Duration = Duration::from_mins(10);
/// Safety net of every deadline queue: the due query runs at least this often (broker spec §3.4).
pub const DUE_QUERY_INTERVAL: Duration = Duration::from_secs(15);
/// Least time between two `pull_messages` of one connection (wire spec §3.1).
pub const PULL_INTERVAL: Duration = Duration::from_secs(5);
/// Members one group body is sealed to (wire spec §5.4).
pub const GROUP_AUDIENCE_MAX: usize = 1_000;
/// A session key may still be addressed this long after it was last seen (broker spec §1.1).
pub const SESSION_KEY_MEMORY: Duration = Duration::from_hours(7 * 24);
/// How long an unbound invite claim of an old client waits for its first hello (wire spec §5.8).
pub const UNBOUND_MEMBER_TTL: Duration = Duration::from_mins(15);

/// Hops a message may have made (wire spec §4.10).
pub const MAX_HOPS: u32 = 12;
/// Messages of one pair of sessions within [`LOOP_WINDOW`] before both are stopped (wire spec §4.10).
pub const LOOP_PAIR_MAX: usize = 40;
/// Window of [`LOOP_PAIR_MAX`] (wire spec §4.10).
pub const LOOP_WINDOW: Duration = Duration::from_mins(10);
/// How long a looping pair stays stopped (wire spec §4.10).
pub const LOOP_STOP: Duration = Duration::from_mins(10);
/// A member's send budget that was not touched this long is forgotten (wire spec §4.6).
pub const RATE_IDLE: Duration = Duration::from_mins(10);
/// Receipts kept per delivery row (broker spec §6.6).
pub const RECEIPTS_PER_ROW: u32 = 20;
/// Longest `path` of a receipt, in characters (wire spec §3.1).
pub const RECEIPT_PATH_MAX_CHARS: usize = 64;
/// From the start of an agent's hook to its end, whatever happens: an agent must not wait for us (MCP spec §10.3).
pub const AGENT_HOOK_HARD_STOP: Duration = Duration::from_millis(50);
/// Largest stdin of an agent's hook, in bytes (MCP spec §10.3).
pub const AGENT_HOOK_STDIN_MAX_BYTES: usize = 256 * 1024;
/// Messages that one hook puts before an agent (MCP spec §10.3).
pub const AGENT_HOOK_MESSAGES_MAX: usize = 5;
/// What one hook says, in bytes (MCP spec §10.3): clients put longer texts aside.
pub const AGENT_HOOK_TEXT_MAX_BYTES: usize = 4 * 1024;
/// Longest id of a hook's event, in characters.
pub const AGENT_HOOK_EVENT_ID_MAX_CHARS: usize = 128;
/// Events of hooks remembered for each session, so that one that is told twice has one effect (agents spec §1.6b).
pub const AGENT_HOOK_EVENT_IDS: usize = 64;
/// Least time between two counts for a session whose messages stay in the inbox (MCP spec §10.3).
pub const AGENT_HOOK_COUNT_EVERY: Duration = Duration::from_mins(10);
/// Longest `evidence` of a receipt, in characters (wire spec §3.1).
pub const RECEIPT_EVIDENCE_MAX_CHARS: usize = 256;
/// Longest `reason` of a receipt, in characters: a word or two, never message text (wire spec §3.1).
pub const RECEIPT_REASON_MAX_CHARS: usize = 64;
/// Receipts of one member at once. They are free of the send rate; this bounds the signatures a flood can make the
/// broker check, and lies above what a member that drains a full backlog sends (broker spec §6.6).
pub const RECEIPT_BURST: u32 = 10_000;
/// Receipts of one member per minute in the long run (broker spec §6.6).
pub const RECEIPTS_PER_MIN: u32 = 60_000;
/// Frames waiting in the outbound queue of one connection; with [`OUTBOUND_MAX_BYTES`] it bounds a slow reader.
pub const OUTBOUND_MAX_FRAMES: usize = 4_096;
/// Longest avatar of a profile, in characters (broker spec §2.4).
pub const AVATAR_MAX_CHARS: usize = 64;
/// Longest title of a profile, in characters (broker spec §2.4).
pub const TITLE_MAX_CHARS: usize = 80;
/// Longest bio of a profile, in characters (broker spec §2.4).
pub const BIO_MAX_CHARS: usize = 1_000;
/// Longest role label or capability word of a profile, in characters (broker spec §2.4).
pub const PROFILE_WORD_MAX_CHARS: usize = 64;
/// Capability words of a profile (broker spec §2.4).
pub const PROFILE_CAPABILITIES_MAX: usize = 32;

/// JSON body of broker HTTP routes, in bytes (broker spec §5.0).
pub const HTTP_BODY_MAX_BYTES: usize = 65_536;
/// Time to read an HTTP body (broker spec §5.0).
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Invites that one member or account may make in an hour; what is above waits for the next (broker spec §4.26).
pub const INVITES_PER_MAKER_HOUR: u32 = 60;
/// Life of an invite that a machine makes for itself and uses at once (daemon spec §4.3).
pub const REMINT_INVITE_TTL: Duration = Duration::from_mins(10);
/// Characters of a short invite code (wire spec §5.8).
pub const INVITE_CODE_CHARS: usize = 8;
/// Uses of one invite: default, and the most one may ask for (broker spec §4.26).
pub const INVITE_USES_MAX: u32 = 1_000;
/// Default life of an invite (broker spec §4.26).
pub const INVITE_TTL: Duration = Duration::from_hours(7 * 24);
/// Longest life of an invite (broker spec §4.26).
pub const INVITE_TTL_MAX: Duration = Duration::from_hours(365 * 24);
/// Shortest life of an invite (broker spec §4.26 says days; an hour lets tests and one-off shares be strict).
pub const INVITE_TTL_MIN: Duration = Duration::from_mins(1);
/// Shortest and longest mesh name, in characters (broker spec §4.28).
pub const MESH_NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=80;
/// Shortest passphrase of a backup file, in characters (wire spec §5.14).
pub const BACKUP_PASSPHRASE_MIN_CHARS: usize = 12;
/// Agreed keys a daemon keeps, in pairs: one full group audience and some direct partners, about 320 KB.
pub const SHARED_KEY_CACHE_PAIRS: usize = GROUP_AUDIENCE_MAX + 256;
/// Sliding life of a CLI session token (wire spec §5.13).
pub const CLI_SESSION_TTL: Duration = Duration::from_hours(90 * 24);
/// Wrong setup codes per minute and address (broker spec §6.2).
pub const SETUP_CODE_TRIES_PER_MINUTE: u32 = 5;

/// WebSocket connect, TLS and upgrade of a client (daemon spec §6.2).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait for `hello_ack` (wire spec §1.2).
pub const HELLO_ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait for the ack of a `send` on a daemon's connection (wire spec §1.2).
pub const SEND_ACK_TIMEOUT: Duration = Duration::from_secs(15);
/// Wait for the reply to a request with `_reqId` (wire spec §1.2).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bounds of the reconnect waits, in seconds; the last one stays (wire spec §1.2).
pub const RECONNECT_SCHEDULE_SECS: [u64; 6] = [1, 2, 4, 8, 16, 30];
/// Least reconnect wait (wire spec §1.2).
pub const RECONNECT_FLOOR: Duration = Duration::from_millis(250);
/// A connection open this long resets the reconnect schedule (daemon spec §6.3).
pub const RECONNECT_STABLE_AFTER: Duration = Duration::from_secs(30);

/// Request body of the daemon's local API, in bytes (daemon spec §9.5).
pub const IPC_BODY_MAX_BYTES: usize = 1024 * 1024;
/// Requests in flight at the local API (daemon spec §9.5).
pub const IPC_IN_FLIGHT: usize = 256;
/// Event streams open at the local API (daemon spec §9.5).
pub const IPC_EVENT_STREAMS: usize = 32;
/// Requests per second and caller at the local API, and the burst above it (daemon spec §9.5).
pub const IPC_RATE_PER_SEC: u32 = 5_000;
/// Burst of [`IPC_RATE_PER_SEC`].
pub const IPC_BURST: u32 = 10_000;
/// Events kept for `Last-Event-ID` (daemon spec §14.2).
pub const EVENT_RING: usize = 2_048;
/// Events queued for one subscriber before the oldest are dropped (daemon spec §14.2).
pub const EVENT_QUEUE: usize = 1_024;
/// Sessions registered at one daemon (daemon spec §1.5).
pub const SESSIONS_MAX: usize = 128;
/// Rows of one sender identity in flight to the broker (daemon spec §11.3).
pub const OUTBOX_IN_FLIGHT: usize = 16;
/// Age at which a waiting row gives up when the broker announced nothing, in hours (daemon spec §11.5).
pub const OUTBOX_MAX_AGE_DEFAULT_HOURS: u64 = 144;
/// Group and broadcast items older than this on arrival are announced in one digest (daemon spec §13.2).
pub const DIGEST_AFTER: Duration = Duration::from_mins(10);
/// Days an inbox row is kept (daemon spec §13.5).
pub const INBOX_RETENTION_DAYS: u32 = 30;

/// Port of the local API where SDKs use TCP (daemon spec §9.1).
pub const IPC_HTTP_PORT: u16 = 47_823;
/// Header of a request at the local API, in bytes (daemon spec §9.1).
pub const IPC_HEADER_MAX_BYTES: usize = 16 * 1024;
/// Time in which the header of a request must have come (daemon spec §9.1).
pub const IPC_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a write at the local API may wait for a reader that does not read; then the connection ends (daemon spec
/// §14.2).
pub const IPC_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// TCP connections to the local API at once: anybody on the machine can open one (daemon spec §9.1).
pub const IPC_TCP_CONNECTIONS: usize = 128;
/// Items of one page of the inbox or of a search, in bytes of JSON: well below what a client takes as one answer
/// (daemon spec §9.5, §13.7).
pub const INBOX_PAGE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Period of the daemon's periodic looks at itself (daemon spec §1.3).
pub const DAEMON_TICK: Duration = Duration::from_secs(15);
/// How long a local token that was replaced is still taken (daemon spec §20.1).
pub const LOCAL_TOKEN_GRACE: Duration = Duration::from_mins(1);
/// Memory of the daemon's service unit, in bytes; the daemon warns at 80 % (daemon spec §1.5).
pub const DAEMON_RSS_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Descriptors the daemon uses; beyond them new event streams are refused (daemon spec §1.5).
pub const DAEMON_FDS_MAX: u64 = 1_024;
/// How long the log of an MCP server is kept (daemon spec §2).
pub const MCP_LOG_KEEP: Duration = Duration::from_hours(7 * 24);

/// Hooks that run at once (daemon spec §16.5).
pub const HOOKS_AT_ONCE: usize = 8;
/// Hook runs that wait; beyond them the oldest is dropped (daemon spec §16.5).
pub const HOOK_QUEUE: usize = 256;
/// Time of a hook (daemon spec §16.2).
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(30);
/// Time of a `pre-send` hook (daemon spec §16.2).
pub const HOOK_PRE_SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time a hook may set itself (daemon spec §16.2).
pub const HOOK_TIMEOUT_MAX: Duration = Duration::from_mins(10);
/// Time between the asking and the ending of a hook's processes (daemon spec §16.5).
pub const HOOK_KILL_AFTER: Duration = Duration::from_secs(5);
/// What a hook reads on standard input, in bytes (daemon spec §16.3).
pub const HOOK_STDIN_MAX_BYTES: usize = 262_144;
/// What is kept of a hook's output, in bytes, of either stream (daemon spec §16.2).
pub const HOOK_OUTPUT_MAX_BYTES: usize = 65_536;
/// Life of a hook's capability token (daemon spec §16.4).
pub const HOOK_TOKEN_TTL: Duration = Duration::from_mins(5);
/// Calls one capability token is good for (daemon spec §16.4).
pub const HOOK_TOKEN_CALLS: u32 = 20;
/// Automatic replies of one hook to one sender per minute (daemon spec §16.5).
pub const HOOK_REPLIES_PER_MINUTE: u32 = 6;
/// How long a hook that replied too often to one sender stays silent to it (daemon spec §16.5).
pub const HOOK_MUTE: Duration = Duration::from_mins(10);
/// Largest output a hook may ask to be kept, in bytes, of either stream: memory, eight times two of them.
pub const HOOK_SECTION_OUTPUT_MAX_BYTES: usize = 1_048_576;
/// Time between the asking and the ending of a hook's processes when the daemon stops (daemon spec §16.5).
pub const HOOK_SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// Messages remembered so that each fires its hooks once, whichever of our keys it comes to (daemon spec §16.1).
pub const HOOK_EVENTS_REMEMBERED: usize = 4_096;
/// How long a mesh is without its connection before hooks hear of it (daemon spec §16.1).
pub const HOOK_OUTAGE: Duration = Duration::from_secs(5);
/// Longest reason of a hook that refuses a message, in characters (daemon spec §16.6).
pub const HOOK_REASON_MAX_CHARS: usize = 300;
/// Pairs of hook and sender whose replies are counted at once; bounds memory (daemon spec §16.5).
pub const HOOK_PAIRS_MAX: usize = 4_096;

/// How long mail for a former key can still be read (daemon spec §19.2).
pub const KEY_GRACE: Duration = Duration::from_hours(7 * 24);
/// The most an operator may make of [`KEY_GRACE`] (daemon spec §19.2).
pub const KEY_GRACE_MAX: Duration = Duration::from_hours(30 * 24);
/// Epochs of a topic's key that a broker keeps side by side, the present one included (wire spec §2.10).
pub const KEY_EPOCHS_MAX: u64 = 8;
/// Former keys kept of each mesh (daemon spec §19.2).
pub const ARCHIVED_KEYS_MAX: usize = 8;
/// Former keys of a member that a row of the roster carries with their proofs, some 450 bytes each (wire spec §5.18).
pub const LISTED_FORMER_KEYS_MAX: usize = 8;
/// Least time between two writes of the status line's small file (daemon spec §7.5, CLI spec §6.5).
pub const PEER_CACHE_LEAST: Duration = Duration::from_secs(1);
/// Most time between two writes of it: a minute makes the status line call it stale (CLI spec §6.5).
pub const PEER_CACHE_MOST: Duration = Duration::from_secs(30);
/// Largest file of that kind that is read, in bytes: some ten thousand meshes.
pub const PEER_CACHE_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Age from which the status line calls what it shows stale (CLI spec §6.5).
pub const STATUS_LINE_FRESH: Duration = Duration::from_mins(1);
/// Age beyond which it shows nothing of it (CLI spec §6.5).
pub const STATUS_LINE_STALE: Duration = Duration::from_mins(10);
/// How long the status line waits for what its client says (CLI spec §6.5).
pub const STATUS_LINE_STDIN_WAIT: Duration = Duration::from_millis(20);
/// Cells of the status line (CLI spec §6.5).
pub const STATUS_LINE_WIDTH: usize = 60;
/// How long `status` waits for a broker that it asks itself (CLI spec §6.4).
pub const BROKER_PROBE_BUDGET: Duration = Duration::from_secs(4);
/// A backup file, in bytes: it is made and read in memory, several times over. Keys and settings are far below; an
/// inbox that is larger stays out (daemon spec §20.2).
pub const BACKUP_MAX_BYTES: usize = 256 * 1024 * 1024;
/// Passes over the memory that the reader of a backup agrees to (daemon spec §20.2).
pub const BACKUP_PASSES_MAX: u32 = 10;
/// Bytes of a file that holds a passphrase, of which the first line counts (CLI spec §6.10).
pub const PASSPHRASE_FILE_MAX_BYTES: usize = 4096;
/// Time for the API by which a member leaves, of each mesh (daemon spec §20.3).
pub const UNINSTALL_LEAVE_BUDGET: Duration = Duration::from_secs(5);
/// How long `install-service` watches for the first connection to a broker (daemon spec §21).
pub const SERVICE_READY_BUDGET: Duration = Duration::from_secs(15);

/// Text of one channel notification, in bytes (MCP spec §4.2).
pub const CHANNEL_CONTENT_MAX_BYTES: usize = 32 * 1024;
/// One attribute of a channel notification, in bytes (MCP spec §4.2).
pub const CHANNEL_VALUE_MAX_BYTES: usize = 1024;
/// A whole channel notification, in bytes (MCP spec §4.2).
pub const CHANNEL_TOTAL_MAX_BYTES: usize = 48 * 1024;
/// Largest line read from an MCP client, in bytes (MCP spec §3).
pub const MCP_LINE_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Lines waiting for an MCP client to read; a full queue holds back replies and pushes alike (MCP spec §3).
pub const MCP_OUTPUT_QUEUE: usize = 64;
/// Size at which an MCP server's log file is cut to its last half, in bytes (MCP spec §3).
pub const MCP_LOG_MAX_BYTES: u64 = 10 * 1024 * 1024;
/// Time an MCP server has for its farewell to the daemon after its client closed; below the 1 s of MCP spec §3.
pub const MCP_FAREWELL: Duration = Duration::from_millis(500);
/// Upper bounds of the waits between tries to reach the daemon, in seconds; the last one stays (MCP spec §3).
pub const MCP_DAEMON_RETRY_SECS: [u64; 6] = [1, 2, 4, 8, 16, 30];
/// Wait before an event stream that ended is opened again (MCP spec §4.1).
pub const MCP_STREAM_RETRY: Duration = Duration::from_secs(1);
/// Time one try to make the daemon ready may take (MCP spec §3).
pub const MCP_DAEMON_READY_BUDGET: Duration = Duration::from_secs(10);
/// Tool calls of one MCP client that run at once (MCP spec §3).
pub const MCP_CALLS_MAX: usize = 16;
/// Tool calls of one MCP client that wait for a place; more are refused with `rate_limited`, so that a client without
/// manners cannot fill our memory. Our own choice.
pub const MCP_CALLS_WAITING_MAX: usize = 64;
/// Time between two progress notifications of one tool call, and until the first (MCP spec §3).
pub const MCP_PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// How long a person may take to answer whether a tool may run (MCP spec §6).
pub const MCP_ELICITATION_WAIT: Duration = Duration::from_mins(1);
/// Result of one tool call as text, in bytes; what is longer is cut and says so (MCP spec §6).
pub const MCP_RESULT_MAX_BYTES: usize = 200 * 1024;
/// Time within which changes of the inbox share one `notifications/resources/updated` (MCP spec §5, §12).
pub const MCP_RESOURCE_UPDATED_WINDOW: Duration = Duration::from_millis(500);
/// Time between two reports of the counters of a session: of an MCP server to its daemon, and of the daemon to the broker
/// with `set_stats` (wire spec §3.2, MCP spec §6).
pub const STATS_EVERY: Duration = Duration::from_mins(1);
/// Proposals in one answer to `completion/complete` (the MCP revisions allow no more).
pub const MCP_COMPLETIONS_MAX: usize = 100;
/// Time between `initialized` and the welcome: clients register their handler late (MCP spec §4.8).
pub const CHANNEL_WELCOME_DELAY: Duration = Duration::from_secs(3);
/// How long the welcome waits for the daemon before it says what it knows (MCP spec §4.8).
pub const CHANNEL_WELCOME_WAIT: Duration = Duration::from_secs(30);
/// Notifications per minute that are not messages (MCP spec §4.4).
pub const CHANNEL_EVENTS_PER_MINUTE: usize = 30;
/// Joins and leaves within this time make one line (MCP spec §4.4).
pub const CHANNEL_PRESENCE_WINDOW: Duration = Duration::from_secs(2);
/// Names spelled out in one line of joins, senders or peers (MCP spec §4.4, §4.8).
pub const CHANNEL_NAMES_MAX: usize = 5;
/// Least time between two count lines of message mode `inbox` (MCP spec §4.6).
pub const CHANNEL_INBOX_LINE_EVERY: Duration = Duration::from_secs(10);
/// Messages whose identity is remembered, so that none is pushed twice (MCP spec §4.9).
pub const CHANNEL_ECHO_MEMORY: usize = 4096;
/// Read marks are collected this long before one request carries them (MCP spec §4.7).
pub const CHANNEL_SEEN_WINDOW: Duration = Duration::from_millis(200);
/// Most read marks in one request (daemon spec §9.7).
pub const INBOX_SEEN_IDS_MAX: usize = 1_000;
/// Rows read back from the inbox after a gap in the events, and for the welcome (MCP spec §4.1, §4.8).
pub const CHANNEL_CATCH_UP_ROWS: usize = 50;
/// Rows of [`CHANNEL_CATCH_UP_ROWS`] pushed one by one; the rest is counted (MCP spec §4.1).
pub const CHANNEL_CATCH_UP_PUSHES: usize = 10;
/// Longest wait of one question for the bell of a session, and what is waited when none is asked for: a background hook of
/// an agent lives 600 s where its settings say nothing else (agents spec §1.4, §1.6b).
pub const BELL_WAIT_MAX: Duration = Duration::from_secs(590);
/// How long after the end of a turn the bell of its session stays silent: what waits is given to the hook of that end first,
/// and would otherwise be announced a second time. Ours (agents spec §1.6b).
pub const BELL_SETTLE: Duration = Duration::from_millis(300);
/// How often an agent is woken for the same message that nobody takes then. Ours: without hooks of the prompt the bell would
/// wake it for ever (agents spec §1.2).
pub const BELL_RINGS_MAX: u32 = 3;
/// Longest name and version of the program that an MCP server serves, in characters. Ours.
pub const MCP_CLIENT_NAME_MAX_CHARS: usize = 64;
/// Longest summary of a peer inside a notification, in characters (MCP spec §4.9).
pub const CHANNEL_SUMMARY_MAX_CHARS: usize = 80;

/// Shortest `--timeout` of the command line (CLI spec §9).
pub const CLI_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest `--timeout` of the command line (CLI spec §9).
pub const CLI_TIMEOUT_MAX: Duration = Duration::from_mins(10);
/// Largest policy file that is read, in bytes. Ours; the rules of a person fit many times (CLI spec §1.17).
pub const POLICY_FILE_MAX_BYTES: u64 = 262_144;
/// Size from which the policy gate's audit log is rotated, in bytes: 10 MiB (CLI spec §1.17).
pub const GATE_AUDIT_MAX_BYTES: u64 = 10_485_760;
/// Rotated audit logs of the policy gate that are kept (CLI spec §1.17).
pub const GATE_AUDIT_KEPT: u32 = 3;
/// Text read from stdin as a message body, in bytes (CLI spec §1.2).
pub const CLI_STDIN_MAX_BYTES: u64 = 256 * 1024;
/// How long a send waits for the broker's word before it says "queued locally" (CLI spec §3.6).
pub const CLI_SEND_WORDING_WAIT: Duration = Duration::from_millis(300);
/// How long a change of membership waits for the daemon to list it (CLI spec §2.4).
pub const CLI_ATTACH_WAIT: Duration = Duration::from_secs(3);
/// Budget of a daemon start (CLI spec §1.15).
pub const DAEMON_SPAWN_BUDGET: Duration = Duration::from_secs(3);
/// Budget of a daemon that a service manager starts (CLI spec §1.15).
pub const DAEMON_SERVICE_BUDGET: Duration = Duration::from_secs(8);
/// How long a failed daemon start keeps others from trying (CLI spec §1.15).
pub const DAEMON_SPAWN_FAILURE_TTL: Duration = Duration::from_secs(30);
/// Longest life that may be asked for an ephemeral daemon (daemon spec §4.1); for more there is a persistent one.
pub const EPHEMERAL_TTL_MAX: Duration = Duration::from_hours(30 * 24);
/// How long an ephemeral member that ends waits for the broker to release it; all of the end takes 8 s at most (daemon
/// spec §1.3, §4.1).
pub const EPHEMERAL_LEAVE_BUDGET: Duration = Duration::from_secs(3);
/// Wait for the daemon's lock after SIGTERM (daemon spec §1.6).
pub const DAEMON_STOP_BUDGET: Duration = Duration::from_secs(5);
/// Wait for a broker started by `up` (CLI spec §5.6).
pub const BROKER_START_BUDGET: Duration = Duration::from_secs(10);
/// Wait for a broker stopped by `down` (CLI spec §5.6).
pub const BROKER_STOP_BUDGET: Duration = Duration::from_secs(10);
/// Port of the broker that `up` starts, when nothing else holds it (CLI spec §5.6).
pub const BROKER_DEFAULT_PORT: u16 = 7900;
