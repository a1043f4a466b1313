//! Who may use which route of administration: the table of broker spec §7.1 over HTTP, written out by hand with the exact
//! status and code of every caller.

use std::time::Duration;

use claudemesh_crypto::hash::sha256;
use claudemesh_crypto::{KeyPair, random, statement, tokens};
use claudemesh_protocol::status::{MemberRole, MessageMode};
use claudemesh_protocol::{MemberId, MeshId, UserId, canonical};
use claudemesh_store::{
    AddMember, CliSessionKind, NewBan, NewCliSession, NewIdentity, NewMember, NewUser, Revocation,
    RevokeKind, TokenHash, UserRole,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::peers::row_id;
use crate::world::{Answer, Joiner, World};

/// What a caller shows.
enum Shows {
    Nothing,
    Bearer(String),
    Signature(Box<KeyPair>),
}

/// What it is in the mesh.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    /// No credential at all.
    Nobody,
    /// A token that was never given out.
    Unknown,
    /// Somebody the mesh does not know: an account, or a key.
    Outsider,
    Banned,
    Left,
    Member,
    /// A member that was given `canManagePermissions`.
    Manager,
    /// A member that was given `canInvite`.
    Inviter,
    Admin,
    Owner,
}
use Standing::{Admin, Banned, Inviter, Left, Manager, Member, Nobody, Outsider, Owner, Unknown};

struct Caller {
    name: String,
    standing: Standing,
    shows: Shows,
}

/// What a member needs.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Membership,
    /// `canManagePermissions`.
    Managing,
    /// The same, and the role for one of the fields.
    Promoting,
    /// `canInvite`.
    Inviting,
    /// To be an admin, or to have made the thing.
    Administering,
    /// Nobody may.
    Never,
}

/// A route of administration: the bearer of an account and the signature of a member are one as good as the other.
struct Route {
    method: Method,
    /// `{slug}`, `{id}`, `{other}` and `{code}` stand for the mesh, another member and an invite.
    path: &'static str,
    body: Value,
    needs: Needs,
}

fn routes() -> Vec<Route> {
    use Needs::{Administering, Inviting, Managing, Membership, Never, Promoting};
    let of = |method: Method, path, body, needs| Route { method, path, body, needs };
    let none = json!({});
    vec![
        of(Method::GET, "/cli/mesh/{slug}/permissions", none.clone(), Membership),
        of(
            Method::POST,
            "/cli/mesh/{slug}/permissions",
            json!({"member_id": "{other}", "permissions": {"canUseTools": null}}),
            Managing,
        ),
        of(Method::POST, "/cli/mesh/{slug}/grants", json!({"grants": {}}), Membership),
        of(Method::GET, "/mesh/{id}/members", none.clone(), Membership),
        of(Method::PATCH, "/mesh/{id}/settings", json!({"showPaths": true}), Managing),
        of(Method::PATCH, "/mesh/{id}/member/{other}", json!({"roleTag": "scribe"}), Managing),
        of(Method::PATCH, "/mesh/{id}/member/{other}", json!({"permission": "member"}), Promoting),
        of(Method::PATCH, "/mesh/{id}/member/me", json!({"roleTag": "me"}), Membership),
        of(Method::DELETE, "/mesh/{id}/member/{other}", none.clone(), Never),
        of(
            Method::POST,
            "/cli/mesh/{slug}/invite",
            json!({"max_uses": 1, "role": "member"}),
            Inviting,
        ),
        of(Method::GET, "/cli/mesh/{slug}/invites", none.clone(), Inviting),
        of(Method::DELETE, "/cli/mesh/{slug}/invites/{code}", none, Administering),
    ]
}

