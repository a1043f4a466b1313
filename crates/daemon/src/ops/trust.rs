//! Whom the caller trusts: safety numbers and grants (CLI spec §3.4.3, §3.5; wire spec §2.7).
//!
//! Grants are kept by member key. The broker merges entries, so that an entry is read, changed and written back here,
//! one change at a time.

use std::collections::BTreeSet;

use claudemesh_crypto::safety::safety_number;
use claudemesh_protocol::ops::administration::{
    ChangeGrant, GrantList, GrantState, MaybePeer, SafetyNumber, SafetyNumbers,
};
use claudemesh_protocol::ops::messaging::OnePeer;
use claudemesh_protocol::permission::{DEFAULT_GRANTS, Grant};
use claudemesh_protocol::wire::{ClientFrame, GetGrants, GrantsResult, ServerFrame, SetGrants};
use claudemesh_protocol::{ErrorCode, PublicKey, TargetSpec};

use super::roster::unreachable;
use super::{Answer, Call, Place, broker_failure, fields};
use crate::api::Failure;
use crate::mesh::{Line, Via};

/// Characters of a key shown in place of a name.
const KEY_SHOWN_CHARS: usize = 16;

/// `peer.verify`: of one member, present or absent; else of every other member that is online.
pub(super) async fn verify<P: Place>(
    call: Call<'_, P>,
    asked: MaybePeer,
) -> Result<Answer, Failure> {
    if let Some(peer) = asked.peer {
        let (mesh, member, name) = named(call, &peer).await?;
        let numbers = SafetyNumbers { peers: vec![number(&mesh, member, name)] };
        let call = Call { mesh: Some(mesh.slug()), ..call };
        return call.each("peers", |_| std::future::ready(fields(&numbers))).await;
    }
    call.each("peers", |mesh: P::Line| async move {
        let members = mesh.members().await.map_err(unreachable)?;
        let own = mesh.member().public;
        let others = members.into_iter().filter(|row| row.online && row.pubkey != own);
        let peers = others.map(|row| number(&mesh, row.pubkey, row.display_name)).collect();
        fields(&SafetyNumbers { peers })
    })
    .await
}

fn number(mesh: &impl Line, member: PublicKey, peer: String) -> SafetyNumber {
    let safety_number = safety_number(mesh.member().public, member);
    SafetyNumber { peer, member_pubkey: member, safety_number }
}

/// `grant.list`.
pub(super) async fn list<P: Place>(call: Call<'_, P>) -> Result<Answer, Failure> {
    call.each("grants", |mesh: P::Line| async move {
        let granted = ask(&mesh, GetGrants {}).await?.grants;
        mesh.look().await.map_err(unreachable)?;
        let grants = granted.iter().map(|(key, now)| GrantState {
            peer: name_of(&mesh, *key),
            member_pubkey: *key,
            now: now.clone(),
            is_default: false,
        });
        fields(&GrantList { defaults: DEFAULT_GRANTS.to_vec(), grants: grants.collect() })
    })
    .await
}

/// `grant.add`: what it has, and these.
pub(super) async fn add<P: Place>(
    call: Call<'_, P>,
    asked: ChangeGrant,
) -> Result<Answer, Failure> {
    change(call, asked, |now, given| now.union(given).copied().collect()).await
}

/// `grant.remove`: what it has, without these.
pub(super) async fn remove<P: Place>(
    call: Call<'_, P>,
    asked: ChangeGrant,
) -> Result<Answer, Failure> {
    change(call, asked, |now, taken| now.difference(taken).copied().collect()).await
}

/// `grant.block`.
pub(super) async fn block<P: Place>(call: Call<'_, P>, asked: OnePeer) -> Result<Answer, Failure> {
    let (mesh, member, name) = named(call, &asked.peer).await?;
    let _one_at_a_time = call.place.changing_grants().await;
    write(&mesh, member, name, Some(Vec::new())).await
}

