//! Joining for a daemon that leaves nothing behind: keys and membership go back to the caller, and into no file (daemon spec
//! §4.1).

use claudemesh_crypto::KeyPair;
use claudemesh_daemon::home::config::MeshEntry;
use claudemesh_protocol::invite::InviteLink;

use super::code::{Keys, masked};
use super::{Join, display_name, parse, refused, slug_taken, token};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::remote::{http_failure, no_server};
use crate::verbs::leave::release;

/// Joins by each of the invites. Nothing is kept for another attempt: an answer that is lost costs one use of an invite.
///
/// # Errors
/// As [`super::run`]; what was joined by then is left again.
pub(crate) async fn in_memory(context: &Context, invites: &[String]) -> Outcome<Vec<MeshEntry>> {
    let mut links = Vec::with_capacity(invites.len());
    for invite in invites {
        links.push(parse(context, invite)?);
    }
    let config = context.config()?;
    context.admit(&[], None).await?;
    let join = Join {
        context,
        config: &config,
        name: display_name(context, &config, None)?,
        role: None,
        groups: &[],
        alias: None,
        is_dry_run: false,
        anew: None,
    };
    let mut members: Vec<MeshEntry> = Vec::with_capacity(links.len());
    for link in links {
        let joined = match link {
            InviteLink::Code { code, base } => join.member_by_code(&code, base.as_deref()).await,
            InviteLink::Token { token, base: _ } => join.member_by_token(&token).await,
        };
        let is_twice = |entry: &MeshEntry| members.iter().any(|other| other.slug == entry.slug);
        let failure = match joined {
            Ok(entry) if is_twice(&entry) => {
                let failure = slug_taken(&entry.slug);
                members.push(entry);
                failure
            }
            Ok(entry) => {
                members.push(entry);
                continue;
            }
            Err(failure) => failure,
        };
        leave_all(context, &members).await;
        return Err(failure);
    }
    Ok(members)
}

/// Gives up memberships that nobody will use.
pub(crate) async fn leave_all(context: &Context, members: &[MeshEntry]) {
    for member in members {
        if !release(context, member).await {
            context.out.warning(&format!("a member stays behind in {}", member.slug));
        }
    }
}

impl Join<'_> {
    async fn member_by_code(&self, code: &str, base: Option<&str>) -> Outcome<MeshEntry> {
        let (context, masked) = (self.context, masked(code));
        let server = base.map(str::to_owned).or_else(|| context.server(self.config, None));
        let http = context.http(&server.ok_or_else(no_server)?)?;
        let preview = context.out.during("looking at the invite", http.preview(code)).await;
        let preview =
            preview.map_err(|error| refused(http_failure(error, http.base()), &masked))?;
        if let (false, Some(reason)) = (preview.valid, &preview.reason) {
            return Err(refused(Failure::of_word(reason, reason.replace('_', " ")), &masked));
        }
        self.consent(base, &preview.broker_url, preview.owner_pubkey)?;
        let environment = &context.environment;
        let claim_base = environment.claim_url.as_ref().or(environment.broker_http.as_ref());
        let broker = context.http(claim_base.unwrap_or(&preview.broker_url))?;
        let keys = Keys::fresh();
        let request = keys.claim(code, &self.name)?;
        let reply = context.out.during("joining", broker.claim(code, &request)).await;
        let reply = reply.map_err(|error| refused(http_failure(error, broker.base()), &masked))?;
        let joined = keys.joined(reply, &preview, &self.name)?;
        Ok(joined.entry(&joined.slug))
    }

    async fn member_by_token(&self, text: &str) -> Outcome<MeshEntry> {
        let context = self.context;
        let invite = token::genuine(context, text)?;
        self.consent(None, &invite.broker_url, invite.owner_pubkey)?;
        let server = context.environment.broker_http.as_deref().unwrap_or(&invite.broker_url);
        let http = context.http(server)?;
        let keys = KeyPair::generate();
        let request = token::request(&invite, text, &keys, &self.name)?;
        let reply = context.out.during("joining", http.join_v1(&request)).await;
        let reply =
            reply.map_err(|error| refused(http_failure(error, http.base()), token::MASKED))?;
        let joined = token::joined(&invite, reply, keys, &self.name);
        Ok(joined.entry(&joined.slug))
    }
}
