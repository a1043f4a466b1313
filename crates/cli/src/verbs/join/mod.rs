//! `mesh join`: from an invite in any form to a membership of this machine (CLI spec §5.3).

use claudemesh_crypto::KeyPair;
use claudemesh_crypto::hash::sha256_hex;
use claudemesh_daemon::home::config::{Config, MeshEntry};
use claudemesh_protocol::error::{ErrorCode, ExitCode};
use claudemesh_protocol::invite::{InviteLink, InviteLinkError};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{MemberId, MeshId, PublicKey, limits, text};
use serde_json::json;
use zeroize::Zeroizing;

use crate::attach::settled;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::JoinArgs;
use crate::grammar::values;
use crate::local::{PendingJoins, authority, is_at};
use crate::output::{Document, Fields, Report, Screen};

mod code;
mod memory;
mod token;

pub(crate) use memory::{in_memory, leave_all};

/// Keys of the result; the last ones only with `--dry-run`.
pub(crate) const FIELDS: Fields = Fields {
    names: &[
        "slug",
        "meshId",
        "memberId",
        "pubkey",
        "brokerUrl",
        "role",
        "alreadyMember",
        "dryRun",
        "inviter",
        "expiresAt",
        "memberCount",
        "ownerPubkey",
        "valid",
        "reason",
    ],
    id: "meshId",
};

/// Runs the verb.
///
/// # Errors
/// Exit 2 for a bad signature, 3 for no invite, 5 for one that is unknown, expired, revoked or used up, 6 for a name
/// that is taken here, 7 without consent or when banned.
pub(crate) async fn run(context: &Context, args: &JoinArgs) -> Outcome<Report> {
    let config = context.config()?;
    let groups =
        args.groups.as_deref().map(|text| values::groups(&context.spoken, text)).transpose()?;
    let name = display_name(context, &config, args.name.as_deref())?;
    if let Some(alias) = &args.slug {
        alias.parse::<claudemesh_protocol::slug::Slug>().map_err(|error| {
            Failure::invalid(format!("{}: --slug \"{alias}\"", context.spoken))
                .detail(error.to_string())
        })?;
    }
    if let Some(mesh) = config.mesh(args.invite.trim()) {
        return Ok(already_in(mesh));
    }
    let link = parse(context, &args.invite)?;
    context.admit(&[], None).await?;
    let join = Join {
        context,
        config: &config,
        name,
        role: args.role.as_deref(),
        groups: groups.as_deref().unwrap_or_default(),
        alias: args.slug.as_deref(),
        is_dry_run: args.dry_run,
        anew: None,
    };
    let mut report = match link {
        InviteLink::Code { code, base } => join.code(&code, base.as_deref()).await?,
        InviteLink::Token { token, base: _ } => join.token(&token).await?,
    };
    if let (Some(name), Document::Object(map)) = (&args.name, &report.document)
        && map.get("alreadyMember") == Some(&serde_json::Value::Bool(true))
    {
        let command = format!("claudemesh profile edit --display-name {name:?}");
        report.screen.hint(format!("to be called so: {command}"));
    }
    if let (Some(groups), Document::Object(map)) = (groups, &report.document)
        && let Some(slug) = map.get("slug").and_then(serde_json::Value::as_str)
        && !args.dry_run
    {
        for group in groups {
            join_group(context, slug, &group).await;
        }
    }
    Ok(report)
}

/// What a machine becomes another member by.
#[derive(Clone, Copy)]
pub(crate) enum Anew<'a> {
    /// An invite that somebody gave.
    Given(&'a str),
    /// One that this machine made for itself, at a broker that it knows.
    Own {
        /// Its code.
        code: &'a str,
        /// Where it was made.
        server: &'a str,
        /// What the new keys are kept under, for a next attempt with another invite.
        kept_as: &'a str,
    },
}

