//! Which mesh a verb works on (CLI spec §1.13).

use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::SessionToken;
use claudemesh_protocol::error::{ErrorCode, ExitCode};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::words;

/// What a verb does without `--mesh` when several meshes are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Several {
    /// Reads all of them.
    Aggregate,
    /// Needs one.
    Choose,
}

/// The meshes a verb works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// One.
    One(String),
    /// All joined ones.
    All(Vec<String>),
}

impl Chosen {
    /// The slug, when it is one.
    pub(crate) fn one(&self) -> Option<&str> {
        match self {
            Self::One(slug) => Some(slug),
            Self::All(_) => None,
        }
    }

    /// Every slug.
    pub(crate) fn slugs(&self) -> &[String] {
        match self {
            Self::One(slug) => std::slice::from_ref(slug),
            Self::All(slugs) => slugs,
        }
    }
}

impl Context {
    /// Chooses by the table of §1.13.
    ///
    /// # Errors
    /// Exit 5 when none is joined or the named one is not; exit 3 when one must be named.
    pub(crate) async fn meshes(&self, config: &Config, several: Several) -> Outcome<Chosen> {
        let mut slugs: Vec<String> = config.meshes().map(|mesh| mesh.slug.clone()).collect();
        if self.paths.are_ephemeral() {
            // One that joined by invite has meshes of its own, and only those.
            let theirs = self.meshes_of_daemon().await;
            if theirs.is_none() && slugs.is_empty() {
                return Err(self.ephemeral_has_ended());
            }
            slugs = theirs.unwrap_or(slugs);
        }
        if slugs.is_empty() {
            return Err(no_mesh(config));
        }
        if let Some(wanted) = &self.global.mesh {
            return known(wanted, &slugs).map(Chosen::One);
        }
        if let Some(slug) = self.session_mesh().await
            && slugs.contains(&slug)
        {
            return Ok(Chosen::One(slug));
        }
        match (slugs.as_slice(), several) {
            ([only], _) => Ok(Chosen::One(only.clone())),
            (_, Several::Aggregate) => Ok(Chosen::All(slugs)),
            _ if self.out.may_prompt() => self.out.choose("Mesh", slugs).map(Chosen::One),
            _ => Err(Failure::new(
                ErrorCode::MeshRequired,
                format!("missing --mesh ({} meshes joined: {})", slugs.len(), slugs.join(", ")),
            )
            .with("attached", slugs)),
        }
    }

    /// The meshes that the running daemon has; `None` when none answers.
    async fn meshes_of_daemon(&self) -> Option<Vec<String>> {
        let health = self.running_daemon().await?.health().await.ok()?;
        Some(health.meshes.into_iter().map(|mesh| mesh.slug).collect())
    }

    /// One mesh.
    ///
    /// # Errors
    /// As [`Context::meshes`].
    pub(crate) async fn mesh(&self, config: &Config) -> Outcome<String> {
        match self.meshes(config, Several::Choose).await? {
            Chosen::One(slug) => Ok(slug),
            Chosen::All(_) => Err(Failure::new(ErrorCode::MeshRequired, "missing --mesh")),
        }
    }

    /// The mesh of the enclosing session, when its token is still known to the daemon.
    pub(crate) async fn session_mesh(&self) -> Option<String> {
        SessionToken::from_env()?;
        let client = self.running_daemon().await?;
        client.session().await.ok().map(|session| session.mesh)
    }
}

/// Nothing joined: says what to do about it.
pub(crate) fn no_mesh(config: &Config) -> Failure {
    let has_server = config.default_setting("apiUrl").is_some();
    let action = if has_server { "claudemesh <invite-url>" } else { "claudemesh up" };
    Failure::new(ErrorCode::NoMesh, "no mesh joined")
        .detail(if has_server {
            "or start one here: claudemesh up"
        } else {
            "or join one by its link: claudemesh <invite-url>"
        })
        .action(action)
}

/// The named mesh, which must be joined.
pub(crate) fn known(wanted: &str, slugs: &[String]) -> Outcome<String> {
    if slugs.iter().any(|slug| slug == wanted) {
        return Ok(wanted.to_owned());
    }
    let mut failure =
        Failure::new(ErrorCode::MeshNotAttached, format!("mesh \"{wanted}\" not joined"))
            .exit(ExitCode::NotFound)
            .detail(format!(
                "joined: {}",
                if slugs.is_empty() { "none".to_owned() } else { slugs.join(", ") }
            ));
    if let Some(near) = words::nearest(wanted, slugs.iter().map(String::as_str)) {
        failure = failure.detail(format!("did you mean: {near}"));
    }
    Err(failure.action("claudemesh join <invite-url>"))
}
