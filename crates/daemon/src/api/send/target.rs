//! From what was typed to one mesh and one target (daemon spec §10.2): each mesh answers for itself, here the answers
//! are put together.

use claudemesh_protocol::{ErrorCode, PublicKey, TargetSpec};
use serde_json::{Value, json};

use super::Addressed;
use super::request::Letter;
use crate::api::caller::Caller;
use crate::api::failure::Failure;
use crate::mesh::{Candidate, Line as _, Resolution, Resolved};
use crate::ops::{Place, mesh_required};

/// Where a letter goes.
pub(crate) async fn destination<P: Place>(
    place: &P,
    caller: &Caller,
    letter: &Letter,
) -> Result<Addressed<P::Line>, Failure> {
    let (mesh, resolved) = place.peer(caller, letter.mesh.as_deref(), &letter.to).await?;
    if resolved.is_caller {
        return Err(Failure::new(ErrorCode::SelfTarget, "that is this session itself"));
    }
    if !resolved.is_self_member {
        return Ok(Addressed::One(mesh, resolved));
    }
    if !letter.to_self {
        return Err(Failure::new(ErrorCode::SelfTarget, "that is you")
            .hint("`--self` sends to your other sessions"));
    }
    let mut keys = mesh
        .roster()
        .live_sessions(mesh.member().public, caller.key_in(&mesh).or(mesh.own_session()));
    // A repeated request gives each session the same id again.
    keys.sort_unstable();
    Ok(Addressed::Siblings(mesh, keys))
}

/// The meshes to search and the text without its mesh.
pub(crate) fn searched<P: Place + ?Sized>(
    place: &P,
    caller: &Caller,
    mesh: Option<&str>,
    text: &str,
) -> Result<(Vec<P::Line>, String), Failure> {
    if let Some((slug, rest)) = text.split_once(':')
        && let Some(mesh) = place.mesh(slug)
    {
        return Ok((vec![mesh], rest.to_owned()));
    }
    let meshes = place.meshes(mesh, caller)?;
    if meshes.is_empty() {
        return Err(mesh_required(&meshes));
    }
    Ok((meshes, text.to_owned()))
}

/// The answers of all meshes that were searched, as one.
pub(crate) fn put_together<P: Place + ?Sized>(
    place: &P,
    text: &str,
    mut answers: Vec<(P::Line, Resolution)>,
) -> Result<(P::Line, Resolved), Failure> {
    let is_only = answers.len() == 1;
    let mut refusal = None;
    let mut candidates: Vec<Value> = Vec::new();
    let mut hits = Vec::new();
    let (mut names, mut is_refreshing) = (Vec::new(), false);
    let all: Vec<_> = answers.iter().map(|(mesh, _)| mesh.clone()).collect();
    for (mesh, answer) in answers.drain(..) {
        match answer {
            // A whole key need not be known, but then nothing says which mesh it belongs to.
            Resolution::One(resolved) if is_only || resolved.is_known => {
                hits.push((mesh, resolved));
            }
            Resolution::One(_) => {}
            Resolution::Ambiguous(found) => {
                candidates
                    .extend(found.iter().map(|candidate| candidate_json(candidate, mesh.slug())));
            }
            Resolution::None { names: known, is_refreshing: soon } => {
                names.extend(known);
                is_refreshing |= soon;
            }
            Resolution::Refused { code, message } => {
                refusal = Some(Failure::new(code, message));
            }
        }
    }
    if candidates.is_empty() && hits.len() <= 1 {
        return match (hits.pop(), refusal) {
            (Some(hit), _) => Ok(hit),
            (None, Some(refusal)) => Err(refusal),
            (None, None) if is_key(text) => Err(mesh_required(&all)),
            (None, None) => Err(not_found(text, names, is_refreshing)),
        };
    }
    if candidates.is_empty() && hits.iter().all(|(_, resolved)| !resolved.target.is_direct()) {
        // A group name exists everywhere: only the default mesh can be meant.
        let default = place.default_mesh();
        let meant = hits.into_iter().find(|(mesh, _)| default.as_deref() == Some(mesh.slug()));
        return meant.ok_or_else(|| mesh_required(&all));
    }
    candidates.extend(hits.iter().map(|(mesh, resolved)| {
        let key = match &resolved.target {
            TargetSpec::Key(key) => Some(key.to_hex()),
            _ => None,
        };
        json!({ "name": text, "pubkey": key, "mesh": mesh.slug() })
    }));
    Err(Failure::new(ErrorCode::AmbiguousTarget, format!("{text:?} may mean several"))
        .with("candidates", candidates)
        .hint("use the key, or <mesh>:<name>"))
}

fn is_key(text: &str) -> bool {
    PublicKey::parse_any_case(text.trim()).is_ok()
}

fn candidate_json(candidate: &Candidate, mesh: &str) -> Value {
    json!({ "name": candidate.name, "pubkey": candidate.pubkey, "kind": candidate.kind, "mesh": mesh })
}

fn not_found(text: &str, mut names: Vec<String>, is_refreshing: bool) -> Failure {
    const NAMES_MAX: usize = 10;
    names.truncate(NAMES_MAX);
    let failure =
        Failure::new(ErrorCode::TargetNotFound, format!("nobody here is called {text:?}"))
            .with("candidates", names);
    if is_refreshing {
        failure.hint("the list of peers is being fetched anew; try again in a moment")
    } else {
        failure.hint("`claudemesh peer list` shows who is there")
    }
}
