//! `POST /v1/admin/accept-host`, `rotate-keypair` and `archive-cleanup` (daemon spec §4.3, §19).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use claudemesh_ipc::api::identity::{
    AcceptHostReply, ArchiveCleanupReply, RotateError, RotateKeypairReply, RotateKeypairRequest,
    RotatedKey, TrustBrokerReply, TrustBrokerRequest,
};
use claudemesh_protocol::ErrorCode;

use crate::api::failure::Failure;
use crate::api::{Api, input};
use crate::daemon::Daemon;
use crate::identity::RotationError;

/// Characters of a key or fingerprint that are shown.
const SHOWN_CHARS: usize = 16;

pub(in crate::api) async fn accept_host(
    State(api): State<Arc<Api>>,
) -> Result<Json<AcceptHostReply>, Failure> {
    let daemon = api.daemon.clone();
    let accepted = crate::blocking::run(move || daemon.accept_host()).await;
    match accepted {
        Some(Ok(fingerprint)) => {
            let fingerprint_prefix = fingerprint.chars().take(SHOWN_CHARS).collect();
            Ok(Json(AcceptHostReply { ok: true, fingerprint_prefix }))
        }
        Some(Err(error)) => Err(Failure::new(ErrorCode::Io, error.to_string())),
        None => Err(Failure::new(ErrorCode::Internal, "the record was not written")),
    }
}

pub(in crate::api) async fn rotate_keypair(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<RotateKeypairReply>, Failure> {
    let body: RotateKeypairRequest = input::json(request, input::MEDIUM).await?;
    if api.daemon.context().ephemeral.is_some() {
        // And its member's are for the machine that lasts.
        let text = "the keys of an ephemeral daemon end with it";
        return Err(Failure::new(ErrorCode::Forbidden, text));
    }
    let slugs = match body.mesh {
        Some(slug) => vec![slug],
        None => api.daemon.meshes().all().iter().map(|mesh| mesh.slug().to_owned()).collect(),
    };
    // Whoever asked may hang up: what was begun is brought to its end.
    let rotating = api.daemon.context().tasks.spawn(rotate_all(api.daemon.clone(), slugs));
    let (reply, last) = rotating
        .await
        .map_err(|_| Failure::new(ErrorCode::Internal, "the rotation ended unexpectedly"))?;
    match last {
        Some(error) if reply.rotated.is_empty() => Err(error),
        _ => Ok(Json(reply)),
    }
}

/// One mesh after the other; what the last refusal said stands for all where nothing was rotated.
async fn rotate_all(daemon: Daemon, slugs: Vec<String>) -> (RotateKeypairReply, Option<Failure>) {
    let mut reply = RotateKeypairReply::default();
    let mut last = None;
    for mesh in slugs {
        match daemon.rotate_keypair(&mesh).await {
            Ok(rotated) => reply.rotated.push(RotatedKey {
                mesh,
                old_prefix: rotated.old.short(SHOWN_CHARS),
                new_prefix: rotated.new.short(SHOWN_CHARS),
                pubkey: rotated.new,
            }),
            Err(error) => {
                tracing::warn!(mesh, %error, "key_not_rotated");
                let failure = failure(&mesh, &error);
                let (error, message) = (failure.code().to_owned(), failure.message().to_owned());
                reply.errors.push(RotateError { mesh, error, message });
                last = Some(failure);
            }
        }
    }
    (reply, last)
}

fn failure(mesh: &str, error: &RotationError) -> Failure {
    let failure = Failure::new(error.code(), error.to_string()).with("mesh", mesh);
    match error {
        RotationError::Unsupported(_) => failure.hint("ask the operator for a newer broker"),
        RotationError::Refused(refusal) => failure.with("broker_error", refusal.code.clone()),
        _ => failure,
    }
}

pub(in crate::api) async fn trust_broker(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<TrustBrokerReply>, Failure> {
    let body: TrustBrokerRequest = input::json(request, input::MEDIUM).await?;
    let mesh = api.mesh(&body.mesh).ok_or_else(|| {
        let message = format!("the mesh \"{}\" is not attached", body.mesh);
        Failure::new(ErrorCode::MeshNotAttached, message)
    })?;
    let unchanged = || {
        let message = format!("the broker of \"{}\" has the key that is known", body.mesh);
        Failure::new(ErrorCode::NotFound, message)
    };
    let (old, new) = mesh.changed_broker_key().ok_or_else(unchanged)?;
    let mut trusted = false;
    if let Some(key) = body.trust {
        let changing = crate::blocking::run(move || mesh.trust_broker(key)).await;
        trusted = match changing {
            Some(Ok(true)) => true,
            Some(Ok(false)) => return Err(unchanged()),
            Some(Err(error)) => {
                return Err(Failure::new(ErrorCode::Io, format!("it cannot be written: {error}")));
            }
            None => return Err(Failure::new(ErrorCode::Internal, "the key was not changed")),
        };
        tracing::info!(
            mesh = body.mesh,
            old = old.short(SHOWN_CHARS),
            new = new.short(SHOWN_CHARS),
            "broker_key_trusted"
        );
    }
    Ok(Json(TrustBrokerReply {
        mesh: body.mesh,
        old_prefix: old.short(SHOWN_CHARS),
        new_prefix: new.short(SHOWN_CHARS),
        broker_pubkey: new,
        trusted,
    }))
}

pub(in crate::api) async fn archive_cleanup(
    State(api): State<Arc<Api>>,
) -> Result<Json<ArchiveCleanupReply>, Failure> {
    let identity = api.daemon.context().identity.clone();
    let cleaned = crate::blocking::run(move || identity.clean_up(crate::clock::now())).await;
    match cleaned {
        Some(Ok(cleaned)) => Ok(Json(ArchiveCleanupReply {
            ok: true,
            removed: cleaned.removed as u64,
            kept: cleaned.kept as u64,
        })),
        Some(Err(error)) => {
            let message = format!("the archive cannot be written: {error}");
            Err(Failure::new(ErrorCode::Io, message))
        }
        None => Err(Failure::new(ErrorCode::Internal, "the archive was not looked at")),
    }
}
