//! `mesh create`: a mesh on the account's server, joined here (CLI spec §3.1).

use claudemesh_client::HttpError;
use claudemesh_crypto::KeyPair;
use claudemesh_crypto::hash::sha256_hex;
use claudemesh_daemon::home::config::MeshEntry;
use claudemesh_protocol::account::{MeshCreateReply, MeshCreateRequest};
use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits;
use claudemesh_protocol::slug::Slug;
use claudemesh_protocol::status::MemberRole;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::CreateArgs;
use crate::local::{PendingJoins, PendingKeys, Secret};
use crate::output::prompt::Default as Answer;
use crate::output::{Document, Fields, Report, Screen};
use crate::remote::{SignedIn, http_failure};

/// Keys of the result.
pub(crate) const FIELDS: Fields =
    Fields { names: &["id", "slug", "memberId", "role", "brokerUrl"], id: "id" };

/// Runs the verb.
///
/// # Errors
/// Exit 2 when nobody is signed in, exit 3 for a bad name, exit 6 when the slug is taken.
pub(crate) async fn run(context: &Context, args: &CreateArgs) -> Outcome<Report> {
    let name = args.name.trim();
    let slug = slug(&context.spoken, name, args.slug.as_deref())?;
    let config = context.config()?;
    if config.mesh(slug.as_str()).is_some() {
        return Err(Failure::new(
            ErrorCode::SlugTaken,
            format!("mesh \"{slug}\" is joined already"),
        )
        .with("suggestion", slug.with_number(2).as_str()));
    }
    let signed_in = context.signed_in(&config)?;
    context.admit(&[slug.as_str().to_owned()], None).await?;
    let wanted = NewMesh {
        name,
        slug,
        description: args.description.as_deref(),
        display_name: config.display_name(),
    };
    let made = match create(context, &signed_in, &wanted).await {
        Err(failure) if failure.code == "slug_taken" => {
            let slug = offered(context, &failure)?;
            create(context, &signed_in, &NewMesh { slug, ..wanted }).await?
        }
        other => other?,
    };
    context.attached(&made.slug).await;
    let mut screen = Screen::new();
    screen.section(&format!("created {}", made.slug));
    screen.pairs(&[
        ("id", made.id.as_str().to_owned()),
        ("role", "owner".to_owned()),
        ("local", "joined".to_owned()),
    ]);
    screen.hint("share with: claudemesh share");
    let broker_url = ws_address(signed_in.http.base());
    let document = json!({
        "id": made.id, "slug": made.slug, "memberId": made.member_id, "role": "owner", "brokerUrl": broker_url,
    });
    Ok(Report::new(Document::object(document), screen))
}

/// The slug that was asked for, or the one of the name.
pub(crate) fn slug(verb: &str, name: &str, asked: Option<&str>) -> Outcome<Slug> {
    let failure = |input: &str, error: &dyn std::fmt::Display| {
        Failure::invalid(format!("{verb} \"{input}\""))
            .detail(error.to_string())
            .with("field", "name")
    };
    if let Some(asked) = asked {
        return asked
            .parse()
            .map_err(|error: claudemesh_protocol::slug::SlugError| failure(asked, &error));
    }
    if !limits::MESH_NAME_CHARS.contains(&name.chars().count()) {
        let range = &limits::MESH_NAME_CHARS;
        return Err(failure(
            name,
            &format!("a name has {} to {} characters", range.start(), range.end()),
        ));
    }
    Slug::from_name(name).map_err(|error| failure(name, &error))
}

/// The free slug the server suggests, when the person takes it (`-y` does).
fn offered(context: &Context, taken: &Failure) -> Outcome<Slug> {
    let suggestion = taken.background.extra.get("suggestion").and_then(serde_json::Value::as_str);
    let Some(suggestion) = suggestion.and_then(|text| text.parse::<Slug>().ok()) else {
        return Err(taken.clone());
    };
    let taken = taken.clone().action(format!("claudemesh create <name> --slug {suggestion}"));
    if context.global.yes {
        return Ok(suggestion);
    }
    if !context.out.may_prompt() {
        return Err(taken);
    }
    let question = format!("The name is taken. Use {suggestion}?");
    if context.out.confirm(&question, Answer::Yes)? { Ok(suggestion) } else { Err(taken) }
}

