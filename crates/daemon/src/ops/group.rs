//! The groups of a mesh (CLI spec §3.7): put together from who is there, since groups exist only as memberships.

use std::collections::BTreeMap;

use claudemesh_protocol::PublicKey;
use claudemesh_protocol::ops::group::{GroupList, GroupRow};
use claudemesh_protocol::wire::PeerRow;

use super::roster::unreachable;
use super::{Answer, Call, fields};
use crate::api::Failure;
use crate::mesh::{Listing, MeshHandle, Via};

/// `group.list`.
pub(super) async fn list(call: Call<'_>) -> Result<Answer, Failure> {
    call.each("groups", |mesh: MeshHandle| async move {
        let peers = mesh.peers(Listing::Addressable).await.map_err(unreachable)?.peers;
        let own: Vec<PublicKey> = call
            .api
            .presences(&mesh, call.caller)
            .into_iter()
            .map(|via| match via {
                Via::Session(key) => key,
                Via::Member => mesh.member().public,
            })
            .collect();
        fields(&groups_of(&peers, &own))
    })
    .await
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
}