async fn change<P: Place>(
    call: Call<'_, P>,
    asked: ChangeGrant,
    merge: fn(&BTreeSet<Grant>, &BTreeSet<Grant>) -> Vec<Grant>,
) -> Result<Answer, Failure> {
    let is_reset = asked.reset == Some(true);
    if is_reset && !asked.capabilities.is_empty() {
        return Err(Failure::field("reset", "\"reset\" goes back to the defaults, without a list"));
    }
    let (mesh, member, name) = named(call, &asked.peer).await?;
    let _one_at_a_time = call.place.changing_grants().await;
    if is_reset {
        return write(&mesh, member, name, None).await;
    }
    // No list means all of them.
    let named: BTreeSet<Grant> = if asked.capabilities.is_empty() {
        Grant::ALL.iter().copied().collect()
    } else {
        asked.capabilities.into_iter().collect()
    };
    let granted = ask(&mesh, GetGrants {}).await?.grants;
    let now = granted.get(&member).map_or(DEFAULT_GRANTS, Vec::as_slice).iter().copied().collect();
    write(&mesh, member, name, Some(merge(&now, &named))).await
}

/// Writes one entry and tells what the broker keeps now.
async fn write(
    mesh: &impl Line,
    member: PublicKey,
    peer: String,
    entry: Option<Vec<Grant>>,
) -> Result<Answer, Failure> {
    let grants = std::iter::once((member, entry)).collect();
    let kept = ask(mesh, SetGrants { grants }).await?.grants;
    let state = GrantState {
        peer,
        member_pubkey: member,
        now: kept.get(&member).map_or(DEFAULT_GRANTS, Vec::as_slice).to_vec(),
        is_default: !kept.contains_key(&member),
    };
    let mut result = fields(&state)?;
    result.insert("mesh".to_owned(), mesh.slug().into());
    Ok(Answer::on(mesh, result))
}

async fn ask(mesh: &impl Line, frame: impl Into<ClientFrame>) -> Result<GrantsResult, Failure> {
    match mesh.request(Via::Member, frame.into()).await {
        Ok(ServerFrame::GrantsResult(result)) => Ok(*result),
        Ok(_) => Err(Failure::of_broker("broker_error", "the broker gave an unexpected answer")),
        Err(error) => Err(broker_failure(&error)),
    }
}

/// The other member that a name, key or prefix means, present or absent, and its name.
async fn named<P: Place>(
    call: Call<'_, P>,
    text: &str,
) -> Result<(P::Line, PublicKey, String), Failure> {
    let (mesh, member) = member_named(call, text).await?;
    if member == mesh.member().public {
        return Err(Failure::new(ErrorCode::SelfTarget, "that is you"));
    }
    let name = name_of(&mesh, member);
    Ok((mesh, member, name))
}

/// The member that a name, key or prefix means, present or absent.
pub(super) async fn member_named<P: Place>(
    call: Call<'_, P>,
    text: &str,
) -> Result<(P::Line, PublicKey), Failure> {
    let (mesh, resolved) = match call.place.peer(call.caller, call.mesh, text).await {
        Err(failure) if failure.code() == ErrorCode::TargetNotFound.as_str() => {
            // Whoever joined a moment ago is not in the roster yet.
            for mesh in call.place.meshes(call.mesh, call.caller)? {
                let _ = mesh.members().await;
            }
            call.place.peer(call.caller, call.mesh, text).await?
        }
        found => found?,
    };
    let TargetSpec::Key(key) = resolved.target else {
        return Err(Failure::new(ErrorCode::InvalidTarget, format!("{text:?} is no single peer")));
    };
    let member = mesh.roster().member_behind(key).unwrap_or(key);
    if mesh.roster().member(member).is_none() {
        let message = format!("no member of \"{}\" has the key {text}", mesh.slug());
        return Err(Failure::new(ErrorCode::TargetNotFound, message));
    }
    Ok((mesh, member))
}

fn name_of(mesh: &impl Line, key: PublicKey) -> String {
    mesh.name_of(key).unwrap_or_else(|| key.short(KEY_SHOWN_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_adds_and_a_revocation_takes_away() {
        let set = |grants: &[Grant]| grants.iter().copied().collect::<BTreeSet<_>>();
        let now = set(DEFAULT_GRANTS);
        let union: Vec<Grant> = now.union(&set(&[Grant::FileRead])).copied().collect();
        assert_eq!(union.len(), DEFAULT_GRANTS.len() + 1);
        let all = set(Grant::ALL);
        assert!(now.difference(&all).next().is_none());
    }
}
