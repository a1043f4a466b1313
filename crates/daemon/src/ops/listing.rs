//! Lists over several meshes, each row under its mesh, and the table itself for `GET /v1/ops`.

use std::sync::OnceLock;
use std::time::Duration;

use claudemesh_ipc::api::system::{OpEntry, OpsReply};
use claudemesh_protocol::ops::OperationKind;
use serde_json::{Map, Value, json};

use super::{Answer, Call, Place};
use crate::api::Failure;
use crate::mesh::Line;

/// What one mesh answered.
type Part<L> = (L, Result<Map<String, Value>, Failure>);

impl<P: Place> Call<'_, P> {
    /// Asks the named mesh, or all of them side by side, for the list called `list`, and puts the answers together. A
    /// mesh that cannot answer is named in `errors`; only when none can it is a failure.
    pub(super) async fn each<F>(
        &self,
        list: &str,
        ask: impl Fn(P::Line) -> F,
    ) -> Result<Answer, Failure>
    where
        F: Future<Output = Result<Map<String, Value>, Failure>> + Send,
    {
        let meshes = self.place.meshes(self.mesh, self.caller)?;
        let mut asked = Vec::with_capacity(meshes.len());
        for mesh in meshes {
            let answer = ask(mesh.clone());
            asked.push(async move { (mesh, answer.await) });
        }
        put_together(list, futures_util::future::join_all(asked).await)
    }
}

/// One list of the lists of several meshes. Numbers beside it, such as a total, add up.
fn put_together<L: Line>(list: &str, parts: Vec<Part<L>>) -> Result<Answer, Failure> {
    let only = match parts.as_slice() {
        [(mesh, _)] => Some(mesh.slug().to_owned()),
        _ => None,
    };
    let (mut rows, mut beside, mut errors) = (Vec::new(), Map::new(), Vec::new());
    let (asked, mut first_failure) = (parts.len(), None);
    for (mesh, answer) in parts {
        match answer {
            Ok(mut fields) => {
                if let Some(Value::Array(found)) = fields.shift_remove(list) {
                    rows.extend(found.into_iter().map(|row| with_mesh(row, mesh.slug())));
                }
                for (name, value) in fields {
                    add(&mut beside, name, value);
                }
            }
            Err(failure) => {
                errors.push(json!({ "mesh": mesh.slug(), "error": failure.code() }));
                first_failure.get_or_insert(failure);
            }
        }
    }
    if let Some(failure) = first_failure.filter(|_| errors.len() == asked) {
        // Never an empty list because a connection is down.
        return Err(failure.with("errors", errors));
    }
    let mut result = Map::from_iter([(list.to_owned(), Value::Array(rows))]);
    result.append(&mut beside);
    if !errors.is_empty() {
        result.insert("errors".to_owned(), errors.into());
    }
    Ok(Answer { mesh: only, result })
}

fn with_mesh(mut row: Value, slug: &str) -> Value {
    if let Some(fields) = row.as_object_mut() {
        fields.entry("mesh").or_insert_with(|| slug.into());
    }
    row
}

fn add(beside: &mut Map<String, Value>, name: String, value: Value) {
    let sum = |known: &Value| Some(known.as_u64()?.saturating_add(value.as_u64()?));
    match beside.get(&name).map(sum) {
        None => {
            beside.insert(name, value);
        }
        Some(Some(sum)) => {
            beside.insert(name, sum.into());
        }
        Some(None) => {}
    }
}

/// The operations of this daemon, as `GET /v1/ops` tells them.
pub(crate) fn table() -> &'static OpsReply {
    static TABLE: OnceLock<OpsReply> = OnceLock::new();
    TABLE.get_or_init(|| OpsReply {
        ops: OperationKind::ALL.iter().map(|kind| entry(*kind)).collect(),
    })
}

fn entry(kind: OperationKind) -> OpEntry {
    let spec = kind.spec();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    OpEntry {
        name: spec.name.to_owned(),
        family: spec.family.as_str().to_owned(),
        summary: spec.summary.to_owned(),
        class: spec.class.as_str().to_owned(),
        scope: spec.scope.as_str().to_owned(),
        capability: spec.capability().map(|capability| capability.as_str().to_owned()),
        timeout_ms: millis(spec.timeout),
        idempotent: spec.is_idempotent,
        input: kind.input_schema(),
        output: kind.output_schema(),
        cli: spec.verb.map(|verb| verb.words.to_owned()),
        tool: spec.tool.map(str::to_owned),
    }
}
