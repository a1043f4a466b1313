//! The eleven permissions of a member and what each role has by default (wire spec §2.7).

use crate::status::word;

word! {
    /// What a member may do in its mesh.
    Permission, "permission" {
        /// Create and revoke invites.
        Invite = "canInvite",
        /// Deploy services.
        DeployMcp = "canDeployMcp",
        /// Manage files of others.
        ManageFiles = "canManageFiles",
        /// Manage vault entry names of others.
        ManageVault = "canManageVault",
        /// Manage watches of others.
        ManageWatches = "canManageWatches",
        /// Manage webhooks.
        ManageWebhooks = "canManageWebhooks",
        /// Shared writes.
        WriteState = "canWriteState",
        /// Send, post, schedule, publish.
        Send = "canSend",
        /// Call hosted tools.
        UseTools = "canUseTools",
        /// Archive the mesh.
        DeleteMesh = "canDeleteMesh",
        /// Edit permissions and mesh settings.
        ManagePermissions = "canManagePermissions",
    }
}

/// Standing of a member: the owner's account owns the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The owner.
    Owner,
    /// An admin that is not the owner.
    Admin,
    /// Everybody else.
    Member,
}

impl Standing {
    /// Default answer for a permission without an explicit row.
    pub const fn grants(self, permission: Permission) -> bool {
        match (self, permission) {
            (Self::Owner, _)
            | (_, Permission::WriteState | Permission::Send | Permission::UseTools) => true,
            (Self::Admin, Permission::DeleteMesh) | (Self::Member, _) => false,
            (Self::Admin, _) => true,
        }
    }

    /// True for owner and admins.
    pub const fn is_admin(self) -> bool {
        matches!(self, Self::Owner | Self::Admin)
    }
}

word! {
    /// What a member grants another sender (wire spec §2.7).
    Grant, "grant" {
        /// See my presence.
        Read = "read",
        /// Write to me.
        Dm = "dm",
        /// Reach me by broadcast, group and topic.
        Broadcast = "broadcast",
        /// Read contexts I shared.
        StateRead = "state-read",
        /// Reserved.
        StateWrite = "state-write",
        /// Read files I shared.
        FileRead = "file-read",
    }
}

/// Grants of a sender without an entry of its own.
pub const DEFAULT_GRANTS: &[Grant] = &[Grant::Read, Grant::Dm, Grant::Broadcast, Grant::StateRead];
