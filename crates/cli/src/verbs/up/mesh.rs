//! The mesh of `up`: kept when it is joined here, made when the account has none of that name.

use claudemesh_broker::data_dir::BrokerRecord;
use claudemesh_client::BrokerHttp;
use claudemesh_protocol::account::AccountMesh;
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::slug::Slug;

use super::account::AccountState;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::local::{PendingJoins, is_at};
use crate::remote::{SignedIn, http_failure};
use crate::verbs::create::{self, NewMesh};

/// The mesh, joined here.
pub(in crate::verbs) struct MeshState {
    pub(super) slug: String,
    pub(super) mesh_id: String,
    pub(super) member_id: String,
    pub(super) is_owner: bool,
    pub(super) was_created: bool,
}

/// Makes sure that a mesh of that name on the local broker is joined here.
///
/// # Errors
/// Exit 3 for a bad name, exit 6 when the name belongs to somebody else's mesh or to one of another server.
pub(super) async fn ensure(
    context: &Context,
    http: &BrokerHttp,
    account: &AccountState,
    record: &BrokerRecord,
    name: &str,
) -> Outcome<MeshState> {
    let slug: Slug = name.parse().or_else(|_| Slug::from_name(name)).map_err(|error| {
        Failure::invalid(format!("up: --mesh \"{name}\"")).detail(error.to_string())
    })?;
    let on_server =
        http.meshes(&account.token).await.map_err(|error| http_failure(error, http.base()))?.meshes;
    move_to(context, record, &on_server)?;
    let config = context.config()?;
    PendingJoins::open(context)?.forget_finished(&config)?;
    if let Some(entry) = config.mesh(slug.as_str()) {
        let remote = on_server.iter().find(|mesh| mesh.id == entry.mesh_id);
        if remote.is_none() && !is_at(entry, &record.url) {
            return Err(Failure::new(
                ErrorCode::SlugTaken,
                format!("a mesh \"{slug}\" of another server is joined here"),
            )
            .detail(entry.broker_url.clone())
            .action("claudemesh up --mesh NAME"));
        }
        return Ok(MeshState {
            slug: entry.slug.clone(),
            mesh_id: entry.mesh_id.as_str().to_owned(),
            member_id: entry.member_id.as_str().to_owned(),
            is_owner: remote.is_some_and(|remote| remote.is_owner),
            was_created: false,
        });
    }
    let signed_in = SignedIn { http: http.clone(), token: account.token.clone() };
    let wanted = NewMesh {
        name,
        slug: slug.clone(),
        description: None,
        display_name: Some(&account.user.display_name),
    };
    let made = create::create(context, &signed_in, &wanted).await.map_err(|failure| {
        let is_ours = on_server.iter().any(|mesh| mesh.slug == slug.as_str());
        if failure.code == "slug_taken" && is_ours {
            failure
                .detail("your account has that mesh, and the key of this machine for it is lost")
                .action("claudemesh up --mesh NAME")
        } else {
            failure
        }
    })?;
    context.update_config(|config| {
        if config.display_name().is_none() {
            config.set_display_name(&account.user.display_name);
        }
        Ok(())
    })?;
    Ok(MeshState {
        slug: made.slug,
        mesh_id: made.id.into_string(),
        member_id: made.member_id.into_string(),
        is_owner: true,
        was_created: true,
    })
}

/// The broker may stand on another port than before: memberships of its meshes, and the default, follow it.
fn move_to(context: &Context, record: &BrokerRecord, on_server: &[AccountMesh]) -> Outcome<()> {
    let config = context.config()?;
    let moved: Vec<String> = config
        .meshes()
        .filter(|mesh| {
            on_server.iter().any(|remote| remote.id == mesh.mesh_id) && !is_at(mesh, &record.url)
        })
        .map(|mesh| mesh.slug.clone())
        .collect();
    if moved.is_empty() {
        return Ok(());
    }
    context.update_config(|config| {
        let before = config
            .mesh(moved.first().map_or("", String::as_str))
            .map(|mesh| mesh.broker_url.clone());
        for slug in &moved {
            config.change_mesh(slug, |mesh| mesh.broker_url.clone_from(&record.ws_url));
        }
        if config.default_setting("brokerUrl").map(str::to_owned) == before {
            config.set_default_setting("brokerUrl", &record.ws_url);
            config.set_default_setting("apiUrl", &record.url);
        }
        Ok(())
    })
}