/// A mesh to be made.
pub(crate) struct NewMesh<'a> {
    pub(crate) name: &'a str,
    pub(crate) slug: Slug,
    pub(crate) description: Option<&'a str>,
    pub(crate) display_name: Option<&'a str>,
}

/// Makes the mesh and writes the membership. The key pair is on disk before the server hears of it: after a crash in
/// between, a repeat uses the same key, and the server answers with the mesh it has made.
///
/// # Errors
/// The server's refusal; exit 10 when the membership cannot be written.
pub(crate) async fn create(
    context: &Context,
    signed_in: &SignedIn,
    wanted: &NewMesh<'_>,
) -> Outcome<MeshCreateReply> {
    let id = sha256_hex(format!("create|{}|{}", signed_in.http.base(), wanted.slug).as_bytes());
    let keys = kept_keys(context, &id)?;
    let request = MeshCreateRequest {
        name: wanted.name.to_owned(),
        pubkey: keys.public(),
        slug: Some(wanted.slug.as_str().to_owned()),
        description: wanted.description.map(str::to_owned),
        display_name: wanted.display_name.map(str::to_owned),
    };
    let work = signed_in.http.mesh_create(&signed_in.token, &request);
    let made = match context.out.during("creating", work).await {
        Ok(made) => made,
        Err(error) => {
            // A clear refusal made nothing that the keys could belong to.
            if matches!(&error, HttpError::Refused { status, .. } if *status < 500) {
                PendingJoins::open(context)?.remove(&id)?;
            }
            return Err(http_failure(error, signed_in.http.base()));
        }
    };
    let entry = MeshEntry {
        mesh_id: made.id.clone(),
        member_id: made.member_id.clone(),
        slug: made.slug.clone(),
        name: made.slug.clone(),
        owner_pubkey: None,
        keys,
        broker_url: ws_address(signed_in.http.base()),
        joined_at: Context::now().to_iso(),
        root_key: None,
        invite_version: None,
        role: Some(MemberRole::Admin),
    };
    context.update_config(|config| {
        if config.meshes().any(|mesh| mesh.mesh_id == entry.mesh_id) {
            return Ok(());
        }
        remember_server(config, signed_in.http.base());
        config.add_mesh(entry).map_err(crate::local::config_failure)
    })?;
    PendingJoins::open(context)?.remove(&id)?;
    Ok(made)
}

/// The first server a machine meets becomes its default.
pub(crate) fn remember_server(
    config: &mut claudemesh_daemon::home::config::Config,
    http_base: &str,
) {
    if config.default_setting("apiUrl").is_none() {
        config.set_default_setting("apiUrl", http_base);
    }
    if config.default_setting("brokerUrl").is_none() {
        config.set_default_setting("brokerUrl", &ws_address(http_base));
    }
}

/// Keys of an earlier attempt under this id, or fresh ones, on disk when this returns.
fn kept_keys(context: &Context, id: &str) -> Outcome<KeyPair> {
    let mut pending = PendingJoins::open(context)?;
    if let Some(keys) =
        pending.keys(id).and_then(|keys| KeyPair::from_hex(keys.member.reveal()).ok())
    {
        return Ok(keys);
    }
    let keys = KeyPair::generate();
    pending.keep(
        id,
        &PendingKeys { member: Secret::new(keys.to_hex().as_str()), exchange: Secret::new("") },
    )?;
    Ok(keys)
}

/// `http://h` as `ws://h/ws`.
pub(crate) fn ws_address(http_base: &str) -> String {
    let base = http_base.trim_end_matches('/');
    match base.strip_prefix("https://") {
        Some(rest) => format!("wss://{rest}/ws"),
        None => format!("ws://{}/ws", base.strip_prefix("http://").unwrap_or(base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_slugs_and_bad_ones_are_refused() {
        assert_eq!(slug("create", "Platform Team", None).unwrap().as_str(), "platform-team");
        assert_eq!(slug("create", "x y", Some("plat")).unwrap().as_str(), "plat");
        for (name, asked) in [("", None), ("x", None), ("!!", None), ("ok", Some("B!"))] {
            assert_eq!(slug("create", name, asked).unwrap_err().exit, 3, "{name}");
        }
    }

    #[test]
    fn the_socket_address_of_a_server() {
        assert_eq!(ws_address("http://127.0.0.1:7900"), "ws://127.0.0.1:7900/ws");
        assert_eq!(ws_address("https://mesh.example.org/"), "wss://mesh.example.org/ws");
    }
}
