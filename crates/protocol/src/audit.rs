//! Events of the audit log: security and administration, never messages (wire spec §5.17, broker spec §4.19).

use crate::status::word;

word! {
    /// What an entry of the audit log tells.
    AuditEvent, "audit event" {
        /// A presence began.
        PeerJoined = "peer_joined",
        /// A presence ended.
        PeerLeft = "peer_left",
        /// A key of the shared state was written.
        StateSet = "state_set",
        /// A key of the shared state was removed.
        StateDeleted = "state_deleted",
        /// A key became a member.
        MemberJoined = "member_joined",
        /// A member left by itself.
        MemberLeft = "member_left",
        /// A member was removed.
        MemberBanned = "member_banned",
        /// A removed member may come back.
        MemberUnbanned = "member_unbanned",
        /// Connections of others were ended.
        MemberKicked = "member_kicked",
        /// A member became admin, or ceased to be one.
        MemberRoleChanged = "member_role_changed",
        /// A member's name, label, groups or mode changed.
        MemberProfileChanged = "member_profile_changed",
        /// One member was connected from two hosts.
        MemberConcurrentConnection = "member_concurrent_connection",
        /// A member took a new key.
        MemberKeypairRotated = "member_keypair_rotated",
        /// A permission was given or taken.
        PermissionChanged = "permission_changed",
        /// A member changed what it grants others.
        GrantsChanged = "grants_changed",
        /// An invite was made.
        InviteCreated = "invite_created",
        /// An invite was withdrawn.
        InviteRevoked = "invite_revoked",
        /// An invite was used.
        InviteClaimed = "invite_claimed",
        /// A mesh was created.
        MeshCreated = "mesh_created",
        /// A mesh got another slug.
        MeshRenamed = "mesh_renamed",
        /// Settings of the mesh changed.
        MeshSettingsChanged = "mesh_settings_changed",
        /// A session or service key was revoked.
        IdentityRevoked = "identity_revoked",
    }
}
