//! The document inside a backup: files with their paths, modes and hashes (wire spec §5.14), and what makes it fit to be
//! restored.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use claudemesh_crypto::{backup, hash};
use claudemesh_protocol::Timestamp;
use claudemesh_protocol::encoding::b64_decode;
use claudemesh_protocol::limits::BACKUP_MAX_BYTES;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::CareError;
use super::place::{self, Kind};
use crate::daemon::{LAYOUT_VERSION, VERSION};
use crate::home::config::{Config, ConfigError};
use crate::sessions::key_store;
use crate::settings::Settings;

/// Version of the document.
const DOCUMENT_VERSION: u64 = 1;
/// First bytes of every SQLite database.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// One file.
///
/// # Security
/// Most of them hold keys; no `Debug`.
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// The files of a backup.
///
/// # Security
/// Holds keys; no `Debug`.
pub struct Bundle {
    created_at: String,
    daemon_version: String,
    entries: Vec<Entry>,
    left_out: Vec<String>,
}

/// A bundle whose files are what their names say, and whose memberships were read.
pub struct Verified {
    pub(super) entries: Vec<Entry>,
    pub(super) config: Config,
    created_at: String,
}

#[derive(Serialize)]
struct WrittenDocument<'a> {
    version: u64,
    created_at: &'a str,
    daemon_version: &'a str,
    files: Vec<WrittenFile<'a>>,
}

#[derive(Serialize)]
struct WrittenFile<'a> {
    path: &'a str,
    mode: String,
    sha256: String,
    data_b64: Encoded<'a>,
}

/// Bytes that are encoded on their way into the document: no copy of them stays behind.
struct Encoded<'a>(&'a [u8]);

impl Serialize for Encoded<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Only what is needed to tell a newer document from a damaged one.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Deserialize)]
struct ReadDocument<'a> {
    #[serde(borrow)]
    created_at: Cow<'a, str>,
    #[serde(borrow)]
    daemon_version: Cow<'a, str>,
    #[serde(borrow)]
    files: Vec<ReadFile<'a>>,
}

#[derive(Deserialize)]
struct ReadFile<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    #[serde(borrow)]
    sha256: Cow<'a, str>,
    #[serde(borrow)]
    data_b64: Cow<'a, str>,
}

impl Bundle {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            created_at: now.to_iso(),
            daemon_version: VERSION.to_owned(),
            entries: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds a file of a known place, unless it is in no state to be restored.
    ///
    /// # Errors
    /// It holds the memberships, and they cannot be read.
    pub(super) fn add(
        &mut self,
        path: &str,
        mode: u32,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Result<(), CareError> {
        let Some(kind) = place::kind_of(path) else { return Ok(()) };
        let entry = Entry { path: path.to_owned(), kind, mode, bytes };
        match entry.check() {
            Ok(_) => self.entries.push(entry),
            Err(error) if kind == Kind::Config => return Err(error),
            Err(error) => self.left_out.push(error.to_string()),
        }
        Ok(())
    }

    /// Files that a restore would refuse, and why.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.entries.len()
    }

    /// Seals the bundle into a container. Takes about a second and 256 MiB: call it where it holds nobody up.
    ///
    /// # Errors
    /// [`CareError::Container`] for a weak passphrase, [`CareError::TooLarge`].
    pub fn seal(&self, passphrase: &str) -> Result<Vec<u8>, CareError> {
        let document = self.document()?;
        Ok(backup::seal(&document, passphrase)?)
    }

    /// The document that is sealed.
    ///
    /// # Errors
    /// [`CareError::TooLarge`].
    pub fn document(&self) -> Result<Zeroizing<Vec<u8>>, CareError> {
        let files = self.entries.iter().map(|entry| WrittenFile {
            path: &entry.path,
            mode: format!("{:04o}", entry.mode & 0o7777),
            sha256: hash::sha256_hex(&entry.bytes),
            data_b64: Encoded(&entry.bytes),
        });
        let document = WrittenDocument {
            version: DOCUMENT_VERSION,
            created_at: &self.created_at,
            daemon_version: &self.daemon_version,
            files: files.collect(),
        };
        // Enough room from the start: a buffer that grows leaves copies of keys behind.
        let room =
            self.entries.iter().map(|entry| entry.bytes.len() / 3 * 4 + 2 * entry.path.len() + 256);
        let room = room.sum::<usize>() + 256;
        if room > BACKUP_MAX_BYTES {
            return Err(CareError::TooLarge);
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *bytes, &document)
            .map_err(|error| CareError::Document(error.to_string()))?;
        Ok(bytes)
    }