impl Anew<'_> {
    /// What the new keys are kept under until [`forget`].
    ///
    /// # Errors
    /// Exit 3 for something that is no invite.
    pub(crate) fn kept_as(&self, context: &Context) -> Outcome<String> {
        match self {
            Self::Own { kept_as, .. } => Ok((*kept_as).to_owned()),
            Self::Given(invite) => Ok(match parse(context, invite)? {
                InviteLink::Code { code, .. } => sha256_hex(code.as_bytes()),
                InviteLink::Token { token, .. } => sha256_hex(token.as_bytes()),
            }),
        }
    }
}

/// Joins a mesh that this machine is in already, as another member: its entry gets another member and other keys, which
/// are kept beside it until [`forget`], so that the same words go on where they were broken off.
///
/// # Errors
/// As [`run`]; exit 3 when the invite leads to another mesh.
pub(crate) async fn anew(context: &Context, by: Anew<'_>, slug: &str) -> Outcome<Report> {
    let config = context.config()?;
    let join = Join {
        context,
        config: &config,
        name: display_name(context, &config, None)?,
        role: None,
        groups: &[],
        alias: Some(slug),
        is_dry_run: false,
        anew: Some(by),
    };
    match by {
        Anew::Own { code, server, .. } => join.code(code, Some(server)).await,
        Anew::Given(invite) => match parse(context, invite)? {
            InviteLink::Code { code, base } => join.code(&code, base.as_deref()).await,
            InviteLink::Token { token, base: _ } => join.token(&token).await,
        },
    }
}

/// What there is to say when the keys that are kept under this name are those of the mesh by now: an earlier attempt got
/// that far.
///
/// # Errors
/// Exit 10.
pub(crate) fn already_anew(
    context: &Context,
    kept_as: &str,
    mesh: &MeshEntry,
) -> Outcome<Option<Report>> {
    let kept = PendingJoins::open(context)?.keys(kept_as);
    let kept = kept.and_then(|kept| KeyPair::from_hex(kept.member.reveal()).ok());
    let is_written = kept.is_some_and(|kept| kept.public() == mesh.keys.public());
    Ok(is_written
        .then(|| report_anew(&mesh.slug, &mesh.member_id, None, mesh.keys.public(), Screen::new())))
}

/// Everything is done that the kept keys were for.
///
/// # Errors
/// Exit 10.
pub(crate) fn forget(context: &Context, kept_as: &str) -> Outcome<()> {
    PendingJoins::open(context)?.remove(kept_as)
}

fn parse(context: &Context, invite: &str) -> Outcome<InviteLink> {
    InviteLink::parse(invite, context.plain_http()).map_err(|error| no_invite(context, error))
}

