//! Where the passphrase of a backup comes from: a file, a descriptor, or a person, who types it unseen (CLI spec §6.10).
//! Never from the command line or a variable, which other processes can read.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use claudemesh_protocol::error::ErrorCode;
use claudemesh_protocol::limits::{BACKUP_PASSPHRASE_MIN_CHARS, PASSPHRASE_FILE_MAX_BYTES};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::grammar::args::PassphraseArgs;

/// A passphrase. No `Debug`; wiped on drop.
pub(crate) type Passphrase = Zeroizing<String>;

/// What it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is new: a person types it twice, and a short one is refused.
    Protect,
    /// It is known to whoever made the backup.
    Open,
}

impl Context {
    /// Reads or asks for the passphrase.
    ///
    /// # Errors
    /// Exit 3 when it is too short, or when nobody can be asked; exit 10 for a file that cannot be read; exit 1 when the
    /// person breaks off or types two different ones.
    pub(crate) fn passphrase(
        &self,
        given: &PassphraseArgs,
        purpose: Purpose,
    ) -> Outcome<Passphrase> {
        let passphrase = match self.passphrase_source(given) {
            Some(Source::File(path)) => {
                self.warn_of_open_file(&path);
                read_first_line(&path, &path.display().to_string())?
            }
            Some(Source::Descriptor(number)) => {
                // The descriptor is ours already; its path opens it without taking it out of anybody's hands.
                let path = PathBuf::from(format!("/dev/fd/{number}"));
                read_first_line(&path, &format!("file descriptor {number}"))?
            }
            None if self.out.may_prompt() => self.typed(purpose)?,
            None => {
                return Err(Failure::invalid(format!(
                    "{}: missing --passphrase-file",
                    self.spoken
                ))
                .detail("nobody can be asked here")
                .action("pass --passphrase-file FILE, or run it in a terminal"));
            }
        };
        if purpose == Purpose::Protect {
            check_length(&passphrase)?;
        }
        Ok(passphrase)
    }

    fn passphrase_source(&self, given: &PassphraseArgs) -> Option<Source> {
        let file = given.passphrase_file.clone().map(Source::File);
        file.or(given.passphrase_fd.map(Source::Descriptor))
            .or_else(|| self.environment.backup_passphrase_file.clone().map(Source::File))
    }

    fn typed(&self, purpose: Purpose) -> Outcome<Passphrase> {
        let terminal = self.out.hidden()?;
        let first = terminal.ask("passphrase of the backup")?;
        if purpose == Purpose::Open {
            return Ok(first);
        }
        check_length(&first)?;
        let second = terminal.ask("the same once more")?;
        if *first == *second {
            return Ok(first);
        }
        Err(Failure::invalid("the two passphrases differ").action("run it again"))
    }

    fn warn_of_open_file(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        let is_open = std::fs::metadata(path)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o077 != 0);
        if is_open {
            let path = path.display();
            self.out.warning(&format!("{path} can be read by others: chmod 600 {path}"));
        }
    }
}

enum Source {
    File(PathBuf),
    Descriptor(u32),
}

fn check_length(passphrase: &str) -> Outcome<()> {
    if passphrase.chars().count() >= BACKUP_PASSPHRASE_MIN_CHARS {
        return Ok(());
    }
    let least = format!("a passphrase has at least {BACKUP_PASSPHRASE_MIN_CHARS} characters");
    Err(Failure::new(ErrorCode::WeakPassphrase, least))
}

/// The first line, without its end.
fn read_first_line(path: &Path, name: &str) -> Outcome<Passphrase> {
    let fail = |error: std::io::Error| Failure::io(format!("cannot read {name}"), &error);
    // One buffer of full size: a growing one leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_FILE_MAX_BYTES + 1));
    let file = File::open(path).map_err(fail)?;
    file.take(PASSPHRASE_FILE_MAX_BYTES as u64).read_to_end(&mut bytes).map_err(fail)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok("") => Err(Failure::invalid(format!("{name} holds no passphrase"))),
        Ok(line) => Ok(Zeroizing::new(line.to_owned())),
        Err(_) => Err(Failure::invalid(format!("{name} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        for (content, line) in [
            ("correct horse\n", Some("correct horse")),
            ("correct horse\r\nnot this", Some("correct horse")),
            (" kept as it is ", Some(" kept as it is ")),
            ("", None),
            ("\nbelow", None),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(
                read_first_line(&path, "p").ok().map(|read| read.to_string()).as_deref(),
                line,
                "{content:?}"
            );
        }
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(read_first_line(&path, "p").map(drop).unwrap_err().exit, 3);
        assert_eq!(read_first_line(&dir.path().join("q"), "q").map(drop).unwrap_err().exit, 10);
    }
}