/// Status and code; a success has no code.
fn expected(route: &Route, caller: &Caller) -> (u16, Option<&'static str>) {
    let is_signed = matches!(caller.shows, Shows::Signature(_));
    match caller.standing {
        Nobody => return (401, Some("missing_bearer_token")),
        Unknown => return (401, Some("invalid_or_revoked_token")),
        Outsider if is_signed => return (401, Some("unauthorized")),
        Banned | Left if is_signed => return (403, Some("revoked")),
        Outsider | Banned | Left => return (404, Some("not_found")),
        Member | Manager | Inviter | Admin | Owner => {}
    }
    let is_admin = matches!(caller.standing, Admin | Owner);
    let may = match route.needs {
        Needs::Membership => true,
        Needs::Managing => is_admin || caller.standing == Manager,
        Needs::Promoting if caller.standing == Manager => return (403, Some("admin_managed")),
        Needs::Promoting | Needs::Administering => is_admin,
        Needs::Inviting => is_admin || caller.standing == Inviter,
        Needs::Never => false,
    };
    if may { (200, None) } else { (403, Some("forbidden")) }
}

struct Scene {
    world: World,
    slug: String,
    id: MeshId,
    /// Whom administration is about.
    other: MemberId,
    code: String,
    callers: Vec<Caller>,
}

impl Scene {
    async fn on(world: World) -> Self {
        let owner_token = world.sign_up().await;
        let (made, owner) = world.create_mesh(&owner_token, "Alpha").await;
        let code = world.invite(&owner_token, "alpha", json!({"max_uses": 5})).await;
        let id = MeshId::new(made["id"].as_str().unwrap());
        let mut scene = Self {
            world,
            slug: "alpha".to_owned(),
            id: id.clone(),
            other: MemberId::new(""),
            code,
            callers: Vec::new(),
        };
        let owner_id = MemberId::new(made["member_id"].as_str().unwrap());
        for (name, standing) in [
            ("member", Member),
            ("manager", Manager),
            ("inviter", Inviter),
            ("admin", Admin),
            ("banned", Banned),
            ("left", Left),
        ] {
            scene.join(name, standing, &owner_id).await;
        }
        (scene.other, _, _) = scene.add("other", &id).await;
        scene.guest(&owner_id).await;
        scene.call("owner", Owner, Shows::Bearer(owner_token.clone()));
        scene.call("owner's key", Owner, Shows::Signature(Box::new(owner)));
        scene.call("nobody", Nobody, Shows::Nothing);
        let unknown = tokens::cli_session(&mut random::fill).expose().to_owned();
        scene.call("unknown token", Unknown, Shows::Bearer(unknown));
        // A member of another mesh, and somebody who is nowhere a member.
        let (beta, _) = scene.world.create_mesh(&owner_token, "Beta").await;
        let beta = MeshId::new(beta["id"].as_str().unwrap());
        let (_, key, token) = scene.add("neighbour", &beta).await;
        scene.call("neighbour", Outsider, Shows::Bearer(token));
        scene.call("neighbour's key", Outsider, Shows::Signature(Box::new(key)));
        scene.call("a fresh key", Outsider, Shows::Signature(Box::new(KeyPair::generate())));
        scene
    }

    fn call(&mut self, name: &str, standing: Standing, shows: Shows) {
        self.callers.push(Caller { name: name.to_owned(), standing, shows });
    }

    /// A member with an account of its own.
    async fn add(&self, name: &str, mesh: &MeshId) -> (MemberId, KeyPair, String) {
        let store = self.world.broker().broker().store();
        let now = self.world.clock_now();
        let (user, key) = (UserId::new(row_id()), KeyPair::generate());
        let account = NewUser {
            id: user.clone(),
            name: name.to_owned(),
            email: None,
            role: UserRole::User,
            created_at: now,
        };
        store.create_user(account).await.unwrap();
        let token = tokens::cli_session(&mut random::fill).expose().to_owned();
        let session = NewCliSession {
            id: row_id(),
            user_id: user.clone(),
            kind: CliSessionKind::Session,
            token_hash: TokenHash(sha256(token.as_bytes())),
            token_prefix: token.chars().take(15).collect(),
            hostname: None,
            platform: None,
            arch: None,
            client_version: None,
            expires_at: None,
            created_at: now,
        };
        store.create_cli_session(session).await.unwrap();
        let member = NewMember {
            id: MemberId::new(row_id()),
            mesh_id: mesh.clone(),
            user_id: Some(user),
            identity: NewIdentity::Key(key.public()),
            display_name: name.to_owned(),
            role: if name == "admin" { MemberRole::Admin } else { MemberRole::Member },
            role_tag: None,
            default_groups: Vec::new(),
            message_mode: MessageMode::Push,
            joined_at: now,
        };
        let id = member.id.clone();
        let added = store.add_members(vec![member]).await.unwrap();
        assert!(matches!(added[0], AddMember::Added(_)));
        (id, key, token)
    }

