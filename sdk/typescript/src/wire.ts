// Written by `make reference` from the tables in crates/protocol; edit those.
// Times in milliseconds and sequence numbers are far below 2^53, so that they are numbers here.

/**
 * The broker's answer to a send, and the bare success of other frames (wire spec §1.4, §3.1).
 */
export type Ack = { 
/**
 * The request's `id`, or `""`.
 */
id: string, 
/**
 * The broker's id, `""` on failure and where there is none.
 */
messageId: string, 
/**
 * True when the message is durable.
 */
queued: boolean, 
/**
 * `code: sentence` of a failed send.
 */
error?: string | null, 
/**
 * 201 accepted, 200 known already, 409 id used for something else.
 */
status?: number | null, 
/**
 * The idempotency id again.
 */
client_message_id?: string | null, 
/**
 * True when the message was known already.
 */
duplicate?: boolean | null, 
/**
 * For a duplicate: whether the message still stands in the store.
 */
history_available?: boolean | null, 
/**
 * For a duplicate: when it was first accepted, ISO.
 */
first_seen_at?: string | null, 
/**
 * For a conflict: first eight bytes of the stored fingerprint, hex.
 */
broker_fingerprint_prefix?: string | null, 
/**
 * Direct messages: whether the recipient is connected now.
 */
recipient_online?: boolean | null, 
/**
 * Member key, when the named session has ended.
 */
rerouted_to?: PublicKey | null, 
/**
 * Deliveries made.
 */
recipients?: number | null, 
/**
 * Of these, for absent members.
 */
held?: number | null, 
/**
 * Recipients skipped, because no key was wrapped for them.
 */
skipped_no_key?: number | null, 
/**
 * Members whose live client cannot open group bodies.
 */
unreadable_by?: Array<MemberId> | null, 
/**
 * Topic message id.
 */
historyId?: string | null, 
/**
 * How long to wait before trying again, in milliseconds.
 */
retry_after_ms?: number | null, 
/**
 * For `loop_unblock`: whether there was a stop to lift.
 */
lifted?: boolean | null, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * One entry of the chain.
 */
export type AuditEntry = { 
/**
 * Its number in the chain.
 */
id: number, 
/**
 * What happened.
 */
eventType: string, 
/**
 * Member id of who did it; null for the broker itself.
 */
actor: string | null, 
/**
 * What it concerned; never a message, a value or a secret.
 */
payload: JsonValue, 
/**
 * Hash over the previous entry's hash and this entry, 64 hexadecimal characters.
 */
hash: string, 
/**
 * When, ISO.
 */
createdAt: string, };

/**
 * The newest entry of a mesh's audit log at some time, signed by the broker; also the data of the system event
 * `audit_head`.
 */
export type AuditHead = { 
/**
 * Number of the entry.
 */
entry: number, 
/**
 * Entries up to and with it.
 */
entries: number, 
/**
 * Its hash, 64 hexadecimal characters.
 */
hash: string, 
/**
 * When it was signed, ISO.
 */
signedAt: string, 
/**
 * By the broker key over `claudemesh-audit-head|mesh|entry|entries|hash|signed at in ms`, in hexadecimal.
 */
signature: string, 
/**
 * The broker key, 64 hexadecimal characters.
 */
brokerPubkey: string, };

/**
 * Reads the audit log, newest first.
 */
export type AuditQuery = { 
/**
 * At most so many entries; 50 when absent.
 */
limit?: number | null, 
/**
 * Leaves out so many of the newest.
 */
offset?: number | null, 
/**
 * Only entries of this type, such as `member_banned`.
 */
eventType?: string | null, };

/**
 * Answer to [`AuditQuery`].
 */
export type AuditResult = { 
/**
 * Newest first.
 */
entries: Array<AuditEntry>, 
/**
 * How many there are in all that match.
 */
total: number, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Recomputes the whole chain.
 */
export type AuditVerify = Record<symbol, never>;

/**
 * Answer to [`AuditVerify`].
 */
export type AuditVerifyResult = { 
/**
 * True when every entry follows from the one before it.
 */
valid: boolean, 
/**
 * Entries looked at.
 */
entries: number, 
/**
 * The first entry that does not, or that was signed and is gone.
 */
brokenAt?: number | null, 
/**
 * What is wrong, when something is.
 */
explanation?: string | null, 
/**
 * The newest signed head. Who kept an earlier one can tell whether the broker still has that entry.
 */
signedHead?: AuditHead | null, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Removes a member: its connections end and its key is refused until it is unbanned.
 */
export type Ban = { 
/**
 * Display name, member key, or a unique key prefix of at least 8 characters.
 */
target: string, 
/**
 * Why; kept in the audit log.
 */
reason?: string | null, };

/**
 * Answer to [`Ban`].
 */
export type BanAck = { 
/**
 * Name of the member.
 */
banned: string, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * One banned member.
 */
export type BanRow = { 
/**
 * Its name.
 */
name: string, 
/**
 * Its key.
 */
pubkey: PublicKey, 
/**
 * When, ISO.
 */
revokedAt: string, 
/**
 * Name of the member that banned it, when known.
 */
revokedBy?: string | null, 
/**
 * Why, when said.
 */
reason?: string | null, };

/**
 * The receiver has durably stored a push.
 */
export type ClientAck = { 
/**
 * The sender's id.
 */
clientMessageId?: string | null, 
/**
 * The broker's id.
 */
brokerMessageId?: string | null, };

/**
 * A frame from a client.
 */
export type ClientFrame = { "type": "hello" } & Hello | { "type": "session_hello" } & SessionHello | { "type": "send" } & Send | { "type": "pull_messages" } & PullMessages | { "type": "client_ack" } & ClientAck | { "type": "receipt" } & Receipt | { "type": "loop_unblock" } & LoopUnblock | { "type": "message_status" } & MessageStatus | { "type": "list_peers" } & ListPeers | { "type": "list_members" } & ListMembers | { "type": "set_status" } & SetStatus | { "type": "set_summary" } & SetSummary | { "type": "set_visible" } & SetVisible | { "type": "set_profile" } & SetProfile | { "type": "set_stats" } & SetStats | { "type": "join_group" } & JoinGroup | { "type": "leave_group" } & LeaveGroup | { "type": "goodbye" } & Goodbye | { "type": "set_state" } & SetState | { "type": "get_state" } & GetState | { "type": "list_state" } & ListState | { "type": "kick" } & Kick | { "type": "disconnect" } & Disconnect | { "type": "ban" } & Ban | { "type": "unban" } & Unban | { "type": "list_bans" } & ListBans | { "type": "set_grants" } & SetGrants | { "type": "get_grants" } & GetGrants | { "type": "rotate_member_key" } & RotateMemberKey | { "type": "audit_query" } & AuditQuery | { "type": "audit_verify" } & AuditVerify | { "type": "mesh_info" } & MeshInfo;

/**
 * As [`Kick`], with connections that come back by themselves.
 */
export type Disconnect = Kick;

/**
 * Answer to [`Disconnect`].
 */
export type DisconnectAck = KickAck;

/**
 * Tells the sender of a frame why it was refused; the socket stays open unless the handshake failed.
 */
export type ErrorFrame = { 
/**
 * The stable code; a client keeps unknown words.
 */
code: string, 
/**
 * One sentence for people.
 */
message: string, 
/**
 * Request id again, where old clients look for it (wire spec §1.4).
 */
id?: string | null, 
/**
 * The request it answers.
 */
_reqId?: string | null, 
/**
 * The broker's clock in Unix milliseconds, with `timestamp_skew`.
 */
serverTime?: number | null, 
/**
 * How long to wait before trying again, in milliseconds.
 */
retry_after_ms?: number | null, 
/**
 * What the caller can do about it.
 */
hint?: string | null, };

/**
 * Parameters of one feature.
 */
export type FeatureParams = { 
/**
 * Named values; `version` is always among them.
 */
params: { [key in string]: JsonValue }, };

/**
 * A key that a member had before, with the statement that replaced it: whoever trusts the key after it need not trust the
 * broker about this one (wire spec §5.18).
 */
export type FormerKeyRow = { 
/**
 * The key.
 */
pubkey: PublicKey, 
/**
 * When the next one took its place, as both keys signed it. Unix milliseconds.
 */
timestamp: number, 
/**
 * By this key.
 */
signatureOld: SignatureBytes, 
/**
 * By the next one.
 */
signatureNew: SignatureBytes, };

/**
 * Asks for what the caller grants others.
 */
export type GetGrants = Record<symbol, never>;

/**
 * Reads one key.
 */
export type GetState = { 
/**
 * Name of the entry.
 */
key: string, };

/**
 * A voluntary end: the presence goes at once.
 */
export type Goodbye = Record<symbol, never>;

/**
 * What a member grants another sender (wire spec §2.7).
 */
export type Grant = "read" | "dm" | "broadcast" | "state-read" | "state-write" | "file-read";

/**
 * Answer to [`SetGrants`] and [`GetGrants`]: the whole map.
 */
export type GrantsResult = { 
/**
 * By key of the sender.
 */
grants: { [key in PublicKey]: Array<Grant> }, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * A presence's membership of a group.
 */
export type Group = { 
/**
 * The path.
 */
name: GroupName, 
/**
 * A free word such as `lead`, at most 64 characters.
 */
role?: string | null, };

/**
 * How bodies of group and broadcast messages must be written in a mesh (wire spec §5.4).
 */
export type GroupEncryption = "off" | "preferred" | "required";

/**
 * A group path such as `ops` or `ops/core`, without `@`; `all` is reserved.
 */
export type GroupName = string;

/**
 * Member-keyed handshake. Keys and signatures are kept as text, because each bad shape has its own error code.
 */
export type Hello = { 
/**
 * Highest protocol version understood; absent means 1.
 */
protocolVersion?: number | null, 
/**
 * Capability words, see [`capability`].
 */
capabilities?: Array<string> | null, 
/**
 * Mesh id (not slug).
 */
meshId: MeshId, 
/**
 * Member id; part of the signed text.
 */
memberId: MemberId, 
/**
 * Member key, hex64.
 */
pubkey: string, 
/**
 * Session key of a one-shot client, SDK or connector; empty means absent.
 */
sessionPubkey?: string | null, 
/**
 * Proof that the caller holds the session key (session-hello text signed by it).
 */
sessionProof?: string | null, 
/**
 * Attestation for the session key, so that receivers can verify what it sends.
 */
parentAttestation?: JsonValue | null, 
/**
 * Overrides the member's name for this presence.
 */
displayName?: string | null, 
/**
 * The client's own name for its session.
 */
sessionId: string, 
/**
 * Process id.
 */
pid: number, 
/**
 * Working directory.
 */
cwd?: string | null, 
/**
 * Host name.
 */
hostname?: string | null, 
/**
 * Hash of the machine, from daemons (wire spec §5.15); never shown to peers.
 */
hostFingerprint?: string | null, 
/**
 * `ai`, `human`, `connector`, …
 */
peerType?: string | null, 
/**
 * What kind of program connects, see [`channel`].
 */
channel?: string | null, 
/**
 * Model the agent runs.
 */
model?: string | null, 
/**
 * Groups; a non-empty list replaces restored and default ones.
 */
groups?: Array<Group> | null, 
/**
 * Only `service` is honoured.
 */
peerRole?: string | null, 
/**
 * Number of the newest mesh event seen; the broker sends what came after it (wire spec §6.6).
 */
meshSeq?: number | null, 
/**
 * Unix milliseconds; part of the signed text.
 */
timestamp: number, 
/**
 * Member key's signature, hex128.
 */
signature: string, };

/**
 * The broker's answer to an accepted handshake; always the first frame on the socket.
 */
export type HelloAck = { 
/**
 * This presence.
 */
presenceId: PresenceId, 
/**
 * Effective display name.
 */
memberDisplayName: string, 
/**
 * The member's own roster entry.
 */
memberProfile?: MemberProfile | null, 
/**
 * Settings of the mesh.
 */
meshPolicy?: MeshPolicy | null, 
/**
 * True when saved state was restored; absent otherwise.
 */
restored?: boolean, 
/**
 * Summary of the last connection.
 */
lastSummary?: string | null, 
/**
 * End of the last connection, ISO.
 */
lastSeenAt?: string | null, 
/**
 * Groups restored because the hello named none.
 */
restoredGroups?: Array<Group> | null, 
/**
 * Counters of earlier connections.
 */
restoredStats?: Stats | null, 
/**
 * Running services in scope; empty until the broker hosts some.
 */
services: Array<JsonValue>, 
/**
 * `min(broker, client)`.
 */
protocolVersion?: number | null, 
/**
 * Version of the broker program.
 */
brokerVersion?: string | null, 
/**
 * Things the client should know: `session_pubkey_unproven`, `parent_attestation_ignored`, `display_name_taken`.
 */
warnings?: Array<string> | null, 
/**
 * The mesh.
 */
meshId?: MeshId | null, 
/**
 * The member.
 */
memberId?: MemberId | null, 
/**
 * What the broker takes this connection for.
 */
peerRole?: PeerRole | null, 
/**
 * The broker's clock, Unix milliseconds.
 */
serverTime?: number | null, 
/**
 * What the broker can do; absent at an older broker.
 */
features?: { [key in string]: FeatureParams } | null, 
/**
 * Key that signs the broker's system events, hex64.
 */
brokerPubkey?: PublicKey | null, 
/**
 * How long the presence outlives its socket.
 */
leaseTtlMs?: number | null, 
/**
 * Limits in force.
 */
limits?: WireLimits | null, };

/**
 * Joins a group or replaces the role in it.
 */
export type JoinGroup = { 
/**
 * Path, such as eng or eng/core. One leading `@` is tolerated, anything else is answered `invalid_args`.
 */
name: string, 
/**
 * Role in the group; absent clears it.
 */
role?: string | null, };

export type JsonValue = number | string | boolean | Array<JsonValue> | { [key in string]: JsonValue } | null;

/**
 * Which connections to end: exactly one of the three.
 */
export type Kick = { 
/**
 * Display name, member key, session key, or a unique key prefix of at least 8 characters.
 */
target?: string | null, 
/**
 * Everybody that has given no sign of life for so long, in milliseconds.
 */
stale?: number | null, 
/**
 * Everybody but the caller's own connection.
 */
all?: boolean | null, };

/**
 * Answer to [`Kick`].
 */
export type KickAck = { 
/**
 * Names of the presences that were ended.
 */
kicked: Array<string>, 
/**
 * The same list; old clients read this name.
 */
affected: Array<string>, 
/**
 * Names whose control-plane connection matched and was left alone: it would come back at once.
 */
skipped_control_plane?: Array<string>, 
/**
 * What to do instead, when nothing but control-plane connections matched.
 */
hint?: string | null, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Leaves a group.
 */
export type LeaveGroup = { 
/**
 * Path, such as eng or eng/core. One leading `@` is tolerated.
 */
name: string, };

/**
 * Asks for the banned members.
 */
export type ListBans = Record<symbol, never>;

/**
 * Answer to [`ListBans`].
 */
export type ListBansResult = { 
/**
 * Newest first.
 */
bans: Array<BanRow>, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Asks for the roster, absent members included.
 */
export type ListMembers = Record<symbol, never>;

/**
 * Asks who is there.
 */
export type ListPeers = { 
/**
 * Adds the lease state of each row.
 */
debug?: boolean | null, };

/**
 * Lists the entries in the order of their keys.
 */
export type ListState = { 
/**
 * Only keys that begin with this text. It is taken literally.
 */
prefix?: string | null, };

/**
 * Lifts a loop stop between the caller and `peer`.
 */
export type LoopUnblock = { 
/**
 * The other side's key.
 */
peer: PublicKey, };

/**
 * A member: one durable key in one mesh.
 */
export type MemberId = string;

/**
 * What the roster says about the member itself.
 */
export type MemberProfile = { 
/**
 * Role label.
 */
roleTag: string | null, 
/**
 * Default groups.
 */
groups: Array<Group>, 
/**
 * How the member wants messages handed over.
 */
messageMode: MessageMode, };

/**
 * A member's role in its mesh.
 */
export type MemberRole = "admin" | "member";

/**
 * One member in `members_list`.
 */
export type MemberRow = { 
/**
 * The member.
 */
memberId: MemberId, 
/**
 * Its key.
 */
pubkey: PublicKey, 
/**
 * Its name.
 */
displayName: string, 
/**
 * Its role.
 */
role: MemberRole, 
/**
 * Role label.
 */
roleTag: string | null, 
/**
 * Default groups.
 */
groups: Array<Group>, 
/**
 * ISO.
 */
joinedAt: string, 
/**
 * ISO.
 */
lastSeenAt: string | null, 
/**
 * True with a live or leased presence.
 */
online: boolean, 
/**
 * Keys that it had before and that messages may still come under, newest first: each was replaced by the one before
 * it, the first by `pubkey`. Only those whose change both keys are known to have signed.
 */
formerKeys?: Array<FormerKeyRow>, };

/**
 * Answer to [`ListMembers`].
 */
export type MembersList = { 
/**
 * By join time; revoked and unbound members are left out.
 */
members: Array<MemberRow>, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * A change of the mesh that peers must learn even when they were away (wire spec §6.6).
 */
export type MeshEvent = { 
/**
 * Its place in the mesh's count, from 1.
 */
seq: number, 
/**
 * Such as `member_revoked`.
 */
event: string, 
/**
 * What happened.
 */
eventData: JsonValue, 
/**
 * When, ISO.
 */
createdAt: string, };

/**
 * A mesh: the trust boundary with its roster.
 */
export type MeshId = string;

/**
 * Asks for counts and names of everything in the mesh.
 */
export type MeshInfo = Record<symbol, never>;

/**
 * Answer to [`MeshInfo`]. A family that could not be asked is null and named in `warnings`.
 */
export type MeshInfoResult = { 
/**
 * Id of the mesh.
 */
mesh: string, 
/**
 * Presences that the caller can see.
 */
peers: number, 
/**
 * Their groups, with `@`.
 */
groups: Array<string>, 
/**
 * Keys of the shared state.
 */
stateKeys: Array<string> | null, 
/**
 * Entries of the shared memory.
 */
memoryCount: number | null, 
/**
 * Shared files.
 */
fileCount: number | null, 
/**
 * Tasks by state.
 */
tasks: TaskCounts | null, 
/**
 * Names of the streams.
 */
streams: Array<string> | null, 
/**
 * Names of the mesh's SQL tables.
 */
tables: Array<string> | null, 
/**
 * Names of the vector collections.
 */
collections: Array<string> | null, 
/**
 * The caller's name.
 */
yourName: string, 
/**
 * The caller's groups, with `@`.
 */
yourGroups: Array<string>, 
/**
 * What could not be asked, and why.
 */
warnings?: Array<string>, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Settings of the mesh that clients must know.
 */
export type MeshPolicy = { 
/**
 * Which profile fields members may edit themselves.
 */
selfEditable: SelfEditable, 
/**
 * How group bodies must be written; absent at an older broker.
 */
groupEncryption?: GroupEncryption | null, };

/**
 * What a peer missed; sent after a hello that names an older `meshSeq`.
 */
export type MeshState = { 
/**
 * The newest event.
 */
seq: number, 
/**
 * Events after the hello's `meshSeq`, oldest first.
 */
events: Array<MeshEvent>, };

/**
 * A message accepted by the broker.
 */
export type MessageId = string;

/**
 * How a client wants messages handed over; advice for the client, not a gate of the broker.
 */
export type MessageMode = "push" | "inbox" | "off";

/**
 * Asks what became of a message.
 */
export type MessageStatus = { 
/**
 * Full id, or a unique prefix of at least eight characters.
 */
messageId: string, };

/**
 * Answer to [`MessageStatus`].
 */
export type MessageStatusResult = { 
/**
 * As asked.
 */
messageId: string, 
/**
 * The target as sent.
 */
targetSpec: string, 
/**
 * True when every delivery is delivered.
 */
delivered: boolean, 
/**
 * When the last one was, ISO.
 */
deliveredAt: string | null, 
/**
 * One entry per delivery.
 */
recipients: Array<RecipientStatus>, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Where a message came from.
 */
export type Origin = "member" | "service" | "connector" | "webhook" | "system";

/**
 * Proof that `parent_member_pubkey` lets `session_pubkey` act for it until `expires_at`.
 *
 * Its serde form is the camelCase one of the WebSocket; [`snake_case`] is that of the daemon's local API.
 * A value that has a list is version 2, one without is version 1; no other combination can be represented.
 */
export type ParentAttestation = { sessionPubkey: string, parentMemberPubkey: string, expiresAt: number, signature: string, version?: 2, allowed_caps?: Array<string> };

/**
 * What kind of connection a presence is (`peerRole`, wire spec §2.1).
 */
export type PeerRole = "control-plane" | "session" | "service";

/**
 * One presence in `peers_list`.
 */
export type PeerRow = { 
/**
 * Session key, else member key.
 */
pubkey: PublicKey, 
/**
 * Member key; absent at an older broker.
 */
memberPubkey?: PublicKey | null, 
/**
 * Name of this presence.
 */
displayName: string, 
/**
 * Status.
 */
status: PeerStatus, 
/**
 * Summary.
 */
summary: string | null, 
/**
 * Groups.
 */
groups: Array<Group>, 
/**
 * The client's session id.
 */
sessionId: string, 
/**
 * ISO.
 */
connectedAt: string, 
/**
 * Working directory; other members see the last segment only.
 */
cwd?: string | null, 
/**
 * Kind of connection; absent at an older broker means session.
 */
peerRole?: string | null, 
/**
 * Host name.
 */
hostname?: string | null, 
/**
 * `ai`, `human`, `connector`, …
 */
peerType?: string | null, 
/**
 * Kind of program.
 */
channel?: string | null, 
/**
 * Model.
 */
model?: string | null, 
/**
 * Counters.
 */
stats?: Stats | null, 
/**
 * False when hidden (own member only).
 */
visible?: boolean | null, 
/**
 * Profile.
 */
profile?: Profile | null, 
/**
 * The presence.
 */
presenceId?: PresenceId | null, 
/**
 * The member.
 */
memberId?: MemberId | null, 
/**
 * Attestation of the session key.
 */
attestation?: ParentAttestation | null, 
/**
 * Hello capabilities.
 */
capabilities?: Array<string> | null, 
/**
 * Session capabilities; null means all.
 */
allowed_caps: Array<string> | null, 
/**
 * Who reported the status.
 */
statusSource?: StatusSource | null, 
/**
 * When, ISO.
 */
statusUpdatedAt?: string | null, 
/**
 * `online` or `offline`, only when asked for.
 */
lease?: string | null, 
/**
 * Last proof of life, ISO: the last frame or pong that came from its newest socket, also after that was lost.
 * Absent at an older broker.
 */
lastSeenAt?: string | null, };

/**
 * What a peer says it is doing.
 */
export type PeerStatus = "idle" | "working" | "dnd";

/**
 * Answer to [`ListPeers`].
 */
export type PeersList = { 
/**
 * By connect time.
 */
peers: Array<PeerRow>, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * A presence: one live or leased connection.
 */
export type PresenceId = string;

/**
 * How urgently a message wants to be seen.
 */
export type Priority = "now" | "next" | "low";

/**
 * Profile as peers see it.
 */
export type Profile = { 
/**
 * Role label.
 */
role?: string | null, 
/**
 * One line.
 */
title?: string | null, 
/**
 * A paragraph.
 */
bio?: string | null, 
/**
 * A short picture or emoji.
 */
avatar?: string | null, 
/**
 * What the peer can do, in words.
 */
capabilities?: Array<string> | null, };

/**
 * A 32-byte public key: ed25519 for members, sessions, services and brokers (hex64, lowercase; wire spec §0).
 *
 * It orders and compares by bytes. Whether the bytes are a valid curve point is checked where the key is used.
 */
export type PublicKey = string;

/**
 * Asks for everything held for this connection.
 */
export type PullMessages = Record<symbol, never>;

/**
 * A message, or a system event, to a client. Keys are text: `system` and `webhook:<name>` are senders too.
 */
export type Push = { 
/**
 * The broker's id.
 */
messageId: string, 
/**
 * The mesh.
 */
meshId: string, 
/**
 * Sending session key, else member key; `system`; `webhook:<name>`.
 */
senderPubkey: string, 
/**
 * Sending member's key.
 */
senderMemberPubkey?: string | null, 
/**
 * Sending member's id.
 */
senderMemberId?: string | null, 
/**
 * Sender's display name, as the broker claims it.
 */
senderName?: string | null, 
/**
 * Topic name.
 */
topic?: string | null, 
/**
 * Message this answers.
 */
replyToId?: string | null, 
/**
 * Urgency.
 */
priority?: Priority | null, 
/**
 * 24 bytes, b64.
 */
nonce: string, 
/**
 * Sealed body, b64.
 */
ciphertext: string, 
/**
 * When the broker accepted it, ISO.
 */
createdAt: string, 
/**
 * The sender's id.
 */
client_message_id?: string | null, 
/**
 * The sender's fingerprint, hex64.
 */
request_fingerprint?: string | null, 
/**
 * `reminder`, `system` or `webhook`.
 */
subtype?: string | null, 
/**
 * System or webhook event.
 */
event?: string | null, 
/**
 * Its data.
 */
eventData?: JsonValue | null, 
/**
 * The target as sent.
 */
targetSpec?: string | null, 
/**
 * 1 plaintext or box, 2 encrypted group or topic body.
 */
bodyVersion?: number | null, 
/**
 * Version of the topic key.
 */
keyEpoch?: number | null, 
/**
 * Names mentioned.
 */
mentions?: Array<string> | null, 
/**
 * This recipient's content key.
 */
wrappedKey?: WrappedKey | null, 
/**
 * Automatic answers this message stands on.
 */
hops?: number | null, 
/**
 * Attestation of the sending session key, first push of it on a connection.
 */
senderAttestation?: ParentAttestation | null, 
/**
 * Where it came from.
 */
origin?: Origin | null, 
/**
 * True for third-party content.
 */
untrusted?: boolean | null, 
/**
 * How often it was pushed, 1-based.
 */
attempt?: number | null, };

/**
 * A statement about how far a message came, signed by the recipient's member key unless the broker says it.
 */
export type Receipt = { 
/**
 * The broker's id.
 */
brokerMessageId: MessageId, 
/**
 * The sender's id.
 */
clientMessageId: string, 
/**
 * Key the delivery was for.
 */
recipient: PublicKey, 
/**
 * How far it came.
 */
state: ReceiptState, 
/**
 * Which way it took.
 */
path?: string | null, 
/**
 * What shows it.
 */
evidence?: string | null, 
/**
 * Why it waits or was refused.
 */
reason?: string | null, 
/**
 * Unix milliseconds.
 */
at: number, 
/**
 * hex128; absent when the broker asserts it.
 */
signature?: string | null, 
/**
 * `broker`, `recipient_daemon` or `agent_record`; set by the broker.
 */
assertedBy?: string | null, };

/**
 * How far a message came (wire spec §3.1, Receipts).
 */
export type ReceiptState = "accepted" | "on_device" | "handed" | "in_context" | "turn_ended" | "answered" | "held" | "deferred" | "refused" | "expired" | "rerouted" | "session_gone" | "unreadable";

/**
 * One delivery of a message.
 */
export type RecipientStatus = { 
/**
 * Display name.
 */
name: string, 
/**
 * Key the delivery is for.
 */
pubkey: string, 
/**
 * `delivered`, `held` or `disconnected`, for old clients.
 */
status: string, 
/**
 * How far it came.
 */
state?: ReceiptState | null, 
/**
 * Since when, ISO.
 */
since?: string | null, 
/**
 * Who says so.
 */
assertedBy?: string | null, 
/**
 * Which way it took.
 */
path?: string | null, 
/**
 * What shows it.
 */
evidence?: string | null, 
/**
 * Why it waits or was refused.
 */
reason?: string | null, 
/**
 * What happens next.
 */
next?: string | null, };

/**
 * Replaces the key of the member whose connection this is; the old key is refused at once (wire spec §5.18). Both keys
 * sign the same text.
 */
export type RotateMemberKey = { 
/**
 * The key from now on.
 */
newPubkey: PublicKey, 
/**
 * Unix milliseconds; part of the signed text.
 */
timestamp: number, 
/**
 * By the key until now.
 */
signature_old: SignatureBytes, 
/**
 * By the new key.
 */
signature_new: SignatureBytes, };

/**
 * Which profile fields members may edit themselves.
 */
export type SelfEditable = { 
/**
 * The name.
 */
displayName: boolean, 
/**
 * The role label.
 */
roleTag: boolean, 
/**
 * The default groups.
 */
groups: boolean, 
/**
 * The message mode.
 */
messageMode: boolean, };

/**
 * A message to the broker. Shape errors are answered by a failed [`Ack`], so fields are kept as text.
 */
export type Send = { 
/**
 * Who it is for, see [`crate::target::TargetSpec`].
 */
targetSpec: string, 
/**
 * Urgency; absent means `next`.
 */
priority?: string | null, 
/**
 * 24 bytes, b64.
 */
nonce: string, 
/**
 * Sealed body, b64.
 */
ciphertext: string, 
/**
 * Echoed in the ack.
 */
id?: string | null, 
/**
 * Idempotency id.
 */
client_message_id?: string | null, 
/**
 * Fingerprint of the request, hex64.
 */
request_fingerprint?: string | null, 
/**
 * Names mentioned, without `@`.
 */
mentions?: Array<string> | null, 
/**
 * Message this answers.
 */
replyToId?: string | null, 
/**
 * 1 plaintext or box, 2 encrypted group or topic body.
 */
bodyVersion?: number | null, 
/**
 * Content keys of a group body.
 */
wrappedKeys?: Array<WrappedKey> | null, 
/**
 * Version of the topic key.
 */
keyEpoch?: number | null, 
/**
 * When an undelivered message may be dropped, Unix milliseconds.
 */
expiresAt?: number | null, 
/**
 * Automatic answers this message stands on (wire spec §4.10).
 */
hops?: number | null, };

/**
 * A frame from the broker.
 */
export type ServerFrame = { "type": "hello_ack" } & HelloAck | { "type": "error" } & ErrorFrame | { "type": "ack" } & Ack | { "type": "push" } & Push | { "type": "peers_list" } & PeersList | { "type": "members_list" } & MembersList | { "type": "message_status_result" } & MessageStatusResult | { "type": "receipt" } & Receipt | { "type": "state_result" } & StateResult | { "type": "state_list" } & StateList | { "type": "state_change" } & StateChange | { "type": "kick_ack" } & KickAck | { "type": "disconnect_ack" } & DisconnectAck | { "type": "ban_ack" } & BanAck | { "type": "unban_ack" } & UnbanAck | { "type": "list_bans_result" } & ListBansResult | { "type": "mesh_state" } & MeshState | { "type": "grants_result" } & GrantsResult | { "type": "audit_result" } & AuditResult | { "type": "audit_verify_result" } & AuditVerifyResult | { "type": "mesh_info_result" } & MeshInfoResult;

/**
 * Session-keyed handshake.
 */
export type SessionHello = { 
/**
 * Highest protocol version understood; absent means 1.
 */
protocolVersion?: number | null, 
/**
 * Capability words, see [`capability`].
 */
capabilities?: Array<string> | null, 
/**
 * Mesh id (not slug).
 */
meshId: MeshId, 
/**
 * Member id of the parent; checked when not empty.
 */
parentMemberId?: MemberId | null, 
/**
 * Member key of the parent, hex64.
 */
parentMemberPubkey: string, 
/**
 * Session key, hex64.
 */
sessionPubkey: string, 
/**
 * The parent's statement about the session key; parsed by [`ParentAttestation`].
 */
parentAttestation: JsonValue, 
/**
 * Overrides the member's name for this presence.
 */
displayName?: string | null, 
/**
 * The agent's session id.
 */
sessionId: string, 
/**
 * Process id of the agent.
 */
pid: number, 
/**
 * Working directory.
 */
cwd?: string | null, 
/**
 * Host name.
 */
hostname?: string | null, 
/**
 * `ai`, `human`, `connector`, …
 */
peerType?: string | null, 
/**
 * What kind of program connects, see [`channel`].
 */
channel?: string | null, 
/**
 * Model the agent runs.
 */
model?: string | null, 
/**
 * Groups; a list, empty or not, replaces restored and default ones.
 */
groups?: Array<Group> | null, 
/**
 * Role label shown to people (`profile.role`).
 */
role?: string | null, 
/**
 * Number of the newest mesh event seen; the broker sends what came after it (wire spec §6.6).
 */
meshSeq?: number | null, 
/**
 * Unix milliseconds; part of the signed text.
 */
timestamp: number, 
/**
 * Session key's signature, hex128.
 */
signature: string, };

/**
 * Merges entries into what the caller grants others.
 */
export type SetGrants = { 
/**
 * By key of the sender: exactly these; an empty list blocks, null goes back to the defaults.
 */
grants: { [key in PublicKey]: Array<Grant> | null }, };

/**
 * Merges the given fields into the own profile.
 */
export type SetProfile = { 
/**
 * A short picture or emoji.
 */
avatar?: string | null, 
/**
 * One line.
 */
title?: string | null, 
/**
 * A paragraph.
 */
bio?: string | null, 
/**
 * Role label.
 */
role?: string | null, 
/**
 * What the peer can do, in words.
 */
capabilities?: Array<string> | null, };

/**
 * Writes one key; every other peer is told at once.
 *
 * On the wire an absent value is null; who asks for the operation must say that a key is to be removed.
 */
export type SetState = { 
/**
 * Name of the entry. 1 to 256 characters, no control characters.
 */
key: string, 
/**
 * Any JSON of at most 32,768 bytes; null removes the key, which begins at version 1 when it is written again.
 */
value: JsonValue, 
/**
 * Write only when the entry has this version; 0 means that it must not exist. Otherwise `version_conflict`.
 */
ifVersion?: number | null, };

/**
 * Replaces the own counters.
 */
export type SetStats = { 
/**
 * The counters.
 */
stats: Stats, };

/**
 * Sets the own status.
 */
export type SetStatus = { 
/**
 * The status.
 */
status: PeerStatus, 
/**
 * Who reports it; absent means manual.
 */
source?: StatusSource | null, };

/**
 * Sets the own summary; `""` clears it.
 */
export type SetSummary = { 
/**
 * At most 500 characters.
 */
summary: string, };

/**
 * Shows or hides the presence.
 */
export type SetVisible = { 
/**
 * False: absent from lists, broadcasts and groups.
 */
visible: boolean, };

/**
 * A 64-byte ed25519 signature (hex128; upper case is accepted on input, wire spec §0).
 */
export type SignatureBytes = string;

/**
 * Tells every other presence that a key was written; live only, never queued.
 */
export type StateChange = { 
/**
 * Name of the entry.
 */
key: string, 
/**
 * Its new value; null when it was removed.
 */
value: JsonValue, 
/**
 * Display name of the member that wrote it.
 */
updatedBy: string, 
/**
 * Its new version, 0 when it was removed; absent at an older broker.
 */
version?: number | null, };

/**
 * One entry of the shared state.
 */
export type StateEntry = { 
/**
 * Name of the entry.
 */
key: string, 
/**
 * Its value; null when the key is not set.
 */
value: JsonValue, 
/**
 * Display name of the member that wrote it; empty when the key is not set.
 */
updatedBy: string, 
/**
 * When, ISO; empty when the key is not set.
 */
updatedAt: string, 
/**
 * Counts the writes of this key from 1; 0 when it is not set; absent at an older broker.
 */
version?: number | null, };

/**
 * Answer to [`ListState`].
 */
export type StateList = { 
/**
 * By key.
 */
entries: Array<StateEntry>, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Answer to [`GetState`].
 */
export type StateResult = { 
/**
 * The request it answers.
 */
_reqId?: string | null, 
/**
 * Name of the entry.
 */
key: string, 
/**
 * Its value; null when the key is not set.
 */
value: JsonValue, 
/**
 * Display name of the member that wrote it; empty when the key is not set.
 */
updatedBy: string, 
/**
 * When, ISO; empty when the key is not set.
 */
updatedAt: string, 
/**
 * Counts the writes of this key from 1; 0 when it is not set; absent at an older broker.
 */
version?: number | null, };

/**
 * Counters a client reports.
 */
export type Stats = { 
/**
 * Messages received.
 */
messagesIn?: number | null, 
/**
 * Messages sent.
 */
messagesOut?: number | null, 
/**
 * Tool calls.
 */
toolCalls?: number | null, 
/**
 * Seconds.
 */
uptime?: number | null, 
/**
 * Errors.
 */
errors?: number | null, };

/**
 * Who reported a status; the order is the rank (wire spec §4.4).
 */
export type StatusSource = "jsonl" | "manual" | "hook";

/**
 * Tasks by state.
 */
export type TaskCounts = { 
/**
 * Nobody works on them.
 */
open: number, 
/**
 * Somebody does.
 */
claimed: number, 
/**
 * Finished.
 */
done: number, 
/**
 * Given up.
 */
cancelled: number, };

/**
 * Lets a banned key in again; its grants and keys do not come back.
 */
export type Unban = { 
/**
 * Exact display name or member key.
 */
target: string, };

/**
 * Answer to [`Unban`].
 */
export type UnbanAck = { 
/**
 * Name of the member.
 */
unbanned: string, 
/**
 * The request it answers.
 */
_reqId?: string | null, };

/**
 * Limits the broker announces.
 */
export type WireLimits = { 
/**
 * Characters of ciphertext, nonce and target of one send.
 */
maxMessageBytes: number, 
/**
 * Bytes of one frame.
 */
maxFrameBytes: number, 
/**
 * Messages a member may send per minute.
 */
sendPerMinute: number, 
/**
 * Messages a member may send at once.
 */
sendBurst: number, };

/**
 * A content key of a group body, sealed to one member (wire spec §5.4).
 */
export type WrappedKey = { 
/**
 * Member key it is for.
 */
to: PublicKey, 
/**
 * 24 bytes, b64.
 */
nonce: string, 
/**
 * Sender's X25519 key and the boxed content key, b64.
 */
key: string, };
