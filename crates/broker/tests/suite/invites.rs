//! Making, previewing, listing and revoking invites.

use std::time::Duration;

use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{MemberId, MeshId};
use claudemesh_store::UserRole;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Answer, Joiner, World};

#[tokio::test]
async fn terms_are_checked_at_their_edges() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let create = |terms: serde_json::Value| {
        let (world, token) = (&world, &host.token);
        async move { world.post_as(token, "/cli/mesh/alpha/invite", &terms).await }
    };
    create(json!({ "max_uses": 1 })).await.ok();
    create(json!({ "max_uses": 1000, "expires_in": 365 * 86_400 })).await.ok();
    for (field, value) in [
        ("max_uses", json!(0)),
        ("max_uses", json!(1001)),
        ("max_uses", json!("many")),
        ("expires_in", json!(59)),
        ("expires_in", json!(365 * 86_400 + 1)),
        ("expires_in", json!(-5)),
        ("role", json!("owner")),
        ("preset", json!("x")),
    ] {
        let refused = create(json!({ field: value })).await.refused(400, "malformed");
        assert_eq!(refused["field"], field);
    }
    let refused = create(json!({ "preset": { "displayName": "x".repeat(65) } }))
        .await
        .refused(400, "malformed");
    assert_eq!(refused["field"], "preset.displayName");
}

#[tokio::test]
async fn an_invite_is_a_link_that_ends_after_a_week() {
    let world = World::start().await;
    let token = world.sign_up().await;
    world.create_mesh(&token, "Alpha").await;
    let answer = world.post_as(&token, "/cli/mesh/alpha/invite", &json!({})).await.ok();
    let code = answer["code"].as_str().unwrap();
    assert_eq!(code.len(), 8);
    assert_eq!(answer["url"], format!("{}/i/{code}", world.broker().http_url()));
    assert_eq!(answer["emailed"], false);
    world.claim(code, &Joiner::new()).await.ok();
    let other = world.invite(&token, "alpha", json!({})).await;
    world.clock.advance(Duration::from_secs(7 * 86_400 + 1));
    world.claim(&other, &Joiner::new()).await.refused(410, "expired");
}

/// INV-7.
#[tokio::test]
async fn a_member_who_may_invite_may_not_invite_admins() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let broker = world.broker().broker();
    let mesh = MeshId::new(host.mesh["id"].as_str().unwrap());
    let (user, token) = second_account(&world).await;
    let member = claudemesh_store::NewMember {
        id: MemberId::new("m".repeat(32)),
        mesh_id: mesh.clone(),
        user_id: Some(user),
        identity: claudemesh_store::NewIdentity::Key(
            claudemesh_crypto::KeyPair::generate().public(),
        ),
        display_name: "carol".to_owned(),
        role: MemberRole::Member,
        role_tag: None,
        default_groups: Vec::new(),
        message_mode: claudemesh_protocol::status::MessageMode::Push,
        joined_at: broker.now(),
    };
    broker.store().add_members(vec![member]).await.unwrap();
    let path = "/cli/mesh/alpha/invite";
    let refused = world.post_as(&token, path, &json!({})).await.refused(403, "forbidden");
    assert_eq!(refused["permission"], "canInvite");
    let owner = MemberId::new(host.mesh["member_id"].as_str().unwrap());
    let may = [(claudemesh_protocol::permission::Permission::Invite, Some(true))].into();
    broker
        .store()
        .merge_permissions(&mesh, &MemberId::new("m".repeat(32)), may, &owner, broker.now())
        .await
        .unwrap();
    let own = world.post_as(&token, path, &json!({})).await.ok();
    world.post_as(&token, path, &json!({ "role": "admin" })).await.refused(403, "forbidden");
    world.post_as(&host.token, path, &json!({ "role": "admin" })).await.ok();
    let revoke = |code: String| {
        let request = world.request(Method::DELETE, &format!("/cli/mesh/alpha/invites/{code}"));
        Answer::of(request.bearer_auth(&token))
    };
    revoke(host.code.clone()).await.refused(403, "forbidden");
    revoke(own["code"].as_str().unwrap().to_owned()).await.ok();
}

