//! The table itself. Adding an operation is one entry here, its handler, and its test (CONTRIBUTING, "A new operation").

use std::time::Duration;

use super::administration::{
    ChangeGrant, GrantList, GrantState, MaybePeer, MembersReply, Ping, PingReport, SafetyNumbers,
    StatsList,
};
use super::declare::operations;
use super::group::{GroupList, Nothing};
use super::messaging::{
    CheckMessages, CheckedMessages, ListPeers, LoopLifted, OnePeer, PeersReply, SendMessage,
    SendOutcomes,
};
use super::permission::{AboutMember, ChangePermissions, ChangeRole, PermissionList};
use super::profile::{Applied, Profile, Status, Summary, Visible};
use super::{Class, Family, NeedsDaemon, Operation, Scope, Shape, Verb};
use crate::account::MemberPermissions;
use crate::capability::Capability;
use crate::wire::Access::{ByTarget, Needs, Upkeep};
use crate::wire::{
    Ack, AuditQuery, AuditResult, AuditVerify, AuditVerifyResult, Ban, BanAck, Disconnect,
    DisconnectAck, FrameKind, GetState, JoinGroup, Kick, KickAck, LeaveGroup, ListBans,
    ListBansResult, ListState, MeshInfo, MeshInfoResult, MessageStatus, MessageStatusResult,
    SetState, StateList, StateResult, Unban, UnbanAck,
};

