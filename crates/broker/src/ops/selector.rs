//! Whom an administrator means: an exact display name, a key, or a unique prefix of one (broker spec §4.25).

use claudemesh_core::presence::Presence;
use claudemesh_protocol::limits::KEY_PREFIX_MIN_CHARS;
use claudemesh_protocol::permission::Standing;
use claudemesh_protocol::{ErrorCode, MemberId, PresenceId, PublicKey};

use super::{Peer, Refusal};
use crate::live::MeshState;

/// Characters of a whole key.
const KEY_CHARS: usize = 64;

/// Whose key was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    /// A member's.
    Member(MemberId),
    /// A session's: only that one is meant.
    Session(PresenceId),
}

/// The member or session whose key `text` is, or begins. `None` when it is no key or nobody's.
///
/// # Errors
/// `ambiguous_prefix` when it begins several keys, or is too short to name one.
pub(super) fn by_key(state: &MeshState, text: &str) -> Result<Option<Named>, Refusal> {
    let prefix = text.to_ascii_lowercase();
    let is_hex = prefix.bytes().all(|byte| byte.is_ascii_hexdigit());
    if prefix.is_empty() || prefix.len() > KEY_CHARS || !is_hex {
        return Ok(None);
    }
    let begins = |key: PublicKey| key.to_hex().starts_with(&prefix);
    let members = state
        .roster()
        .filter(|entry| entry.member.pubkey.is_some_and(begins))
        .map(|entry| Named::Member(entry.member.id.clone()));
    let sessions = state
        .presences()
        .filter(|entry| entry.presence.session_key.is_some_and(begins))
        .map(|entry| Named::Session(entry.presence.id.clone()));
    let mut found = members.chain(sessions);
    let Some(first) = found.next() else { return Ok(None) };
    if found.next().is_some() || prefix.len() < KEY_PREFIX_MIN_CHARS {
        return Err(Refusal::new(
            ErrorCode::AmbiguousPrefix,
            format!(
                "\"{text}\" does not name one key; give at least {KEY_PREFIX_MIN_CHARS} characters, or more of it"
            ),
        ));
    }
    Ok(Some(first))
}

/// The member with this display name.
pub(super) fn member_by_name(state: &MeshState, name: &str) -> Option<MemberId> {
    state
        .roster()
        .find(|entry| entry.member.display_name == name)
        .map(|entry| entry.member.id.clone())
}

/// True when the caller must leave this presence alone: nobody ends the owner's, only the owner ends those of admins.
pub(super) fn is_protected(peer: &Peer, state: &MeshState, presence: &Presence) -> bool {
    is_protected_member(peer, state, &presence.member_id)
}

/// As [`is_protected`], for a member. One's own is not protected from oneself.
pub(super) fn is_protected_member(peer: &Peer, state: &MeshState, member: &MemberId) -> bool {
    if *member == peer.member_id {
        return false;
    }
    let standing_of =
        |id: &MemberId| state.member(id).map_or(Standing::Member, |entry| state.standing(entry));
    match standing_of(member) {
        Standing::Owner => true,
        Standing::Admin => standing_of(&peer.member_id) != Standing::Owner,
        Standing::Member => false,
    }
}

/// The refusal that names nobody.
pub(super) fn not_found(what: &str) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("{what} not found"))
}

/// The refusal of what is done to the owner or, by an admin, to an admin.
pub(super) fn protected(what: &str) -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        format!("the owner cannot be {what}, and admins only by the owner"),
    )
}