    /// Opens a container. Slow, see [`Bundle::seal`].
    ///
    /// # Errors
    /// [`CareError::Container`], and [`CareError::Document`] or [`CareError::Newer`] for what is in it.
    pub fn open(container: &[u8], passphrase: &str) -> Result<Self, CareError> {
        let document = backup::open(container, passphrase)?;
        Self::parse(&document)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`CareError::Document`], [`CareError::Newer`].
    pub fn parse(document: &[u8]) -> Result<Self, CareError> {
        let version: Version =
            serde_json::from_slice(document).map_err(|error| unreadable(&error))?;
        if version.version != DOCUMENT_VERSION {
            return Err(CareError::Newer(version.version.to_string()));
        }
        let read: ReadDocument<'_> =
            serde_json::from_slice(document).map_err(|error| unreadable(&error))?;
        let mut paths = BTreeSet::new();
        let mut entries = Vec::with_capacity(read.files.len());
        for file in &read.files {
            let damaged = |what: &str| CareError::Document(format!("{:?} {what}", file.path));
            let kind =
                place::kind_of(&file.path).ok_or_else(|| damaged("is no file of a backup"))?;
            if !paths.insert(file.path.as_ref()) {
                return Err(damaged("stands there twice"));
            }
            let mode = u32::from_str_radix(&file.mode, 8).map_err(|_| damaged("has no mode"))?;
            let bytes = b64_decode(&file.data_b64).map_err(|_| damaged("cannot be decoded"))?;
            let bytes = Zeroizing::new(bytes);
            if hash::sha256_hex(&bytes) != *file.sha256 {
                return Err(damaged("has another content than its hash says"));
            }
            entries.push(Entry { path: file.path.clone().into_owned(), kind, mode, bytes });
        }
        Ok(Self {
            created_at: read.created_at.into_owned(),
            daemon_version: read.daemon_version.into_owned(),
            entries,
            left_out: Vec::new(),
        })
    }

    /// Reads every file as the daemon will, so that nothing unusable is ever put in place.
    ///
    /// # Errors
    /// [`CareError::Document`], [`CareError::Newer`].
    pub fn verify(self) -> Result<Verified, CareError> {
        let mut config = None;
        for entry in &self.entries {
            config = entry.check()?.or(config);
        }
        let config =
            config.ok_or_else(|| CareError::Document("there is no config.json".to_owned()))?;
        Ok(Verified { entries: self.entries, config, created_at: self.created_at })
    }
}

impl Entry {
    /// Reads the file as the daemon will; the memberships when it holds them.
    fn check(&self) -> Result<Option<Config>, CareError> {
        let path = Path::new(&self.path);
        let damaged = |reason: String| CareError::Document(format!("{}: {reason}", self.path));
        match self.kind {
            Kind::Config => match Config::parse(path, &self.bytes, self.mode) {
                Ok(config) => return Ok(Some(config)),
                Err(ConfigError::Newer { version, .. }) => {
                    return Err(CareError::Newer(format!("config.json {version}")));
                }
                // Its own sentence names the path already.
                Err(error) => return Err(CareError::Document(error.to_string())),
            },
            Kind::SessionKey => {
                key_store::parse(&self.bytes).map_err(|error| damaged(error.to_string()))?;
            }
            Kind::Settings => {
                let read = Settings::parse(path, &self.bytes);
                read.map_err(|error| CareError::Document(error.to_string()))?;
            }
            Kind::Layout => {
                let text = String::from_utf8_lossy(&self.bytes);
                let version: u32 =
                    text.trim().parse().map_err(|_| damaged("is no number".to_owned()))?;
                if version > LAYOUT_VERSION {
                    return Err(CareError::Newer(format!("layout {version}")));
                }
            }
            Kind::Json | Kind::Fingerprint | Kind::SessionAnswers => {
                serde_json::from_slice::<serde::de::IgnoredAny>(&self.bytes)
                    .map_err(|error| unreadable_at(&self.path, &error))?;
            }
            Kind::Inbox if !self.bytes.starts_with(SQLITE_MAGIC) => {
                return Err(damaged("is no database".to_owned()));
            }
            Kind::Inbox | Kind::Hook => {}
        }
        Ok(None)
    }
}

impl Verified {
    /// The memberships in it, in their order.
    pub fn meshes(&self) -> Vec<String> {
        self.config.meshes().map(|mesh| mesh.slug.clone()).collect()
    }

    /// When it was made, as the backup says.
    pub fn created_at(&self) -> &str {
        &self.created_at
    }

    /// True when it holds this setting, which names one machine.
    pub fn names_its_host(&self) -> bool {
        let settings = self.entries.iter().find(|entry| entry.kind == Kind::Settings);
        settings
            .and_then(|entry| Settings::parse(Path::new(&entry.path), &entry.bytes).ok())
            .is_some_and(|settings| settings.clone.id_override.is_some())
    }
}

/// serde's own message could quote what stands in the file.
fn unreadable(error: &serde_json::Error) -> CareError {
    CareError::Document(format!("line {}, column {}", error.line(), error.column()))
}

fn unreadable_at(path: &str, error: &serde_json::Error) -> CareError {
    CareError::Document(format!("{path}: line {}, column {}", error.line(), error.column()))
}
