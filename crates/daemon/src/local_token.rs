//! The local token: what proves on TCP, where the system does not tell whose a connection is, that somebody may read the
//! files of this user (daemon spec §9.2, §20.1).

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claudemesh_crypto::hash::constant_time_eq;
use claudemesh_crypto::random;
use claudemesh_protocol::limits::LOCAL_TOKEN_GRACE;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::home::file::{self, Symlinks};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// The token in force, and for a moment the one before it.
///
/// # Security
/// Never shown: clients read the file, which only this user can.
pub(crate) struct LocalTokens {
    path: PathBuf,
    tokens: RwLock<Tokens>,
    /// Held by threads that may block.
    rotating: Mutex<()>,
}

struct Tokens {
    current: Zeroizing<String>,
    former: Option<(Zeroizing<String>, Instant)>,
}

impl LocalTokens {
    /// Reads the file; one that is missing, or holds no token, is made.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let fresh = minted();
        file::create_if_absent(path, line(&fresh).as_bytes(), file::SECRET)?;
        let content = file::read(path, Symlinks::Refuse)?;
        let text =
            content.and_then(|content| std::str::from_utf8(&content.bytes).ok().map(str::to_owned));
        let found = Zeroizing::new(text.unwrap_or_default());
        let current = if is_token(found.trim()) {
            Zeroizing::new(found.trim().to_owned())
        } else {
            file::replace(path, line(&fresh).as_bytes(), file::SECRET, Symlinks::Refuse)?;
            fresh
        };
        let tokens = RwLock::new(Tokens { current, former: None });
        Ok(Self { path: path.to_owned(), tokens, rotating: Mutex::new(()) })
    }

    /// Whether `presented` is the token, or was it until a moment ago. Takes the same time whatever is wrong.
    pub(crate) fn accepts(&self, presented: &str) -> bool {
        let tokens = self.tokens.read();
        let is_current = constant_time_eq(presented.as_bytes(), tokens.current.as_bytes());
        let is_former = tokens.former.as_ref().is_some_and(|(former, until)| {
            constant_time_eq(presented.as_bytes(), former.as_bytes()) & (Instant::now() < *until)
        });
        is_current | is_former
    }

    /// Puts another token in its place. Whoever read the old one has [`LOCAL_TOKEN_GRACE`] to read the new one, which is
    /// taken before anybody can read it. Blocks. Answers the new one.
    ///
    /// # Errors
    /// It cannot be written; the old one stays in force.
    pub(crate) fn rotate(&self) -> io::Result<Zeroizing<String>> {
        let _one_at_a_time = self.rotating.lock();
        let fresh = minted();
        let file = line(&fresh);
        let before = {
            let mut tokens = self.tokens.write();
            let former = (tokens.current.clone(), Instant::now() + LOCAL_TOKEN_GRACE);
            std::mem::replace(&mut *tokens, Tokens { current: fresh.clone(), former: Some(former) })
        };
        let written = file::replace(&self.path, file.as_bytes(), file::SECRET, Symlinks::Refuse);
        if written.is_err() {
            *self.tokens.write() = before;
        }
        written.map(|()| fresh)
    }
}

/// Puts a new token into the file of a daemon that does not run.
///
/// # Errors
/// It cannot be written; the old one stays.
pub(crate) fn renew(path: &Path) -> io::Result<()> {
    file::replace(path, line(&minted()).as_bytes(), file::SECRET, Symlinks::Refuse)
}

fn minted() -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE_NO_PAD.encode(random::bytes::<TOKEN_BYTES>()))
}

fn line(token: &str) -> Zeroizing<String> {
    Zeroizing::new(format!("{token}\n"))
}

fn is_token(text: &str) -> bool {
    URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == TOKEN_BYTES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Daemon spec §20.1: the old token is taken for 60 s after it was replaced, and not longer.
    #[tokio::test(start_paused = true)]
    async fn a_replaced_token_is_taken_for_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local-token");
        let tokens = LocalTokens::load(&path).unwrap();
        let first = written(&path);
        assert!(tokens.accepts(&first));
        tokens.rotate().unwrap();
        let second = written(&path);
        assert!(first != second && tokens.accepts(&first) && tokens.accepts(&second));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(tokens.accepts(&first));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!tokens.accepts(&first) && tokens.accepts(&second));
        for wrong in ["", "x", &second[1..], &format!("{second}x")] {
            assert!(!tokens.accepts(wrong), "{wrong}");
        }
        assert!(
            LocalTokens::load(&path).unwrap().accepts(&second),
            "the next start has the new one"
        );
    }

    #[test]
    fn a_file_that_holds_no_token_is_made_anew() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("local-token");
        for content in ["", "\n", "short\n"] {
            std::fs::write(&path, content).unwrap();
            let tokens = LocalTokens::load(&path).unwrap();
            assert!(
                tokens.accepts(&written(&path)) && !tokens.accepts(content.trim()),
                "{content:?}"
            );
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
