//! Joining and leaving groups (wire spec §3.3, broker spec §2.7).

use claudemesh_protocol::limits::{GROUP_ROLE_MAX_CHARS, GROUPS_PER_PRESENCE};
use claudemesh_protocol::wire::{JoinGroup, LeaveGroup};
use claudemesh_protocol::{ErrorCode, Group, GroupName};

use super::presence::change;
use super::{Peer, Refusal, Reply};

fn name_of(text: &str) -> Result<GroupName, Refusal> {
    GroupName::parse_lenient(text)
        .map_err(|error| Refusal::new(ErrorCode::InvalidArgs, error.to_string()))
}

/// Joins, or replaces the role in a group one is in already.
pub(super) async fn join(peer: &Peer, join: JoinGroup) -> Reply {
    let name = name_of(&join.name)?;
    if join.role.as_ref().is_some_and(|role| role.chars().count() > GROUP_ROLE_MAX_CHARS) {
        return Err(Refusal::new(ErrorCode::InvalidArgs, "a role has at most 64 characters"));
    }
    change(peer, |presence| {
        if let Some(group) = presence.groups.iter_mut().find(|group| group.name == name) {
            group.role = join.role;
            return Ok(());
        }
        if presence.groups.len() >= GROUPS_PER_PRESENCE {
            return Err(Refusal::new(ErrorCode::InvalidArgs, "a presence is in at most 32 groups"));
        }
        presence.groups.push(Group { name, role: join.role });
        Ok(())
    })
    .await?;
    Ok(None)
}

/// Leaves; not being in the group is fine.
pub(super) async fn leave(peer: &Peer, leave: LeaveGroup) -> Reply {
    let name = name_of(&leave.name)?;
    change(peer, |presence| {
        presence.groups.retain(|group| group.name != name);
        Ok(())
    })
    .await?;
    Ok(None)
}
