//! Who a message is for, as far as the command line decides it: the mesh in `name@mesh`, and the shape of the target.
//! Names and prefixes are resolved by the daemon from its roster (CLI spec §1.14, daemon spec §10.2).

use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::{PeerEntry, SendReply};
use claudemesh_ipc::client::PeerFilter;
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::group::GroupName;
use claudemesh_protocol::limits::KEY_PREFIX_MIN_CHARS;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::link;

/// Characters of a whole key.
const KEY_CHARS: usize = 64;

/// What a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One peer or member.
    Direct,
    /// A group or everybody.
    Many,
}

/// A target as it goes to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// As the daemon reads it.
    pub(super) to: String,
    /// The mesh, when it is known already.
    pub(super) mesh: Option<String>,
    /// Its kind.
    pub(super) kind: Kind,
}

impl Target {
    /// Reads what was typed.
    ///
    /// # Errors
    /// Exit 3 for an empty target, a bad group name, or a group without a mesh when several are joined.
    pub(super) fn read(
        context: &Context,
        config: &Config,
        typed: &str,
        mesh: Option<String>,
    ) -> Outcome<Self> {
        let typed = typed.trim();
        let bad = |why: &str| {
            Failure::new(ErrorCode::InvalidTarget, format!("{} \"{typed}\"", context.spoken))
                .detail(why.to_owned())
        };
        if typed.is_empty() {
            return Err(bad("expected: a name, a key, @group or @all"));
        }
        if typed.starts_with('#') {
            return Err(bad("expected: a name, a key, @group or @all")
                .detail("topics are not part of this version"));
        }
        let is_joined = |slug: &str| config.mesh(slug).is_some();
        let (to, at_mesh) = match typed.rsplit_once('@') {
            Some((name, slug)) if !name.is_empty() && is_joined(slug) => {
                (name, Some(slug.to_owned()))
            }
            _ => match typed.split_once(':') {
                Some((slug, name)) if !name.is_empty() && is_joined(slug) => {
                    (name, Some(slug.to_owned()))
                }
                _ => (typed, None),
            },
        };
        if let (Some(asked), Some(named)) = (&context.global.mesh, &at_mesh)
            && asked != named
        {
            return Err(bad("--mesh names another mesh than the target"));
        }
        let mesh = at_mesh.or(mesh);
        let is_many = to == "*" || to.starts_with('@');
        if let Some(group) = to.strip_prefix('@').filter(|group| *group != "all") {
            group.parse::<GroupName>().map_err(|error| bad(&error.to_string()))?;
        }
        if is_many && mesh.is_none() {
            let slugs: Vec<String> = config.meshes().map(|mesh| mesh.slug.clone()).collect();
            let list = slugs.join(", ");
            let message = format!("missing --mesh ({} meshes joined: {list})", slugs.len());
            return Err(Failure::new(ErrorCode::MeshRequired, message).with("attached", slugs));
        }
        let kind = if is_many { Kind::Many } else { Kind::Direct };
        Ok(Self { to: to.to_owned(), mesh, kind })
    }

    /// True for what a roster must know before it can be addressed.
    pub(super) fn is_by_name(&self) -> bool {
        self.kind == Kind::Direct && self.to.len() != KEY_CHARS
    }

    /// True for keys and what may be a prefix of one.
    fn is_key_like(&self) -> bool {
        (KEY_PREFIX_MIN_CHARS..=KEY_CHARS).contains(&self.to.len())
            && self.to.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    fn matches(&self, peer: &PeerEntry) -> bool {
        if peer.is_this_session || peer.is_self && self.kind == Kind::Many {
            return false;
        }
        if self.to == "*" || self.to == "@all" {
            return true;
        }
        if let Some(group) =
            self.to.strip_prefix('@').and_then(|name| name.parse::<GroupName>().ok())
        {
            return peer.row.groups.iter().any(|own| own.name.is_within(&group));
        }
        let prefix = self.to.to_ascii_lowercase();
        let has_prefix = |key: String| self.is_key_like() && key.starts_with(&prefix);
        peer.row.display_name.to_lowercase() == self.to.to_lowercase()
            || has_prefix(peer.row.pubkey.to_hex())
            || peer.row.member_pubkey.is_some_and(|key| has_prefix(key.to_hex()))
    }

    /// Refuses when nobody the target names is connected now.
    ///
    /// # Errors
    /// Exit 5; nothing was sent.
    pub(super) async fn require_online(&self, client: &Client) -> Outcome<()> {
        let reply = client
            .peers(self.mesh.as_deref(), PeerFilter::Reachable)
            .await
            .map_err(link::failure)?;
        if reply.peers.iter().any(|peer| self.matches(peer)) {
            return Ok(());
        }
        let to = claudemesh_protocol::text::sanitized_line(&self.to, 60);
        Err(Failure::new(ErrorCode::RecipientOffline, format!("\"{to}\" is not connected"))
            .exit(ExitCode::NotFound)
            .detail("nothing was sent")
            .action("send without --require-online to leave it waiting"))
    }

    /// What to call the recipient: the name that was typed, else the one of that key, else its first characters.
    pub(super) async fn name(
        &self,
        context: &Context,
        client: &Client,
        reply: &SendReply,
    ) -> String {
        if self.kind == Kind::Many || !self.is_key_like() {
            return self.to.clone();
        }
        let short: String = format!("{}…", reply.target.chars().take(16).collect::<String>());
        if context.out.is_json() {
            return short;
        }
        let known = client.peers(Some(&reply.mesh), PeerFilter::Reachable).await;
        let peers = known.map(|known| known.peers).unwrap_or_default();
        let is_target = |peer: &&PeerEntry| {
            peer.row.pubkey.to_hex() == reply.target
                || peer.row.member_pubkey.is_some_and(|key| key.to_hex() == reply.target)
        };
        peers.iter().find(is_target).map_or(short, |peer| peer.row.display_name.clone())
    }
}
