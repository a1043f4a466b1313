//! Fields of a send, one by one.

use claudemesh_ipc::api::SendRequest;
use serde_json::json;

use super::request::Letter;
use super::*;

fn letter(change: impl FnOnce(&mut SendRequest), header: Option<&str>) -> Result<Letter, String> {
    let mut body =
        SendRequest { to: "ann".to_owned(), message: "hi".to_owned(), ..SendRequest::default() };
    change(&mut body);
    Letter::checked(body, header.map(str::to_owned)).map_err(|failure| failure.code().to_owned())
}

/// Daemon spec §10 Accept 4: `Idempotency-Key: a` with body id `b` → 400. Body-only, header-only, none each work.
#[test]
fn the_header_names_the_message_then_the_body_then_nobody() {
    let with = |id: &str| {
        let id = id.to_owned();
        move |body: &mut SendRequest| body.client_message_id = Some(id)
    };
    assert_eq!(letter(with("b"), Some("a")).err().unwrap(), "idempotency_key_conflict");
    assert_eq!(letter(with("a"), Some("a")).unwrap().client_message_id, "a");
    assert_eq!(letter(with("b"), None).unwrap().client_message_id, "b");
    assert_eq!(letter(|_| {}, Some("a")).unwrap().client_message_id, "a");
    let minted: std::collections::HashSet<_> =
        (0..10_000).map(|_| letter(|_| {}, None).unwrap().client_message_id).collect();
    assert_eq!(minted.len(), 10_000);
    assert!(minted.iter().all(|id| ulid::Ulid::from_string(id).is_ok()));
    for bad in ["", "a b", "ä", &"x".repeat(129)] {
        assert_eq!(letter(with(bad), None).err().unwrap(), "invalid_field", "{bad}");
    }
    assert!(letter(with(&"x".repeat(128)), None).is_ok());
}

#[test]
fn fields_are_bounded_at_their_limits() {
    assert!(letter(|body| body.to = "x".repeat(256), None).is_ok());
    assert!(letter(|body| body.to = "x".repeat(257), None).is_err());
    assert!(letter(|body| body.to.clear(), None).is_err());
    assert!(letter(|body| body.message.clear(), None).is_err());
    assert!(letter(|body| body.mentions = vec![String::new(); 16], None).is_ok());
    assert!(letter(|body| body.mentions = vec![String::new(); 17], None).is_err());
    assert!(letter(|body| body.subtype = Some("reminder".to_owned()), None).is_err());
    assert!(letter(|body| body.expires_in_s = Some(0), None).is_err());
    let meta = |value: Value| move |body: &mut SendRequest| body.meta = value.as_object().cloned();
    assert!(letter(meta(json!({ "cm_x": 1 })), None).is_err());
    // {"a":"…"} has 8 bytes around its text.
    assert!(letter(meta(json!({ "a": "x".repeat(8192 - 8) })), None).is_ok());
    assert!(letter(meta(json!({ "a": "x".repeat(8192 - 7) })), None).is_err());
}

/// Daemon §10.3: `request_fingerprint` vectors.
#[test]
fn fingerprints_are_those_of_the_vectors() {
    let all = letter(
        |body| {
            body.to = "*".to_owned();
            body.message = "all hands".to_owned();
            body.priority = Some(claudemesh_protocol::Priority::Low);
            body.meta = Some(serde_json::Map::new());
        },
        None,
    )
    .unwrap();
    let parts = RequestParts {
        target: &TargetSpec::Everyone,
        reply_to_id: None,
        priority: all.priority,
        meta: all.meta.as_ref(),
        message: &all.message,
    };
    let fingerprint = parts.fingerprint().unwrap();
    assert_eq!(
        fingerprint.to_hex(),
        "fda8df5e750bd8f1ae597c1dde21782a7f51bcffc6e3991962ba101515679940"
    );
}