async fn join_group(context: &Context, slug: &str, group: &claudemesh_protocol::Group) {
    let result = match context.daemon_client().await {
        // A daemon that was only just started may still be connecting.
        Ok(client) => {
            let joined = settled(&client, async || {
                let name = group.name.as_str();
                let reply = client.group_join(Some(slug), name, group.role.as_deref()).await;
                reply.map_err(crate::link::failure)
            });
            Box::pin(joined).await.map(drop)
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = result {
        context.out.warning(&format!("not in @{}: {}", group.name, failure.message));
    }
}

/// One join in progress.
struct Join<'a> {
    context: &'a Context,
    config: &'a Config,
    /// The joiner's name.
    name: String,
    /// The joiner's role label.
    role: Option<&'a str>,
    /// The joiner's groups.
    groups: &'a [claudemesh_protocol::Group],
    /// Name of the mesh on this machine.
    alias: Option<&'a str>,
    is_dry_run: bool,
    /// The mesh called [`Join::alias`] is joined already, and gets another member by this.
    anew: Option<Anew<'a>>,
}

/// A membership the server has confirmed.
struct Joined {
    mesh_id: MeshId,
    member_id: MemberId,
    /// Slug at the server.
    slug: String,
    keys: KeyPair,
    broker_url: String,
    role: MemberRole,
    owner: PublicKey,
    root_key: Zeroizing<String>,
    invite_version: u64,
    was_member: bool,
    /// The name the server gave, when another member has the one that was asked for.
    other_name: Option<String>,
}

impl Joined {
    /// The membership as this machine has it, under this name.
    fn entry(&self, slug: &str) -> MeshEntry {
        MeshEntry {
            mesh_id: self.mesh_id.clone(),
            member_id: self.member_id.clone(),
            slug: slug.to_owned(),
            name: self.slug.clone(),
            keys: self.keys.clone(),
            broker_url: self.broker_url.clone(),
            joined_at: Context::now().to_iso(),
            root_key: Some(self.root_key.clone()),
            invite_version: Some(self.invite_version),
            owner_pubkey: Some(self.owner),
            role: Some(self.role),
        }
    }
}

impl Join<'_> {
    /// The keys of a join are not needed any more once it is written; of a machine that becomes another member they are,
    /// until that is done.
    fn forget(&self, kept_as: &str) -> Outcome<()> {
        if self.anew.is_some() { Ok(()) } else { forget(self.context, kept_as) }
    }

    /// Writes the membership; the server that was joined first becomes the default.
    fn write(&self, joined: &Joined, server: &str) -> Outcome<String> {
        let slug = self.alias.unwrap_or(&joined.slug).to_owned();
        let entry = joined.entry(&slug);
        self.context.update_config(|config| {
            if config.display_name().is_none() {
                config.set_display_name(&self.name);
            }
            if self.role.is_some() {
                config.set_role(self.role);
            }
            if !self.groups.is_empty() {
                config.set_groups(self.groups);
            }
            super::create::remember_server(config, server);
            let known = config
                .meshes()
                .find(|mesh| mesh.mesh_id == entry.mesh_id)
                .map(|mesh| mesh.slug.clone());
            if let Some(known) = known {
                // The server answered for the new key: the old one of this machine is no member any more.
                config.change_mesh(&known, |mesh| {
                    *mesh = MeshEntry { slug: mesh.slug.clone(), name: mesh.name.clone(), ..entry };
                });
                return Ok(known);
            }
            if config.mesh(&slug).is_some() {
                return Err(slug_taken(&slug));
            }
            config.add_mesh(entry).map_err(crate::local::config_failure)?;
            Ok(slug)
        })
    }

    /// A mesh that is joined already, by what an invite says before it is used.
    fn known_mesh(&self, slug: &str, broker_url: &str, owner: PublicKey) -> Option<&MeshEntry> {
        self.config.meshes().find(|mesh| {
            mesh.name == slug
                && is_at(mesh, broker_url)
                && mesh.owner_pubkey.is_none_or(|known| known == owner)
        })
    }

    /// What there is to do about a mesh that is joined already: nothing, or to join it as somebody else.
    fn about_known(&self, known: Option<&MeshEntry>) -> Outcome<Option<Report>> {
        let is_meant = known.is_some_and(|mesh| Some(mesh.slug.as_str()) == self.alias);
        match known {
            _ if self.anew.is_some() && !is_meant => {
                let slug = self.alias.unwrap_or_default();
                let message = format!("this invite does not lead to \"{slug}\"");
                Err(Failure::of_word("invalid_invite", message))
            }
            Some(mesh) if self.anew.is_none() => Ok(Some(already_in(mesh))),
            _ => Ok(None),
        }
    }

    /// A name that is taken here stops a join before it uses the invite.
    fn check_slug(&self, slug: &str) -> Outcome<()> {
        if self.anew.is_some() {
            return Ok(());
        }
        let slug = self.alias.unwrap_or(slug);
        if self.config.mesh(slug).is_some() { Err(slug_taken(slug)) } else { Ok(()) }
    }

    /// Asks before a broker other than the default one is used.
    fn consent(&self, link_host: Option<&str>, broker_url: &str, owner: PublicKey) -> Outcome<()> {
        let broker_host = authority(broker_url);
        let default = self.config.default_setting("apiUrl").map(authority);
        let default =
            default.or_else(|| link_host.map(authority)).unwrap_or_else(|| broker_host.clone());
        let is_foreign =
            broker_host != default || link_host.is_some_and(|host| authority(host) != default);
        // An own invite was made there.
        let is_own = matches!(self.anew, Some(Anew::Own { .. }));
        if !is_foreign || is_own || self.is_dry_run || self.context.global.yes {
            return Ok(());
        }
        let mut screen = Screen::new();
        screen.attention("this invite leads to another server");
        screen.pairs(&[
            ("broker", broker_host.clone()),
            ("owner key", format!("{}…  {}", owner.short(16), digits(owner))),
        ]);
        self.context.out.aside(&screen);
        let question = format!("Join through {broker_host}?");
        self.context
            .consent(&question, crate::output::prompt::Default::No)
            .map_err(|failure| failure.with("broker", broker_host.clone()))
    }

    /// Makes sure that somebody takes in what others write from now on: a daemon that lists the mesh, started unless the
    /// caller or the surroundings want none. A member it is in any case.
    async fn receive(&self, slug: &str) -> bool {
        let context = self.context;
        match Box::pin(context.daemon()).await {
            Ok(_) => {
                context.attached(slug).await;
                true
            }
            Err(failure) => {
                if context.is_daemon_wanted() {
                    context.out.warning(&failure.message);
                }
                false
            }
        }
    }

    /// The result, after the daemon was told.
    async fn report(&self, joined: &Joined, slug: &str, note: Option<&str>) -> Report {
        if self.anew.is_some() {
            return self.report_anew(joined, slug);
        }
        let is_received = self.receive(slug).await;
        let mut screen = Screen::new();
        screen.done(format!("joined {slug}"));
        screen.pairs(&[
            ("member", joined.member_id.as_str().chars().take(8).collect()),
            ("pubkey", format!("{}…", joined.keys.public().short(16))),
            ("broker", joined.broker_url.clone()),
            ("role", joined.role.as_str().to_owned()),
        ]);
        if let Some(name) = &joined.other_name {
            screen.attention(format!("another member has your name: you are {name} on {slug}"));
        }
        if let Some(note) = note {
            screen.note(note);
        }
        if is_received {
            screen.hint("see who is there: claudemesh peers");
        } else {
            screen.note("what others write waits at the server until the daemon runs");
            screen.hint("receive it: claudemesh daemon up");
        }
        let document = json!({
            "slug": slug,
            "meshId": joined.mesh_id,
            "memberId": joined.member_id,
            "pubkey": joined.keys.public(),
            "brokerUrl": joined.broker_url,
            "role": joined.role,
            "alreadyMember": joined.was_member,
            "displayName": joined.other_name.as_ref().unwrap_or(&self.name),
        });
        Report::new(Document::object(document), screen)
    }
}