    /// A caller of this standing, by bearer and by signature.
    async fn join(&mut self, name: &str, standing: Standing, owner: &MemberId) {
        let mesh = self.id.clone();
        let (id, key, token) = self.add(name, &mesh).await;
        let store = self.world.broker().broker().store();
        let at = self.world.clock_now();
        let flag = match standing {
            Manager => Some("canManagePermissions"),
            Inviter => Some("canInvite"),
            _ => None,
        };
        if let Some(flag) = flag {
            let flags = [(flag.parse().unwrap(), Some(true))].into();
            store.merge_permissions(&mesh, &id, flags, owner, at).await.unwrap().unwrap();
        }
        if standing == Banned {
            let (mesh_id, by) = (mesh.clone(), owner.clone());
            let ban = NewBan { mesh_id, member_id: id.clone(), by, reason: None, at };
            store.ban_member(ban).await.unwrap().unwrap();
        }
        if standing == Left {
            let leave = Revocation { at, kind: RevokeKind::Leave, by: Some(id.clone()) };
            assert!(store.revoke_member(&mesh, &id, leave).await.unwrap());
        }
        self.world.broker().broker().roster_changed(&mesh);
        self.call(name, standing, Shows::Bearer(token));
        self.call(&format!("{name}'s key"), standing, Shows::Signature(Box::new(key)));
    }

    /// A member that came by an invite, has no account, and was given `canInvite`.
    async fn guest(&mut self, owner: &MemberId) {
        let joiner = Joiner { name: Some("guest"), ..Joiner::new() };
        let claimed = self.world.claim(&self.code, &joiner).await.ok();
        let id = MemberId::new(claimed["member_id"].as_str().unwrap());
        let flags = [("canInvite".parse().unwrap(), Some(true))].into();
        let store = self.world.broker().broker().store();
        let at = self.world.clock_now();
        store.merge_permissions(&self.id, &id, flags, owner, at).await.unwrap().unwrap();
        self.world.broker().broker().roster_changed(&self.id);
        self.call("guest's key", Inviter, Shows::Signature(Box::new(joiner.member)));
    }

    fn filled(&self, text: &str) -> String {
        text.replace("{slug}", &self.slug)
            .replace("{id}", self.id.as_str())
            .replace("{other}", self.other.as_str())
            .replace("{code}", &self.code)
    }

    async fn ask(&self, route: &Route, caller: &Caller) -> Answer {
        let path = self.filled(route.path);
        let body = self.filled(&route.body.to_string());
        let request = self.world.request(route.method.clone(), &path).body(body.clone());
        let request = match &caller.shows {
            Shows::Nothing => request,
            Shows::Bearer(token) => request.bearer_auth(token),
            Shows::Signature(key) => {
                // No signature is taken twice.
                self.world.clock.advance(Duration::from_millis(1));
                let (now, method) = (self.world.clock_now(), route.method.as_str());
                let text = canonical::signed_http(method, &path, &sha256(body.as_bytes()), now);
                request
                    .header("X-Member-Pubkey", key.public().to_hex())
                    .header("X-Timestamp", now.as_millis().to_string())
                    .header("X-Signature", statement::sign(text, key).unwrap().to_hex())
            }
        };
        Answer::of(request).await
    }
}

/// What an answer tells its caller, without what differs from request to request.
fn told(answer: &Answer) -> (u16, Value) {
    let mut body = answer.body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    (answer.status.as_u16(), body)
}

/// AZ-1 and PRM-3 for the routes of administration.
#[tokio::test]
async fn every_caller_gets_exactly_its_answer() {
    every_caller_gets_exactly_its_answer_on(World::start().await).await;
}

#[tokio::test]
async fn every_caller_gets_exactly_its_answer_on_postgres() {
    let Some(world) = World::on_postgres().await else { return };
    every_caller_gets_exactly_its_answer_on(world).await;
}