/// Wire spec appendix A: whoever may invite may do so with its own key alone, and stands behind what it made.
#[tokio::test]
async fn a_member_without_an_account_invites_by_its_key() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let guest = Guest::join(&world, &host, "bob").await;
    let refused = guest.signs(Method::POST, PATH, &json!({})).await.refused(403, "forbidden");
    assert_eq!(refused["permission"], "canInvite");
    guest.may_invite(&host).await;
    let terms = json!({ "max_uses": 1, "expires_in": 600 });
    let made = guest.signs(Method::POST, PATH, &terms).await.ok();
    let code = made["code"].as_str().unwrap().to_owned();
    // By the id of the mesh, too: a machine may call it by another name.
    let by_id = format!("/cli/mesh/{}/invite", host.mesh["id"].as_str().unwrap());
    guest.signs(Method::POST, &by_id, &terms).await.ok();
    let admin = json!({ "role": "admin" });
    guest.signs(Method::POST, PATH, &admin).await.refused(403, "forbidden");
    let preview = world.get(&format!("/api/public/invites/{code}")).await.ok();
    assert_eq!((&preview["inviter"], &preview["role"]), (&json!("bob"), &json!("member")));
    let log = world.broker().broker().store().audit_entries(&guest.mesh, None, 50, 0).await;
    let log = log.unwrap();
    let made_by = |entry: &&claudemesh_store::AuditEntry| {
        entry.event == "invite_created" && entry.actor.as_ref() == Some(&guest.id)
    };
    assert_eq!(log.entries.iter().filter(made_by).count(), 2);
    let own = format!("/cli/mesh/alpha/invites/{code}");
    let foreign = format!("/cli/mesh/alpha/invites/{}", host.code);
    guest.signs(Method::DELETE, &foreign, &json!({})).await.refused(403, "forbidden");
    guest.signs(Method::DELETE, &own, &json!({})).await.ok();
    world.claim(&code, &Joiner::new()).await.refused(410, "revoked");
}

/// The signature of an invite's making counts once, for a minute, for these words alone.
#[tokio::test]
async fn a_signed_wish_for_an_invite_is_fresh_and_taken_once() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let guest = Guest::join(&world, &host, "bob").await;
    guest.may_invite(&host).await;
    let body = json!({ "max_uses": 1 });
    let signed = guest.signature(Method::POST, PATH, &body);
    signed.sent(&body).await.ok();
    signed.sent(&body).await.refused(401, "bad_signature");
    let other_words = guest.signature(Method::POST, PATH, &body);
    other_words.sent(&json!({ "max_uses": 1000 })).await.refused(401, "bad_signature");
    let late = guest.signature(Method::POST, PATH, &body);
    world.clock.advance(Duration::from_secs(61));
    assert!(late.sent(&body).await.refused(401, "timestamp_skew")["serverTime"].is_i64());
    let stranger = Guest { key: claudemesh_crypto::KeyPair::generate(), ..guest };
    stranger.signs(Method::POST, PATH, &body).await.refused(401, "unauthorized");
}

/// Whoever is banned does not come back under another key by an invite that it made before.
#[tokio::test]
async fn the_invites_of_a_banned_member_are_closed() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let guest = Guest::join(&world, &host, "bob").await;
    guest.may_invite(&host).await;
    let made = guest.signs(Method::POST, PATH, &json!({ "max_uses": 9 })).await.ok();
    let code = made["code"].as_str().unwrap();
    world.claim(code, &Joiner::new()).await.ok();
    let store = world.broker().broker().store();
    let ban = claudemesh_store::NewBan {
        mesh_id: guest.mesh.clone(),
        member_id: guest.id.clone(),
        by: MemberId::new(host.mesh["member_id"].as_str().unwrap()),
        reason: None,
        at: world.clock_now(),
    };
    store.ban_member(ban).await.unwrap().unwrap();
    let preview = world.get(&format!("/api/public/invites/{code}")).await.ok();
    assert_eq!((&preview["valid"], &preview["reason"]), (&json!(false), &json!("revoked")));
    world.claim(code, &Joiner::new()).await.refused(410, "revoked");
    world.claim(&host.code, &Joiner::new()).await.ok();
}

/// One member makes so many invites in an hour, and others are none the worse for it.
#[tokio::test]
async fn a_member_makes_so_many_invites_in_an_hour() {
    use claudemesh_protocol::limits::INVITES_PER_MAKER_HOUR;
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 3 })).await;
    let guest = Guest::join(&world, &host, "bob").await;
    guest.may_invite(&host).await;
    for _ in 0..INVITES_PER_MAKER_HOUR {
        guest.signs(Method::POST, PATH, &json!({})).await.ok();
    }
    let refused = guest.signs(Method::POST, PATH, &json!({})).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.refused(429, "rate_limited");
    world.invite(&host.token, "alpha", json!({})).await;
}

const PATH: &str = "/cli/mesh/alpha/invite";

/// A member that joined by an invite and has no account.
struct Guest<'a> {
    world: &'a World,
    mesh: MeshId,
    id: MemberId,
    key: claudemesh_crypto::KeyPair,
}