impl Join<'_> {
    fn report_anew(&self, joined: &Joined, slug: &str) -> Report {
        let old = self.config.mesh(slug).map(|mesh| mesh.keys.public());
        let mut screen = Screen::new();
        if let Some(name) = &joined.other_name {
            screen.attention(format!("another member has your name: you are {name} on {slug}"));
        }
        report_anew(slug, &joined.member_id, old, joined.keys.public(), screen)
    }
}

/// A mesh has its new member; `more` is what else there is to say.
fn report_anew(
    slug: &str,
    member: &MemberId,
    old: Option<PublicKey>,
    new: PublicKey,
    more: Screen,
) -> Report {
    let mut screen = Screen::new();
    screen.done(format!("new member {} on {slug}", new.short(16)));
    screen.append(more);
    let document = json!({
        "mesh": slug, "member_id": member, "old_prefix": old.map(|old| old.short(16)),
        "new_prefix": new.short(16),
    });
    Report::new(Document::object(document), screen)
}

/// Exit 0: nothing to do.
fn already_in(mesh: &MeshEntry) -> Report {
    let mut screen = Screen::new();
    screen.done(format!("already in {}", mesh.slug));
    screen.hint("see who is there: claudemesh peers");
    let document = json!({
        "slug": mesh.slug,
        "meshId": mesh.mesh_id,
        "memberId": mesh.member_id,
        "pubkey": mesh.keys.public(),
        "brokerUrl": mesh.broker_url,
        "role": mesh.role,
        "alreadyMember": true,
    });
    Report::new(Document::object(document), screen)
}

