//! The groups of a mesh (CLI spec §3.7): put together from who is there, since groups exist only as memberships.

use std::collections::{BTreeMap, BTreeSet};

use claudemesh_protocol::ops::group::{GroupList, GroupRow};
use claudemesh_protocol::wire::PeerRow;
use claudemesh_protocol::wire::hello::capability;
use claudemesh_protocol::{PeerRole, PublicKey};

use super::roster::unreachable;
use super::{Answer, Call, Place, fields};
use crate::api::Failure;
use crate::mesh::{Line as _, Listing, Via};

/// `group.list`.
pub(super) async fn list<P: Place>(call: Call<'_, P>) -> Result<Answer, Failure> {
    call.each("groups", |mesh: P::Line| async move {
        let peers = present(mesh.peers(Listing::All).await.map_err(unreachable)?.peers);
        let own: Vec<PublicKey> = call
            .place
            .presences(&mesh, call.caller)
            .into_iter()
            .map(|via| match via {
                Via::Session(key) => key,
                Via::Member => mesh.own_session().unwrap_or(mesh.member().public),
            })
            .collect();
        fields(&groups_of(&peers, &own))
    })
    .await
}

/// Sessions, and of a member without one its own presence: groups are of members, too.
fn present(peers: Vec<PeerRow>) -> Vec<PeerRow> {
    let member_of = |row: &PeerRow| row.member_pubkey.unwrap_or(row.pubkey);
    let is_device =
        |row: &PeerRow| row.peer_role.as_deref() == Some(PeerRole::ControlPlane.as_str());
    let with_session: BTreeSet<PublicKey> =
        peers.iter().filter(|row| !is_device(row)).map(member_of).collect();
    // A call that is over in a moment is nobody who is there.
    let passes_by =
        |row: &PeerRow| row.capabilities.iter().flatten().any(|word| word == capability::TRANSIENT);
    let mut devices = BTreeSet::new();
    let mut present = peers;
    present.retain(|row| !passes_by(row));
    present.retain(|row| {
        !is_device(row) || !with_session.contains(&member_of(row)) && devices.insert(member_of(row))
    });
    present
}

fn groups_of(peers: &[PeerRow], own: &[PublicKey]) -> GroupList {
    let mut groups: BTreeMap<&str, GroupRow> = BTreeMap::new();
    for peer in peers {
        for membership in &peer.groups {
            let name = membership.name.as_str();
            let row = groups.entry(name).or_insert_with(|| GroupRow {
                name: name.to_owned(),
                members: 0,
                role: None,
                joined: false,
            });
            row.members += 1;
            if own.contains(&peer.pubkey) {
                row.joined = true;
                row.role = row.role.take().or_else(|| membership.role.clone());
            }
        }
    }
    GroupList { groups: groups.into_values().collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_counted_and_the_callers_role_is_told() {
        let key = |byte| PublicKey::from_bytes([byte; 32]);
        let peer = |byte, groups: serde_json::Value| -> PeerRow {
            serde_json::from_value(
                json!({ "pubkey": key(byte), "status": "idle", "groups": groups }),
            )
            .unwrap()
        };
        let peers = [
            peer(1, json!([{ "name": "ops", "role": "lead" }, { "name": "eng" }])),
            peer(2, json!([{ "name": "eng", "role": "guest" }])),
        ];
        let row = |name: &str, members, role: Option<&str>, joined| GroupRow {
            name: name.to_owned(),
            members,
            role: role.map(str::to_owned),
            joined,
        };
        let groups = groups_of(&peers, &[key(1)]).groups;
        assert_eq!(groups, [row("eng", 2, None, true), row("ops", 1, Some("lead"), true)]);
        let strangers = groups_of(&peers, &[key(9)]).groups;
        assert_eq!(strangers, [row("eng", 2, None, false), row("ops", 1, None, false)]);
    }

    #[test]
    fn a_member_counts_once_with_its_sessions_or_without() {
        let key = |byte| PublicKey::from_bytes([byte; 32]);
        let row = |byte, member, role: &str| -> PeerRow {
            serde_json::from_value(json!({
                "pubkey": key(byte), "memberPubkey": key(member), "status": "idle", "peerRole": role,
                "groups": [{ "name": "eng" }],
            }))
            .unwrap()
        };
        let rows = vec![
            row(1, 1, "control-plane"),
            row(2, 1, "session"),
            row(3, 3, "control-plane"),
            row(3, 3, "control-plane"),
        ];
        let left = present(rows);
        let keys: Vec<PublicKey> = left.iter().map(|row| row.pubkey).collect();
        assert_eq!(keys, [key(2), key(3)]);
    }
}