/// A request that is signed and not sent yet.
struct Signed<'a> {
    world: &'a World,
    method: Method,
    path: String,
    headers: [(&'static str, String); 3],
}

impl Signed<'_> {
    async fn sent(&self, body: &Value) -> Answer {
        let request = self.world.request(self.method.clone(), &self.path).body(body.to_string());
        let headers = self.headers.iter();
        Answer::of(headers.fold(request, |request, (name, value)| request.header(*name, value)))
            .await
    }
}

impl<'a> Guest<'a> {
    async fn join(world: &'a World, host: &crate::world::Host, name: &'static str) -> Self {
        let joiner = Joiner { name: Some(name), ..Joiner::new() };
        let claimed = world.claim(&host.code, &joiner).await.ok();
        Self {
            world,
            mesh: MeshId::new(host.mesh["id"].as_str().unwrap()),
            id: MemberId::new(claimed["member_id"].as_str().unwrap()),
            key: joiner.member,
        }
    }

    async fn may_invite(&self, host: &crate::world::Host) {
        let owner = MemberId::new(host.mesh["member_id"].as_str().unwrap());
        let may = [(claudemesh_protocol::permission::Permission::Invite, Some(true))].into();
        let store = self.world.broker().broker().store();
        let now = self.world.clock_now();
        store.merge_permissions(&self.mesh, &self.id, may, &owner, now).await.unwrap().unwrap();
    }

    fn signature(&self, method: Method, path: &str, body: &Value) -> Signed<'a> {
        // No signature is taken twice.
        self.world.clock.advance(Duration::from_millis(1));
        let (now, hash) =
            (self.world.clock_now(), claudemesh_crypto::hash::sha256(body.to_string().as_bytes()));
        let text = claudemesh_protocol::canonical::signed_http(method.as_str(), path, &hash, now);
        let signature = claudemesh_crypto::statement::sign(text, &self.key).unwrap();
        let headers = [
            ("X-Member-Pubkey", self.key.public().to_hex()),
            ("X-Timestamp", now.as_millis().to_string()),
            ("X-Signature", signature.to_hex()),
        ];
        Signed { world: self.world, method, path: path.to_owned(), headers }
    }

    async fn signs(&self, method: Method, path: &str, body: &Value) -> Answer {
        self.signature(method, path, body).sent(body).await
    }
}

/// CLI-1, CLI-2: who asks is who the bearer says; the fields by which older clients named somebody are carried and ignored.
#[tokio::test]
async fn nobody_becomes_somebody_else_by_naming_them() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let ana = world.get_as(&host.token, "/cli/me").await.ok()["user"]["id"].clone();
    let (carol, token) = second_account(&world).await;
    let as_ana = |method: Method, path: &str, body: Value| {
        let mut body = body;
        for field in ["user_id", "userId", "requester_id", "created_by"] {
            body[field] = ana.clone();
        }
        let request = world.request(method, &format!("{path}?user_id={}", ana.as_str().unwrap()));
        let request = request.bearer_auth(&token).json(&body);
        Answer::of(
            request
                .header("x-member-id", host.mesh["member_id"].as_str().unwrap())
                .header("x-user-id", ana.as_str().unwrap()),
        )
    };
    let me = as_ana(Method::GET, "/cli/me", json!({})).await.ok();
    assert_eq!(me["user"]["id"], carol.as_str());
    let meshes = as_ana(Method::GET, "/cli/meshes", json!({})).await.ok();
    assert_eq!(meshes["meshes"].as_array().unwrap().len(), 0);
    for (method, path) in [
        (Method::POST, "/cli/mesh/alpha/invite".to_owned()),
        (Method::GET, "/cli/mesh/alpha/invites".to_owned()),
        (Method::DELETE, format!("/cli/mesh/alpha/invites/{}", host.code)),
        (Method::DELETE, "/cli/mesh/alpha/member/me".to_owned()),
    ] {
        as_ana(method, &path, json!({})).await.refused(404, "not_found");
    }
    let pubkey = claudemesh_crypto::KeyPair::generate().public().to_hex();
    let made =
        as_ana(Method::POST, "/cli/mesh/create", json!({ "name": "Beta", "pubkey": pubkey }));
    assert_eq!(made.await.ok()["slug"], "beta");
    let slugs = async |token: &str| {
        let meshes = world.get_as(token, "/cli/meshes").await.ok();
        meshes["meshes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mesh| mesh["slug"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (slugs(&token).await, slugs(&host.token).await),
        (vec!["beta".into()], vec!["alpha".into()])
    );
}