/// `--name`, else the stored name, else the OS user.
pub(crate) fn display_name(
    context: &Context,
    config: &Config,
    asked: Option<&str>,
) -> Outcome<String> {
    if let Some(asked) = asked {
        return text::display_name(asked, limits::MEMBER_NAME_MAX_CHARS).map_err(|error| {
            Failure::invalid(format!("{}: --name", context.spoken)).detail(error.to_string())
        });
    }
    let stored = config.display_name().map(str::to_owned);
    let user = || super::up::person(&context.environment);
    let name = stored.unwrap_or_else(user);
    Ok(text::display_name(&name, limits::MEMBER_NAME_MAX_CHARS)
        .unwrap_or_else(|_| "member".to_owned()))
}

fn no_invite(context: &Context, error: InviteLinkError) -> Failure {
    match error {
        InviteLinkError::Insecure => Failure::invalid(format!("{}: {error}", context.spoken))
            .detail(
                "who talks to whom and sign-in tokens would be visible; messages stay encrypted",
            )
            .action("set CLAUDEMESH_ALLOW_INSECURE=1 to allow it"),
        _ => Failure::of_word("invalid_invite", format!("{}: not an invite", context.spoken))
            .detail("expected: https://<server>/i/XXXXXXXX"),
    }
}

fn slug_taken(slug: &str) -> Failure {
    Failure::new(ErrorCode::SlugTaken, format!("another mesh is called \"{slug}\" on this machine"))
        .action("claudemesh join <invite> --slug <alias>")
        .with("slug", slug)
}

/// A refusal of the server about the invite itself; `masked` names the invite without giving it away.
fn refused(failure: Failure, masked: &str) -> Failure {
    let sentence = match failure.code.as_str() {
        "expired" | "invite_expired" => "has expired",
        "revoked" | "invite_revoked" => "was revoked",
        "exhausted" | "invite_exhausted" => "has been used up",
        "mesh_archived" => "leads to a mesh that was closed",
        "not_found" | "invite_not_found" | "mesh_not_found" => "is unknown to the server",
        "banned" => {
            return Failure { message: "you are banned from this mesh".to_owned(), ..failure };
        }
        "bad_signature" | "invite_bad_signature" => {
            return Failure {
                message: "the server refused the proof of your key".to_owned(),
                ..failure
            };
        }
        _ => return failure,
    };
    Failure {
        message: format!("the invite {masked} {sentence}"),
        exit: ExitCode::NotFound as u8,
        ..failure
    }
    .action("ask for a new invite")
}

/// A signature of the answer does not hold.
fn forged(what: &str) -> Failure {
    Failure::new(ErrorCode::BadSignature, format!("the invite is not genuine: {what}"))
        .detail("nothing was changed on this machine")
        .action("ask the owner for a new invite")
}

/// Six groups of five digits of a key, to compare aloud.
fn digits(key: PublicKey) -> String {
    let digest = claudemesh_crypto::hash::sha256(key.as_bytes());
    let groups: Vec<String> = digest
        .chunks_exact(5)
        .take(6)
        .map(|bytes| {
            let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            format!("{:05}", number % 100_000)
        })
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_reasons_become_sentences_with_exit_5() {
        for (code, words) in [
            ("expired", "expired"),
            ("revoked", "revoked"),
            ("exhausted", "used up"),
            ("not_found", "unknown"),
            ("mesh_archived", "closed"),
        ] {
            let failure = refused(Failure::of_word(code, "x"), "/i/AB***");
            assert_eq!(failure.exit, 5, "{code}");
            assert!(failure.message.contains(words), "{}", failure.message);
        }
        assert_eq!(refused(Failure::of_word("banned", "x"), "y").exit, 7);
        assert_eq!(refused(Failure::of_word("bad_signature", "x"), "y").exit, 2);
        assert_eq!(refused(Failure::of_word("rate_limited", "x"), "y").exit, 4);
    }

    #[test]
    fn a_key_reads_as_six_groups() {
        let text = digits(PublicKey::from_bytes([7; 32]));
        assert_eq!((text.len(), text.split(' ').count()), (35, 6));
    }
}
