//! Capability tokens (daemon spec §16.4): what a running hook may send, to whom exactly, and how often. They live in memory,
//! for one run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claudemesh_crypto::{hash, random};
use claudemesh_protocol::limits::{HOOK_TOKEN_CALLS, HOOK_TOKEN_TTL};
use claudemesh_protocol::{ErrorCode, PublicKey, TargetSpec};
use parking_lot::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::event::Origin;
use super::name::HookName;
use super::section::Scope;
use crate::api::Failure;

/// `Authorization` scheme of a hook's token.
pub(crate) const HOOK_SCHEME: &str = "ClaudeMesh-Hook";
/// First characters of a token.
const PREFIX: &str = "cmhk_";
/// Characters after them: 32 bytes in base64url.
const SECRET_CHARS: usize = 43;

/// The text of a token: in the environment of its hook, and nowhere else.
pub(super) struct CapabilityToken(Zeroizing<String>);

impl CapabilityToken {
    fn generate() -> Self {
        let secret = Zeroizing::new(random::bytes::<32>());
        Self(Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*secret))))
    }

    /// For the environment of the hook.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// What one run of a hook may do.
#[derive(Debug)]
pub(crate) struct Grant {
    hook: HookName,
    mesh: String,
    scopes: Vec<Scope>,
    origin: Option<Origin>,
    calls: AtomicU32,
    until: Instant,
}

impl Grant {
    /// The grant of one run in one mesh.
    pub(super) fn new(
        hook: HookName,
        mesh: String,
        scopes: Vec<Scope>,
        origin: Option<Origin>,
    ) -> Self {
        let until = Instant::now() + HOOK_TOKEN_TTL;
        Self { hook, mesh, scopes, origin, calls: AtomicU32::new(0), until }
    }

    /// The hook it was given to.
    pub(super) const fn hook(&self) -> &HookName {
        &self.hook
    }

    /// The only mesh it is good for.
    pub(crate) fn mesh(&self) -> &str {
        &self.mesh
    }

    /// Automatic answers before what the hook sends.
    pub(crate) fn next_hops(&self) -> u32 {
        self.origin.as_ref().map_or(0, |origin| origin.hops.saturating_add(1))
    }

    /// Calls so far, also refused ones.
    pub(super) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call.
    ///
    /// # Errors
    /// 429 beyond [`HOOK_TOKEN_CALLS`], 401 after [`HOOK_TOKEN_TTL`].
    fn call(&self) -> Result<(), Failure> {
        if Instant::now() >= self.until {
            return Err(unknown());
        }
        if self.calls.fetch_add(1, Ordering::Relaxed) >= HOOK_TOKEN_CALLS {
            let message = format!("a hook's token is good for {HOOK_TOKEN_CALLS} calls");
            return Err(Failure::new(ErrorCode::RateLimited, message));
        }
        Ok(())
    }

    /// Which scope covers a message to this resolved target in this mesh.
    pub(crate) fn covering(
        &self,
        mesh: &str,
        target: &TargetSpec,
        topic: Option<&str>,
    ) -> Option<&Scope> {
        if mesh != self.mesh {
            return None;
        }
        self.scopes.iter().find(|scope| self.covers(scope, target, topic))
    }

    fn covers(&self, scope: &Scope, target: &TargetSpec, topic: Option<&str>) -> bool {
        let own_topic = self.origin.as_ref().and_then(|origin| origin.topic.as_deref());
        match (scope, target) {
            (Scope::Dm(key), TargetSpec::Key(to)) => key == to,
            (Scope::DmSender, TargetSpec::Key(to)) => self.is_sender(*to),
            // Whoever posted in a topic is answered there.
            (Scope::ReplyEvent, TargetSpec::Key(to)) => own_topic.is_none() && self.is_sender(*to),
            (Scope::Topic(name), TargetSpec::Topic(_)) => topic == Some(name),
            (Scope::TopicEvent | Scope::ReplyEvent, TargetSpec::Topic(_)) => {
                topic.is_some() && topic == own_topic
            }
            _ => false,
        }
    }

    fn is_sender(&self, key: PublicKey) -> bool {
        self.origin
            .as_ref()
            .is_some_and(|origin| origin.sender == key || origin.member == Some(key))
    }
}

/// The tokens of the hooks that run now. Their texts are kept as hashes.
#[derive(Default)]
pub(super) struct Tokens {
    live: Mutex<HashMap<[u8; 32], Arc<Grant>>>,
}

impl Tokens {
    /// Makes a token for a run that is about to begin; it dies with what is answered.
    pub(super) fn issue(self: &Arc<Self>, grant: Grant) -> Issued {
        let token = CapabilityToken::generate();
        let key = hash::sha256(token.reveal().as_bytes());
        let grant = Arc::new(grant);
        self.live.lock().insert(key, Arc::clone(&grant));
        Issued { tokens: Arc::clone(self), key, token, grant }
    }