operations! {
    forwarded {
        /// Write a key of the shared state; every peer is told at once.
        StateSet(SetState => Ack) = Operation {
            is_idempotent: true,
            is_open_world: true,
            redact: &["value"],
            tool: Some("set_state"),
            shape: Shape::Done(&["key", "value"]),
            verb: Some(Verb {
                positional: &["key", "value"],
                one_of: &["value"],
                done: "{key} = {value}",
                examples: &[
                    ("state set sprint 14", "a number"),
                    ("state set board '{\"url\":\"https://…\"}'", "an object"),
                    ("state set sprint 15 --if-version 3", "only if nobody was faster"),
                ],
                ..Verb::of("state set")
            }),
            ..Operation::forwarded("state.set", Family::State, FrameKind::SetState)
        };
        /// Read a key of the shared state.
        StateGet(GetState => StateResult) = Operation {
            class: Class::Read,
            is_idempotent: true,
            tool: Some("get_state"),
            shape: Shape::RecordUnlessEmpty("updatedAt"),
            verb: Some(Verb {
                positional: &["key"],
                columns: &["value", "updatedBy", "updatedAt", "version"],
                none: "(not set)",
                examples: &[("state get sprint", "the value, who set it and when")],
                ..Verb::of("state get")
            }),
            ..Operation::forwarded("state.get", Family::State, FrameKind::GetState)
        };
        /// List the keys of the shared state.
        StateList(ListState => StateList) = Operation {
            class: Class::Read,
            is_idempotent: true,
            tool: Some("list_state"),
            shape: Shape::List("entries"),
            verb: Some(Verb {
                columns: &["key", "value", "version", "updatedBy", "updatedAt"],
                none: "(no shared state)",
                examples: &[
                    ("state list", "everything"),
                    ("state list --prefix deploy/", "keys that begin so"),
                ],
                ..Verb::of("state list")
            }),
            ..Operation::forwarded("state.list", Family::State, FrameKind::ListState)
        };
        /// Join a group, or change your role in it.
        GroupJoin(JoinGroup => Ack) = Operation {
            needs_daemon: NeedsDaemon::Always,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("join_group"),
            shape: Shape::Done(&["name", "role"]),
            verb: Some(Verb {
                positional: &["name"],
                done: "joined @{name} on {mesh}",
                examples: &[
                    ("group join @eng", "messages to @eng reach you"),
                    ("group join eng/core --role lead", "a group inside, with a role"),
                ],
                ..Verb::of("group join")
            }),
            ..Operation::forwarded("group.join", Family::Groups, FrameKind::JoinGroup)
        };
        /// Leave a group.
        GroupLeave(LeaveGroup => Ack) = Operation {
            needs_daemon: NeedsDaemon::Always,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("leave_group"),
            shape: Shape::Done(&["name"]),
            verb: Some(Verb {
                positional: &["name"],
                done: "left @{name} on {mesh}",
                examples: &[("group leave @eng", "messages to @eng no longer reach you")],
                ..Verb::of("group leave")
            }),
            ..Operation::forwarded("group.leave", Family::Groups, FrameKind::LeaveGroup)
        };
        /// Overview of a mesh: peers, groups, and what it shares.
        MeshInfo(MeshInfo => MeshInfoResult) = Operation {
            class: Class::Read,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("mesh_info"),
            verb: Some(Verb {
                aliases: &["info", "workspace info"],
                examples: &[("mesh info", "counts and names")],
                ..Verb::of("mesh info")
            }),
            ..Operation::forwarded("mesh.info", Family::Mesh, FrameKind::MeshInfo)
        };
        /// End sessions of a peer; they come back when somebody starts them again.
        PeerKick(Kick => KickAck) = Operation {
            class: Class::Destructive,
            is_open_world: true,
            verb: Some(Verb {
                aliases: &["kick"],
                positional: &["target"],
                one_of: &["target", "stale", "all"],
                done: "kicked {kicked}",
                hint: "they come back when somebody runs claudemesh there again",
                examples: &[
                    ("peer kick Mou", "by name"),
                    ("peer kick --stale 30m", "everybody silent for half an hour"),
                ],
                reason_to_ask: "affects another member's sessions",
                ..Verb::of("peer kick")
            }),
            ..Operation::forwarded("peer.kick", Family::Administration, FrameKind::Kick)
        };
        /// Cut connections of a peer; they come back by themselves.
        PeerDisconnect(Disconnect => DisconnectAck) = Operation {
            class: Class::Destructive,
            is_open_world: true,
            verb: Some(Verb {
                aliases: &["disconnect"],
                positional: &["target"],
                one_of: &["target", "stale", "all"],
                done: "disconnected {affected}",
                hint: "they reconnect by themselves",
                examples: &[("peer disconnect Mou", "its daemon and sessions reconnect at once")],
                reason_to_ask: "affects another member's sessions",
                ..Verb::of("peer disconnect")
            }),
            ..Operation::forwarded("peer.disconnect", Family::Administration, FrameKind::Disconnect)
        };
        /// Remove a member from the mesh; its key is refused until it is unbanned.
        PeerBan(Ban => BanAck) = Operation {
            class: Class::Destructive,
            is_open_world: true,
            verb: Some(Verb {
                aliases: &["ban", "peer revoke", "member revoke"],
                positional: &["target"],
                done: "banned {banned} from {mesh}",
                hint: "undo with: claudemesh unban {banned}",
                examples: &[("peer ban Mou --reason \"lost laptop\"", "the reason stays in the audit log")],
                reason_to_ask: "affects another member's membership",
                ..Verb::of("peer ban")
            }),
            ..Operation::forwarded("peer.ban", Family::Administration, FrameKind::Ban)
        };
        /// Let a banned member back in.
        PeerUnban(Unban => UnbanAck) = Operation {
            is_open_world: true,
            verb: Some(Verb {
                aliases: &["unban"],
                positional: &["target"],
                done: "unbanned {unbanned}",
                examples: &[("peer unban Mou", "its key is accepted again")],
                ..Verb::of("peer unban")
            }),
            ..Operation::forwarded("peer.unban", Family::Administration, FrameKind::Unban)
        };
        /// List banned members.
        PeerBans(ListBans => ListBansResult) = Operation {
            class: Class::Read,
            is_idempotent: true,
            shape: Shape::List("bans"),
            verb: Some(Verb {
                aliases: &["bans"],
                columns: &["name", "pubkey", "revokedAt", "revokedBy", "reason"],
                none: "(nobody is banned)",
                examples: &[("peer bans", "who, when, by whom, why")],
                ..Verb::of("peer bans")
            }),
            ..Operation::forwarded("peer.bans", Family::Administration, FrameKind::ListBans)
        };
        /// Read the audit log, newest first.
        AuditQuery(AuditQuery => AuditResult) = Operation {
            class: Class::Read,
            is_idempotent: true,
            shape: Shape::List("entries"),
            verb: Some(Verb {
                flags: &[("eventType", "type")],
                columns: &["id", "eventType", "actor", "payload", "createdAt"],
                none: "(no entries)",
                examples: &[
                    ("audit query --limit 20", "the newest twenty entries"),
                    ("audit query --type member_banned", "one kind only"),
                ],
                ..Verb::of("audit query")
            }),
            ..Operation::forwarded("audit.query", Family::Administration, FrameKind::AuditQuery)
        };
        /// Check that the audit log was not changed.
        AuditVerify(AuditVerify => AuditVerifyResult) = Operation {
            class: Class::Read,
            timeout: Duration::from_mins(1),
            verb: Some(Verb {
                done: "chain valid ({entries})",
                examples: &[("audit verify", "recomputes the whole chain")],
                ..Verb::of("audit verify")
            }),
            ..Operation::forwarded("audit.verify", Family::Administration, FrameKind::AuditVerify)
        };
    }
    daemon {
        /// Send text to a peer, a group, or everyone.
        MessageSend(SendMessage => SendOutcomes) = Operation {
            scope: Scope::Session,
            is_open_world: true,
            is_idempotent: true,
            redact: &["message"],
            tool: Some("send_message"),
            shape: Shape::List("results"),
            verb: Some(Verb::drawn("message send", &["send"])),
            ..Operation::daemon("message.send", Family::Messaging, DaemonOperation::MessageSend, ByTarget)
        };
        /// List who is connected, with status, groups and summary.
        PeerList(ListPeers => PeersReply) = Operation {
            class: Class::Read,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("list_peers"),
            shape: Shape::List("peers"),
            verb: Some(Verb::drawn("peer list", &["peers", "peer"])),
            ..Operation::daemon("peer.list", Family::Messaging, DaemonOperation::PeerList, Needs(Capability::Read))
        };
        /// Tell how far a message you sent has come, for each recipient.
        MessageStatus(MessageStatus => MessageStatusResult) = Operation {
            class: Class::Read,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("message_status"),
            tool_names: &[("messageId", "id")],
            verb: Some(Verb::drawn("message status", &["msg-status"])),
            ..Operation::daemon("message.status", Family::Messaging, DaemonOperation::MessageStatus, Needs(Capability::Read))
        };
        /// Read unread messages; the only way to get those of priority low.
        MessageInbox(CheckMessages => CheckedMessages) = Operation {
            needs_daemon: NeedsDaemon::Always,
            class: Class::Read,
            scope: Scope::Local,
            tool: Some("check_messages"),
            verb: Some(Verb::drawn("message inbox", &["inbox"])),
            ..Operation::daemon("message.inbox", Family::Messaging, DaemonOperation::MessageInbox, Upkeep)
        };
        /// Lift a loop stop between you and a peer; for a person at a terminal.
        PeerUnblockLoop(OnePeer => LoopLifted) = Operation {
            is_idempotent: true,
            is_open_world: true,
            verb: Some(Verb::drawn("peer unblock-loop", &[])),
            ..Operation::daemon("peer.unblock-loop", Family::Messaging, DaemonOperation::PeerUnblockLoop, Needs(Capability::Dm))
        };
        /// Say in one or two sentences what you work on.
        ProfileSummary(Summary => Applied) = Operation {
            needs_daemon: NeedsDaemon::Always,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("set_summary"),
            verb: Some(Verb {
                aliases: &["summary"],
                positional: &["summary"],
                has_tail: true,
                clears: "summary",
                done: "summary set ({summary})",
                examples: &[("summary reviewing the parser", "others see it in their peer list")],
                ..Verb::of("profile summary")
            }),
            ..Operation::daemon("profile.summary", Family::Profile, DaemonOperation::ProfileSummary, Needs(Capability::ProfileWrite))
        };
        /// Say whether you may be interrupted.
        ProfileStatus(Status => Applied) = Operation {
            needs_daemon: NeedsDaemon::Always,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("set_status"),
            verb: Some(Verb {
                aliases: &["status set"],
                positional: &["status"],
                done: "status set to {status}",
                examples: &[("status set dnd", "only priority now reaches you")],
                ..Verb::of("profile status set")
            }),
            ..Operation::daemon("profile.status", Family::Profile, DaemonOperation::ProfileStatus, Needs(Capability::ProfileWrite))
        };
        /// Show or hide yourself; direct messages still arrive.
        ProfileVisible(Visible => Applied) = Operation {
            needs_daemon: NeedsDaemon::Always,
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("set_visible"),
            verb: Some(Verb {
                aliases: &["visible"],
                positional: &["visible"],
                done: "visibility set",
                examples: &[("visible no", "hidden from lists, groups and broadcasts")],
                ..Verb::of("profile visible")
            }),
            ..Operation::daemon("profile.visible", Family::Profile, DaemonOperation::ProfileVisible, Needs(Capability::ProfileWrite))
        };
        /// Change your public profile; fields left out stay as they are.
        ProfileEdit(Profile => Applied) = Operation {
            needs_daemon: NeedsDaemon::For(&["avatar", "title", "bio", "role", "capabilities"]),
            scope: Scope::Session,
            is_idempotent: true,
            tool: Some("set_profile"),
            verb: Some(Verb {
                done: "profile updated",
                examples: &[("profile edit --title \"Build master\" --capabilities rust,ci", "two fields")],
                ..Verb::of("profile edit")
            }),
            ..Operation::daemon("profile.edit", Family::Profile, DaemonOperation::ProfileEdit, Needs(Capability::ProfileWrite))
        };
        /// List the groups of a mesh.
        GroupList(Nothing => GroupList) = Operation {
            class: Class::Read,
            scope: Scope::Session,
            is_idempotent: true,
            shape: Shape::List("groups"),
            verb: Some(Verb {
                columns: &["name", "members", "role"],
                none: "(no groups)",
                examples: &[("group list", "groups, how many are in them, your role")],
                ..Verb::of("group list")
            }),
            ..Operation::daemon("group.list", Family::Groups, DaemonOperation::GroupList, Needs(Capability::Read))
        };
        /// Counters of every peer.
        MeshStats(Nothing => StatsList) = Operation {
            class: Class::Read,
            is_idempotent: true,
            tool: Some("mesh_stats"),
            shape: Shape::List("peers"),
            verb: Some(Verb {
                aliases: &["stats"],
                columns: &["displayName", "stats"],
                none: "(no peers connected)",
                examples: &[("mesh stats", "messages, tool calls and errors by peer")],
                ..Verb::of("mesh stats")
            }),
            ..Operation::daemon("mesh.stats", Family::Mesh, DaemonOperation::MeshStats, Needs(Capability::Read))
        };
        /// Measure the road of a message to the broker and back, per priority.
        MeshPing(Ping => PingReport) = Operation {
            needs_daemon: NeedsDaemon::Always,
            class: Class::Read,
            scope: Scope::Session,
            timeout: Duration::from_secs(15),
            tool: Some("ping_mesh"),
            verb: Some(Verb {
                aliases: &["ping"],
                examples: &[("mesh ping", "round trips, and whether text can reach you")],
                ..Verb::of("mesh ping")
            }),
            ..Operation::daemon("mesh.ping", Family::Mesh, DaemonOperation::MeshPing, Needs(Capability::Dm))
        };
        /// List the members of a mesh, absent ones included.
        MemberList(Nothing => MembersReply) = Operation {
            class: Class::Read,
            is_idempotent: true,
            shape: Shape::List("members"),
            verb: Some(Verb::drawn("member list", &["members list", "members", "member"])),
            ..Operation::daemon("member.list", Family::Administration, DaemonOperation::MemberList, Needs(Capability::Read))
        };
        /// Show what members may do in the mesh, beyond what you grant them.
        MemberPermissions(AboutMember => PermissionList) = Operation {
            class: Class::Read,
            is_idempotent: true,
            shape: Shape::List("members"),
            verb: Some(Verb {
                positional: &["peer"],
                columns: &["display_name", "role", "permissions"],
                none: "(no members)",
                examples: &[
                    ("member permissions", "roles, and what each member may do"),
                    ("member permissions Mou", "the eleven permissions, one by one"),
                ],
                ..Verb::of("member permissions")
            }),
            ..Operation::daemon("member.permissions", Family::Administration, DaemonOperation::MemberPermissions, Needs(Capability::Read))
        };
        /// Let a member do more than its role lets it.
        MemberAllow(ChangePermissions => MemberPermissions) = Operation {
            is_idempotent: true,
            is_open_world: true,
            verb: Some(Verb {
                positional: &["peer", "permissions"],
                has_tail: true,
                one_of: &["permissions", "reset"],
                done: "{display_name} may now: {permissions}",
                examples: &[
                    ("member allow Mou canInvite", "Mou may invite, without being an admin"),
                    ("member allow Mou --reset", "back to what its role has"),
                ],
                ..Verb::of("member allow")
            }),
            ..Operation::daemon("member.allow", Family::Administration, DaemonOperation::MemberAllow, Needs(Capability::Ban))
        };
        /// Forbid a member what its role lets it do.
        MemberDeny(ChangePermissions => MemberPermissions) = Operation {
            class: Class::Destructive,
            is_idempotent: true,
            is_open_world: true,
            verb: Some(Verb {
                positional: &["peer", "permissions"],
                has_tail: true,
                one_of: &["permissions", "reset"],
                done: "{display_name} may now: {permissions}",
                examples: &[("member deny Mou canSend", "Mou may only read")],
                ..Verb::of("member deny")
            }),
            ..Operation::daemon("member.deny", Family::Administration, DaemonOperation::MemberDeny, Needs(Capability::Ban))
        };
        /// Make a member an admin, or an admin a member again.
        MemberRole(ChangeRole => MemberPermissions) = Operation {
            class: Class::Destructive,
            is_idempotent: true,
            is_open_world: true,
            verb: Some(Verb {
                positional: &["peer", "role"],
                done: "{display_name} is now {role} of {mesh}",
                examples: &[("member role Mou admin", "Mou may invite, kick, ban, read the audit log")],
                ..Verb::of("member role")
            }),
            ..Operation::daemon("member.role", Family::Administration, DaemonOperation::MemberRole, Needs(Capability::Ban))
        };
        /// Show the safety number of a peer, to compare outside the mesh.
        PeerVerify(MaybePeer => SafetyNumbers) = Operation {
            class: Class::Read,
            is_idempotent: true,
            tool: Some("verify_peer"),
            shape: Shape::List("peers"),
            verb: Some(Verb {
                aliases: &["verify"],
                positional: &["peer"],
                columns: &["peer", "safetyNumber", "memberPubkey"],
                none: "(no other member is online)",
                examples: &[("peer verify Mou", "compare the digits by voice or in person")],
                ..Verb::of("peer verify")
            }),
            ..Operation::daemon("peer.verify", Family::Security, DaemonOperation::PeerVerify, Needs(Capability::Read))
        };
        /// List what you grant others.
        GrantList(Nothing => GrantList) = Operation {
            class: Class::Read,
            is_idempotent: true,
            tool: Some("list_grants"),
            shape: Shape::List("grants"),
            verb: Some(Verb {
                aliases: &["grants"],
                columns: &["peer", "now", "memberPubkey"],
                none: "(nobody has an entry; everybody may read, dm, broadcast and state-read)",
                examples: &[("grants", "who may do what towards you")],
                ..Verb::of("grant list")
            }),
            ..Operation::daemon("grant.list", Family::Security, DaemonOperation::GrantList, Needs(Capability::Grant))
        };
        /// Give a peer capabilities towards you.
        GrantAdd(ChangeGrant => GrantState) = Operation {
            class: Class::Destructive,
            is_idempotent: true,
            tool: Some("grant"),
            verb: Some(Verb {
                aliases: &["grant"],
                positional: &["peer", "capabilities"],
                has_tail: true,
                one_of: &["capabilities", "reset"],
                done: "{peer} may now: {now}",
                examples: &[("grant Mou file-read", "it may read files you share")],
                ..Verb::of("grant add")
            }),
            ..Operation::daemon("grant.add", Family::Security, DaemonOperation::GrantAdd, Needs(Capability::Grant))
        };
        /// Take capabilities towards you from a peer.
        GrantRemove(ChangeGrant => GrantState) = Operation {
            class: Class::Destructive,
            is_idempotent: true,
            tool: Some("revoke"),
            verb: Some(Verb {
                aliases: &["revoke"],
                positional: &["peer", "capabilities"],
                has_tail: true,
                one_of: &["capabilities", "reset"],
                done: "{peer} may now: {now}",
                examples: &[("revoke Mou dm", "its direct messages no longer reach you")],
                ..Verb::of("grant remove")
            }),
            ..Operation::daemon("grant.remove", Family::Security, DaemonOperation::GrantRemove, Needs(Capability::Grant))
        };
        /// Block a peer: nothing it sends reaches you, and its direct messages are refused.
        GrantBlock(OnePeer => GrantState) = Operation {
            class: Class::Destructive,
            is_idempotent: true,
            tool: Some("block"),
            verb: Some(Verb {
                aliases: &["block"],
                positional: &["peer"],
                done: "blocked {peer}",
                hint: "undo with: claudemesh grant {peer} --reset",
                examples: &[("block Mou", "undo with: grant Mou --reset")],
                ..Verb::of("grant block")
            }),
            ..Operation::daemon("grant.block", Family::Security, DaemonOperation::GrantBlock, Needs(Capability::Grant))
        };
    }
}
