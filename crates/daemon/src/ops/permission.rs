//! The eleven permissions and the role of members (wire spec §2.7, broker spec §4.24): over the broker's HTTP side, signed
//! by our member, so that the broker judges who may.

use claudemesh_protocol::account::MemberPermissions;
use claudemesh_protocol::ops::permission::{
    AboutMember, ChangePermissions, ChangeRole, PermissionList,
};
use claudemesh_protocol::permission::Permission;
use claudemesh_protocol::{ErrorCode, MemberId};

use super::trust::member_named;
use super::{Answer, Call, Place, fields, lost_or_failed};
use crate::api::Failure;
use crate::mesh::Line;

/// `member.permissions`: of one member, else of all.
pub(super) async fn list<P: Place>(
    call: Call<'_, P>,
    asked: AboutMember,
) -> Result<Answer, Failure> {
    let Some(peer) = asked.peer else {
        return call
            .each("members", |mesh: P::Line| async move {
                let members = all(call, &mesh).await?;
                fields(&PermissionList { members, errors: Vec::new() })
            })
            .await;
    };
    let (mesh, member) = named(call, &peer).await?;
    let members = vec![one(call, &mesh, &member).await?];
    let list = PermissionList { members, errors: Vec::new() };
    let call = Call { mesh: Some(mesh.slug()), ..call };
    call.each("members", |_| std::future::ready(fields(&list))).await
}

/// `member.allow`.
pub(super) async fn allow<P: Place>(
    call: Call<'_, P>,
    asked: ChangePermissions,
) -> Result<Answer, Failure> {
    change(call, asked, true).await
}

/// `member.deny`.
pub(super) async fn deny<P: Place>(
    call: Call<'_, P>,
    asked: ChangePermissions,
) -> Result<Answer, Failure> {
    change(call, asked, false).await
}

async fn change<P: Place>(
    call: Call<'_, P>,
    asked: ChangePermissions,
    may: bool,
) -> Result<Answer, Failure> {
    let is_reset = asked.reset == Some(true);
    if is_reset && !asked.permissions.is_empty() {
        let sentence = "\"reset\" goes back to what the role has, without a list";
        return Err(Failure::field("reset", sentence));
    }
    let (mesh, member) = named(call, &asked.peer).await?;
    // No list means all of them, as with grants.
    let listed = if asked.permissions.is_empty() { Permission::ALL } else { &asked.permissions };
    let may = (!is_reset).then_some(may);
    let changes = listed.iter().map(|permission| (*permission, may)).collect();
    let http = mesh.http().map_err(|error| lost_or_failed(call.spec, &error))?;
    let done = http.change_permissions(&member, &changes).await;
    done.map_err(|error| lost_or_failed(call.spec, &error))?;
    told(call, &mesh, &member).await
}

/// `member.role`.
pub(super) async fn role<P: Place>(
    call: Call<'_, P>,
    asked: ChangeRole,
) -> Result<Answer, Failure> {
    let (mesh, member) = named(call, &asked.peer).await?;
    let http = mesh.http().map_err(|error| lost_or_failed(call.spec, &error))?;
    let changed = http.change_role(&member, asked.role).await;
    changed.map_err(|error| lost_or_failed(call.spec, &error))?;
    told(call, &mesh, &member).await
}

/// What the member may do now.
async fn told<P: Place>(
    call: Call<'_, P>,
    mesh: &P::Line,
    member: &MemberId,
) -> Result<Answer, Failure> {
    let mut result = fields(&one(call, mesh, member).await?)?;
    result.insert("mesh".to_owned(), mesh.slug().into());
    Ok(Answer::on(mesh, result))
}

async fn one<P: Place>(
    call: Call<'_, P>,
    mesh: &P::Line,
    member: &MemberId,
) -> Result<MemberPermissions, Failure> {
    let found = all(call, mesh).await?.into_iter().find(|entry| entry.member_id == *member);
    found.ok_or_else(|| Failure::new(ErrorCode::NotFound, "that member has left the mesh"))
}

async fn all<P: Place>(
    call: Call<'_, P>,
    mesh: &P::Line,
) -> Result<Vec<MemberPermissions>, Failure> {
    let http = mesh.http().map_err(|error| lost_or_failed(call.spec, &error))?;
    http.permissions().await.map_err(|error| lost_or_failed(call.spec, &error))
}

/// The mesh and the id of the member that a name, key or prefix means.
async fn named<P: Place>(call: Call<'_, P>, text: &str) -> Result<(P::Line, MemberId), Failure> {
    let (mesh, key) = member_named(call, text).await?;
    let roster = mesh.roster();
    let member = roster.member(key).map(|row| row.member_id.clone());
    let gone = || Failure::new(ErrorCode::TargetNotFound, format!("there is no member {text:?}"));
    Ok((mesh.clone(), member.ok_or_else(gone)?))
}