async fn second_account(world: &World) -> (claudemesh_protocol::UserId, String) {
    let broker = world.broker().broker();
    let token = claudemesh_crypto::tokens::cli_session(&mut claudemesh_crypto::random::fill);
    let user = claudemesh_store::NewUser {
        id: claudemesh_protocol::UserId::new("u".repeat(32)),
        name: "Carol".to_owned(),
        email: None,
        role: UserRole::User,
        created_at: broker.now(),
    };
    let id = user.id.clone();
    broker.store().create_user(user).await.unwrap();
    let hash = claudemesh_crypto::hash::sha256(token.expose().as_bytes());
    let session = claudemesh_store::NewCliSession {
        id: "s".repeat(32),
        user_id: id.clone(),
        kind: claudemesh_store::CliSessionKind::Session,
        token_hash: claudemesh_store::TokenHash(hash),
        token_prefix: "cm_session_".to_owned(),
        hostname: None,
        platform: None,
        arch: None,
        client_version: None,
        expires_at: Some(broker.now().plus(Duration::from_hours(1))),
        created_at: broker.now(),
    };
    broker.store().create_cli_session(session).await.unwrap();
    (id, token.expose().to_owned())
}

#[tokio::test]
async fn somebody_elses_mesh_answers_like_none() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let (_, stranger) = second_account(&world).await;
    for slug in ["alpha", "nothing-here", "NO SLUG"] {
        let path = format!("/cli/mesh/{}/invite", slug.replace(' ', "%20"));
        let refused = world.post_as(&stranger, &path, &json!({})).await.refused(404, "not_found");
        assert_eq!(refused["message"], "mesh not found");
    }
    world.get_as(&stranger, "/cli/mesh/alpha/invites").await.refused(404, "not_found");
    let request = world.request(Method::DELETE, &format!("/cli/mesh/alpha/invites/{}", host.code));
    Answer::of(request.bearer_auth(&stranger)).await.refused(404, "not_found");
    assert_eq!(
        world.get_as(&stranger, "/cli/meshes").await.ok()["meshes"].as_array().unwrap().len(),
        0
    );
}

#[tokio::test]
async fn a_preview_says_what_awaits_and_uses_nothing_up() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "role": "admin" })).await;
    let path = format!("/api/public/invites/{}", host.code);
    let answer = world.get(&path).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let preview = answer.ok();
    assert_eq!((&preview["mesh_slug"], &preview["inviter"]), (&"alpha".into(), &"Ana".into()));
    assert_eq!((&preview["role"], &preview["member_count"]), (&"admin".into(), &1.into()));
    assert_eq!(preview["valid"], true);
    assert!(preview.get("root_key").is_none() && preview.get("token").is_none());
    assert_eq!(world.use_count(&host.token, &host.code).await, 0);
    world.claim(&host.code, &Joiner::new()).await.ok();
    let used = world.get(&path).await.ok();
    assert_eq!((&used["valid"], &used["reason"]), (&false.into(), &"exhausted".into()));
    world.get("/api/public/invites/ZZZZZZZZ").await.refused(404, "not_found");
}

#[tokio::test]
async fn a_revoked_invite_is_closed_at_once() {
    let world = World::start().await;
    let host = world.with_invite(json!({ "max_uses": 5 })).await;
    let path = format!("/cli/mesh/alpha/invites/{}", host.code);
    let revoke = || Answer::of(world.request(Method::DELETE, &path).bearer_auth(&host.token));
    let first = revoke().await.ok();
    assert_eq!(revoke().await.ok(), first);
    world.claim(&host.code, &Joiner::new()).await.refused(410, "revoked");
    let listed = world.get_as(&host.token, "/cli/mesh/alpha/invites").await.ok();
    assert_eq!(listed["invites"][0]["valid"], false);
    let missing =
        world.request(Method::DELETE, "/cli/mesh/alpha/invites/ZZZZZZZZ").bearer_auth(&host.token);
    Answer::of(missing).await.refused(404, "not_found");
}

#[tokio::test]
async fn the_invite_page_is_the_same_for_every_code_and_runs_nothing() {
    let world = World::start().await;
    let host = world.with_invite(json!({})).await;
    let known = world.get(&format!("/i/{}", host.code)).await;
    let unknown = world.get("/i/ZZZZZZZZ").await;
    assert_eq!(known.body, unknown.body);
    let page = known.body.as_str().unwrap();
    assert!(
        page.contains("claudemesh join") && !page.contains(&host.code) && !page.contains("<script")
    );
    let policy = known.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
}