    /// The grant behind a token, counting the call.
    ///
    /// # Errors
    /// 401 for a text that is no token of a running hook, and as [`Grant::call`].
    pub(super) fn admit(&self, text: &str) -> Result<Arc<Grant>, Failure> {
        let secret = text.strip_prefix(PREFIX).ok_or_else(unknown)?;
        if secret.len() != SECRET_CHARS {
            return Err(unknown());
        }
        // Looked up by hash: how long it takes says nothing about the token.
        let key = hash::sha256(text.as_bytes());
        let grant = self.live.lock().get(&key).cloned().ok_or_else(unknown)?;
        grant.call()?;
        Ok(grant)
    }
}

/// A token that is good until this is dropped.
pub(super) struct Issued {
    tokens: Arc<Tokens>,
    key: [u8; 32],
    token: CapabilityToken,
    grant: Arc<Grant>,
}

impl Issued {
    /// The text.
    pub(super) const fn token(&self) -> &CapabilityToken {
        &self.token
    }

    /// What it is good for.
    pub(super) const fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        self.tokens.live.lock().remove(&self.key);
    }
}

fn unknown() -> Failure {
    Failure::new(ErrorCode::InvalidToken, "this is no token of a hook that runs")
}

#[cfg(test)]
mod tests {
    use claudemesh_crypto::KeyPair;

    use super::*;

    fn key() -> PublicKey {
        KeyPair::generate().public()
    }

    fn grant(scopes: Vec<Scope>, origin: Option<Origin>) -> Grant {
        Grant::new(HookName::parse("on-dm").unwrap(), "home".to_owned(), scopes, origin)
    }

    #[test]
    fn scopes_cover_exactly_what_they_name() {
        let (sender, member, other) = (key(), key(), key());
        let dm = Origin { sender, member: Some(member), topic: None, hops: 4 };
        let post = Origin { topic: Some("ci".to_owned()), ..dm.clone() };
        let topic = TargetSpec::Topic("t1".to_owned());
        let covers = |scope: Scope, origin: &Origin, target: &TargetSpec, name: Option<&str>| {
            grant(vec![scope], Some(origin.clone())).covering("home", target, name).is_some()
        };
        let to = TargetSpec::Key;
        for scope in [Scope::ReplyEvent, Scope::DmSender] {
            assert!(covers(scope.clone(), &dm, &to(sender), None));
            assert!(covers(scope.clone(), &dm, &to(member), None));
            assert!(!covers(scope.clone(), &dm, &to(other), None));
            assert!(!covers(scope.clone(), &dm, &TargetSpec::Everyone, None));
            assert!(!covers(scope, &dm, &topic, Some("ci")));
        }
        assert!(covers(Scope::Dm(other), &dm, &to(other), None));
        assert!(!covers(Scope::Dm(other), &dm, &to(sender), None));
        assert!(covers(Scope::ReplyEvent, &post, &topic, Some("ci")));
        assert!(!covers(Scope::ReplyEvent, &post, &topic, Some("other")));
        assert!(!covers(Scope::ReplyEvent, &post, &to(sender), None));
        assert!(covers(Scope::TopicEvent, &post, &topic, Some("ci")));
        assert!(!covers(Scope::TopicEvent, &dm, &topic, None));
        assert!(covers(Scope::Topic("x".to_owned()), &dm, &topic, Some("x")));
        assert!(!covers(Scope::Topic("x".to_owned()), &dm, &topic, None));
        let scoped = grant(vec![Scope::Dm(other)], Some(dm));
        assert!(scoped.covering("work", &to(other), None).is_none());
        assert_eq!(scoped.next_hops(), 5);
    }

    /// §16 Accept 3: use after exit → 401; 21st call → 429.
    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_for_twenty_calls_of_one_run() {
        let tokens = Arc::new(Tokens::default());
        let code = |text: &str| {
            tokens.admit(text).map(|_| ()).map_err(|failure| failure.code().to_owned())
        };
        let issued = tokens.issue(grant(vec![], None));
        let text = issued.token().reveal().to_owned();
        assert_eq!((text.len(), &text[..5]), (48, "cmhk_"));
        for _ in 0..20 {
            assert_eq!(code(&text), Ok(()));
        }
        assert_eq!(code(&text), Err("rate_limited".to_owned()));
        assert_eq!(issued.grant().calls(), 21);
        drop(issued);
        assert_eq!(code(&text), Err("invalid_token".to_owned()));
        for wrong in ["", "cmhk_", &text[5..], &text[..47], &format!("{text}x")] {
            assert_eq!(code(wrong), Err("invalid_token".to_owned()), "{wrong}");
        }
        let late = tokens.issue(grant(vec![], None));
        tokio::time::advance(HOOK_TOKEN_TTL).await;
        assert_eq!(code(late.token().reveal()), Err("invalid_token".to_owned()));
    }
}