async fn every_caller_gets_exactly_its_answer_on(world: World) {
    let mut scene = Box::pin(Scene::on(world)).await;
    let mut wrong = Vec::new();
    for route in routes() {
        for caller in &scene.callers {
            let answer = scene.ask(&route, caller).await;
            let got = (answer.status.as_u16(), answer.body["error"].as_str());
            let expected = expected(&route, caller);
            let what = format!("{} {} {} by {}", route.method, route.path, route.body, caller.name);
            if got != expected {
                wrong.push(format!("{what}: {got:?} instead of {expected:?}: {}", answer.body));
            }
            if expected.1.is_some() {
                let id = answer.headers["x-request-id"].to_str().ok();
                assert_eq!(answer.body["request_id"].as_str(), id, "{what}");
                assert!(answer.body["message"].is_string(), "{what}");
            }
            let lacks_flag = match route.needs {
                Needs::Managing | Needs::Promoting => Some("canManagePermissions"),
                Needs::Inviting => Some("canInvite"),
                _ => None,
            };
            if expected == (403, Some("forbidden"))
                && let Some(flag) = lacks_flag
            {
                assert_eq!(answer.body["permission"], flag, "{what}: {}", answer.body);
                let sentence = format!("missing permission \"{flag}\"");
                assert_eq!(answer.body["message"], sentence, "{what}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Whoever may not see the mesh cannot tell it from one that does not exist.
    for route in routes() {
        for place in 0..scene.callers.len() {
            if !matches!(scene.callers[place].standing, Nobody | Unknown | Outsider) {
                continue;
            }
            let seen = scene.ask(&route, &scene.callers[place]).await;
            let (slug, id) = (scene.slug.clone(), scene.id.clone());
            (scene.slug, scene.id) = ("nowhere".to_owned(), MeshId::new(row_id()));
            let missing = scene.ask(&route, &scene.callers[place]).await;
            (scene.slug, scene.id) = (slug, id);
            let name = &scene.callers[place].name;
            assert_eq!(told(&seen), told(&missing), "{} {} by {name}", route.method, route.path);
        }
    }
}

/// What stands under the name of another mesh answers like what does not exist (G-3).
#[tokio::test]
async fn members_and_invites_of_another_mesh_do_not_exist() {
    let scene = Box::pin(Scene::on(World::start().await)).await;
    let owner = scene.callers.iter().find(|caller| caller.name == "owner").unwrap();
    let Shows::Bearer(token) = &owner.shows else { panic!("a bearer") };
    let foreign = scene.world.invite(token, "beta", json!({"max_uses": 1})).await;
    let beta = scene.world.get_as(token, "/cli/mesh/beta/permissions").await.ok();
    let foreign_member = beta["members"][0]["member_id"].as_str().unwrap().to_owned();
    let missing_member = row_id();
    let both = async |method: Method, path: &str, body: Value| {
        let mut answers = Vec::new();
        for (member, code) in [(&*foreign_member, &*foreign), (&*missing_member, "NOSUCHCD")] {
            let path = scene.filled(&path.replace("{m}", member).replace("{c}", code));
            let body: Value =
                serde_json::from_str(&body.to_string().replace("{m}", member)).unwrap();
            let request = scene.world.request(method.clone(), &path).bearer_auth(token);
            answers.push(told(&Answer::of(request.json(&body)).await));
        }
        assert_eq!(answers[0], answers[1], "{method} {path}");
        assert_eq!((answers[0].0, &answers[0].1["error"]), (404, &json!("not_found")));
    };
    both(Method::PATCH, "/mesh/{id}/member/{m}", json!({"roleTag": "x"})).await;
    both(Method::PATCH, "/mesh/{id}/member/{m}", json!({"permission": "admin"})).await;
    let change = json!({"member_id": "{m}", "permissions": {"canSend": false}});
    both(Method::POST, "/cli/mesh/{slug}/permissions", change).await;
    both(Method::DELETE, "/cli/mesh/{slug}/invites/{c}", json!({})).await;
    // And nothing happened to them.
    let invites = scene.world.get_as(token, "/cli/mesh/beta/invites").await.ok();
    assert_eq!(invites["invites"][0]["valid"], true);
}
