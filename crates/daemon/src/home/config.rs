//! `config.json`: the joined meshes and the user's defaults (CLI spec §2.2). Typed where we know the meaning,
//! preserved byte for meaning where we do not: unknown keys, key order, indentation, trailing newline, file mode.

use std::io;
use std::path::{Path, PathBuf};

use claudemesh_crypto::{KeyPair, SecretKeyError};
use claudemesh_protocol::status::MemberRole;
use claudemesh_protocol::{Group, MemberId, MeshId, PublicKey};
use serde::Serialize as _;
use serde_json::{Map, Value};
use zeroize::{Zeroize as _, Zeroizing};

use super::file::{self, FileLock, Symlinks};

/// Version of the file this build writes.
pub const CONFIG_VERSION: u64 = 1;

/// A mesh this user is a member of.
///
/// # Security
/// Holds the member's secret key; no `Debug`.
#[derive(Clone)]
pub struct MeshEntry {
    /// Id at the broker.
    pub mesh_id: MeshId,
    /// Our member id.
    pub member_id: MemberId,
    /// Short name, unique in the file.
    pub slug: String,
    /// Name for people.
    pub name: String,
    /// The member's key pair.
    pub keys: KeyPair,
    /// WebSocket address of the broker.
    pub broker_url: String,
    /// ISO time of the join.
    pub joined_at: String,
    /// Mesh root key, base64url, when the invite carried one.
    pub root_key: Option<Zeroizing<String>>,
    /// Version of the invite it was joined with.
    pub invite_version: Option<u64>,
    /// Key of the mesh owner.
    pub owner_pubkey: Option<PublicKey>,
    /// Our role.
    pub role: Option<MemberRole>,
}

/// Why `config.json` could not be used. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read, written or locked.
    #[error("cannot use {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// It is no JSON.
    #[error("{} is damaged at line {line}, column {column}: {reason}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser found.
        reason: String,
    },
    /// It is JSON of another shape.
    #[error("{} is damaged: {reason}", .path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Which field, and what is wrong with it.
        reason: String,
    },
    /// A newer program wrote it.
    #[error("{} is a config written by a newer version ({version}); install that version", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version it names.
        version: u64,
    },
    /// The mesh is there already.
    #[error("the mesh \"{slug}\" is joined already in {}", .path.display())]
    AlreadyJoined {
        /// The file.
        path: PathBuf,
        /// The slug or mesh id that would occur twice.
        slug: String,
    },
}

/// How a read-modify-write ended when not well.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The change itself refused; nothing was written.
    #[error("{0}")]
    Refused(E),
}

/// The content of one `config.json`.
pub struct Config {
    path: PathBuf,
    top: Map<String, Value>,
    meshes: Vec<Joined>,
    style: Style,
    mode: u32,
    existed: bool,
}

/// A mesh with everything the file says about it; its secrets are `null` in `raw`.
struct Joined {
    entry: MeshEntry,
    raw: Map<String, Value>,
}

struct Style {
    indent: String,
    trailing_newline: bool,
}

impl Config {
    /// Reads the file; a missing one is an empty config.
    ///
    /// # Errors
    /// [`ConfigError`]; a damaged file is never taken for an empty one.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let content = file::read(path, Symlinks::Follow)
            .map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        match content {
            None => Ok(Self::empty(path)),
            Some(content) => Self::parse(path, &content.bytes, content.mode),
        }
    }

    /// Changes the file: locks it, reads it afresh, applies `change`, writes it as a whole. Blocks the thread for at
    /// most 2 s while another program holds the lock.
    ///
    /// # Errors
    /// [`UpdateError::Config`], and [`UpdateError::Refused`] with what `change` answered; the file is then as it was.
    pub fn update<T, E>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, UpdateError<E>> {
        let io_error = |source| ConfigError::Io { path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            file::create_private_dir(dir).map_err(io_error)?;
        }
        let _lock = FileLock::wait(&lock_file_of(path)).map_err(io_error)?;
        let mut config = Self::read(path)?;
        let result = change(&mut config).map_err(UpdateError::Refused)?;
        config.write()?;
        Ok(result)
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when others may read the file; the reader says so once (CLI spec §2.4).
    pub const fn is_open_to_others(&self) -> bool {
        self.existed && self.mode & 0o077 != 0
    }

    /// The joined meshes, in file order.
    pub fn meshes(&self) -> impl ExactSizeIterator<Item = &MeshEntry> {
        self.meshes.iter().map(|joined| &joined.entry)
    }

    /// The mesh of that slug.
    pub fn mesh(&self, slug: &str) -> Option<&MeshEntry> {
        self.meshes().find(|entry| entry.slug == slug)
    }

    /// Adds a mesh at the end.
    ///
    /// # Errors
    /// [`ConfigError::AlreadyJoined`] when its slug or id is there.
    pub fn add_mesh(&mut self, entry: MeshEntry) -> Result<(), ConfigError> {
        if self.meshes().any(|other| other.slug == entry.slug || other.mesh_id == entry.mesh_id) {
            return Err(ConfigError::AlreadyJoined { path: self.path.clone(), slug: entry.slug });
        }
        self.meshes.push(Joined { entry, raw: Map::new() });
        Ok(())
    }

    /// Removes a mesh, and the default that names it.
    pub fn remove_mesh(&mut self, slug: &str) -> Option<MeshEntry> {
        let at = self.meshes.iter().position(|joined| joined.entry.slug == slug)?;
        if self.default_mesh() == Some(slug) {
            self.top.shift_remove("default_mesh");
        }
        Some(self.meshes.remove(at).entry)
    }

    /// Changes a mesh; `None` when there is none of that slug.
    pub fn change_mesh<T>(
        &mut self,
        slug: &str,
        change: impl FnOnce(&mut MeshEntry) -> T,
    ) -> Option<T> {
        let joined = self.meshes.iter_mut().find(|joined| joined.entry.slug == slug)?;
        Some(change(&mut joined.entry))
    }

    /// `displayName`.
    pub fn display_name(&self) -> Option<&str> {
        self.text("displayName")
    }

    /// Sets `displayName`.
    pub fn set_display_name(&mut self, name: &str) {
        self.top.insert("displayName".to_owned(), name.into());
    }

    /// `role`.
    pub fn role(&self) -> Option<&str> {
        self.text("role")
    }

    /// `groups`; entries that are no groups are left out.
    pub fn groups(&self) -> Vec<Group> {
        let rows = self.top.get("groups").and_then(Value::as_array);
        rows.into_iter()
            .flatten()
            .filter_map(|row| serde_json::from_value(row.clone()).ok())
            .collect()
    }

    /// Sets or removes `role`.
    pub fn set_role(&mut self, role: Option<&str>) {
        match role {
            Some(role) => self.top.insert("role".to_owned(), role.into()),
            None => self.top.shift_remove("role"),
        };
    }

    /// Sets `groups`.
    pub fn set_groups(&mut self, groups: &[Group]) {
        let rows = groups.iter().filter_map(|group| serde_json::to_value(group).ok()).collect();
        self.top.insert("groups".to_owned(), Value::Array(rows));
    }

    /// `messageMode`: `push`, `inbox` or `off`.
    pub fn message_mode(&self) -> Option<&str> {
        self.text("messageMode")
    }

    /// `accountId`.
    pub fn account_id(&self) -> Option<&str> {
        self.text("accountId")
    }

    /// `default_mesh`.
    pub fn default_mesh(&self) -> Option<&str> {
        self.text("default_mesh")
    }

    /// Sets or removes `default_mesh`.
    pub fn set_default_mesh(&mut self, slug: Option<&str>) {
        match slug {
            Some(slug) => self.top.insert("default_mesh".to_owned(), slug.into()),
            None => self.top.shift_remove("default_mesh"),
        };
    }

    /// `defaults.<name>`, such as `brokerUrl` and `apiUrl`.
    pub fn default_setting(&self, name: &str) -> Option<&str> {
        self.top.get("defaults")?.get(name)?.as_str()
    }

    /// Sets `defaults.<name>`.
    pub fn set_default_setting(&mut self, name: &str, value: &str) {
        let defaults = self.top.entry("defaults").or_insert_with(|| Value::Object(Map::new()));
        if !defaults.is_object() {
            *defaults = Value::Object(Map::new());
        }
        if let Some(defaults) = defaults.as_object_mut() {
            defaults.insert(name.to_owned(), value.into());
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.top.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    fn empty(path: &Path) -> Self {
        let top = Map::from_iter([
            ("version".to_owned(), Value::from(CONFIG_VERSION)),
            ("meshes".to_owned(), Value::Array(Vec::new())),
        ]);
        let style = Style { indent: "  ".to_owned(), trailing_newline: true };
        Self {
            path: path.to_owned(),
            top,
            meshes: Vec::new(),
            style,
            mode: file::SECRET,
            existed: false,
        }
    }

    /// Reads the content of a file that need not be there (yet).
    pub(crate) fn parse(path: &Path, bytes: &[u8], mode: u32) -> Result<Self, ConfigError> {
        let shape = |reason: String| ConfigError::Shape { path: path.to_owned(), reason };
        let mut top: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| ConfigError::Syntax {
                path: path.to_owned(),
                line: error.line(),
                column: error.column(),
                reason: error.to_string(),
            })?;
        match top.get("version") {
            None => {}
            Some(version) => match version.as_u64() {
                Some(version) if version > CONFIG_VERSION => {
                    return Err(ConfigError::Newer { path: path.to_owned(), version });
                }
                Some(_) => {}
                None => return Err(shape("\"version\" is no number".to_owned())),
            },
        }
        let rows = match top.get_mut("meshes") {
            None => Vec::new(),
            Some(Value::Array(rows)) => std::mem::take(rows),
            Some(_) => return Err(shape("\"meshes\" is no list".to_owned())),
        };
        let mut meshes = Vec::with_capacity(rows.len());
        for (index, row) in rows.into_iter().enumerate() {
            let Value::Object(raw) = row else {
                return Err(shape(format!("meshes[{index}] is no object")));
            };
            let joined =
                Joined::read(raw).map_err(|reason| shape(format!("meshes[{index}]: {reason}")))?;
            meshes.push(joined);
        }
        for (index, joined) in meshes.iter().enumerate() {
            let entry = &joined.entry;
            let same = |other: &&Joined| {
                other.entry.slug == entry.slug || other.entry.mesh_id == entry.mesh_id
            };
            if meshes.iter().take(index).find(same).is_some() {
                return Err(shape(format!("the mesh \"{}\" stands there twice", entry.slug)));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            top,
            meshes,
            style: Style::of(bytes),
            mode,
            existed: true,
        })
    }

    /// A config of memberships that no file has.
    ///
    /// # Errors
    /// [`ConfigError::AlreadyJoined`] when two are of one mesh or have one name.
    pub(crate) fn of_members(path: &Path, members: &[MeshEntry]) -> Result<Self, ConfigError> {
        let mut config = Self::empty(path);
        for member in members {
            config.add_mesh(member.clone())?;
        }
        Ok(config)
    }

    /// Memberships as one process hands them to another, over a pipe.
    ///
    /// # Errors
    /// Any I/O error of the encoder.
    pub fn handed_over(members: &[MeshEntry]) -> io::Result<Zeroizing<Vec<u8>>> {
        let config = Self::of_members(Path::new("-"), members).map_err(io::Error::other)?;
        config.bytes()
    }

    /// What [`Config::handed_over`] wrote.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn taken_over(bytes: &[u8]) -> Result<Vec<MeshEntry>, ConfigError> {
        let config = Self::parse(Path::new("-"), bytes, file::SECRET)?;
        Ok(config.meshes.into_iter().map(|joined| joined.entry).collect())
    }

    fn bytes(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut top = self.top.clone();
        if !top.contains_key("version") {
            top.insert("version".to_owned(), CONFIG_VERSION.into());
        }
        let rows = self.meshes.iter().map(|joined| Value::Object(joined.to_raw())).collect();
        top.insert("meshes".to_owned(), Value::Array(rows));
        let mut document = Value::Object(top);
        let bytes = self.style.write(&document);
        wipe_secrets(&mut document);
        bytes
    }

    fn write(&self) -> Result<(), ConfigError> {
        let mode = if self.existed { self.mode } else { file::SECRET };
        self.bytes()
            .and_then(|bytes| file::replace(&self.path, &bytes, mode, Symlinks::Follow))
            .map_err(|source| ConfigError::Io { path: self.path.clone(), source })
    }
}

impl Joined {
    fn read(mut raw: Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str| -> Result<String, String> {
            match raw.get(key).and_then(Value::as_str) {
                Some(text) if !text.is_empty() => Ok(text.to_owned()),
                _ => Err(format!("\"{key}\" is missing")),
            }
        };
        let slug = text("slug")?;
        let is_file_name =
            slug.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        if !is_file_name || slug.starts_with('.') {
            return Err(format!("{slug:?} is no mesh name"));
        }
        let pubkey: PublicKey =
            text("pubkey")?.parse().map_err(|error| format!("\"pubkey\": {error}"))?;
        let owner_pubkey = match raw.get("ownerPubkey").and_then(Value::as_str) {
            None => None,
            Some(text) => Some(text.parse().map_err(|error| format!("\"ownerPubkey\": {error}"))?),
        };
        let mut entry = MeshEntry {
            mesh_id: MeshId::new(text("meshId")?),
            member_id: MemberId::new(text("memberId")?),
            name: raw.get("name").and_then(Value::as_str).unwrap_or(&slug).to_owned(),
            slug,
            // Set from the secret below; an own key pair is cheaper than a second struct without it.
            keys: KeyPair::generate(),
            broker_url: text("brokerUrl")?,
            joined_at: raw.get("joinedAt").and_then(Value::as_str).unwrap_or_default().to_owned(),
            root_key: None,
            invite_version: raw.get("inviteVersion").and_then(Value::as_u64),
            owner_pubkey,
            role: raw.get("role").and_then(Value::as_str).and_then(|role| role.parse().ok()),
        };
        let secret = take_secret(&mut raw, "secretKey").ok_or("\"secretKey\" is missing")?;
        entry.keys =
            KeyPair::from_hex(&secret).map_err(|error: SecretKeyError| error.to_string())?;
        if entry.keys.public() != pubkey {
            return Err("\"pubkey\" does not belong to \"secretKey\"".to_owned());
        }
        entry.root_key = take_secret(&mut raw, "rootKey");
        Ok(Self { entry, raw })
    }

    fn to_raw(&self) -> Map<String, Value> {
        let entry = &self.entry;
        let mut raw = self.raw.clone();
        let mut put = |key: &str, value: Value| raw.insert(key.to_owned(), value);
        put("meshId", entry.mesh_id.as_str().into());
        put("memberId", entry.member_id.as_str().into());
        put("slug", entry.slug.as_str().into());
        put("name", entry.name.as_str().into());
        put("pubkey", entry.keys.public().to_hex().into());
        put("secretKey", entry.keys.to_hex().as_str().into());
        put("brokerUrl", entry.broker_url.as_str().into());
        put("joinedAt", entry.joined_at.as_str().into());
        if let Some(root_key) = &entry.root_key {
            put("rootKey", root_key.as_str().into());
        }
        if let Some(version) = entry.invite_version {
            put("inviteVersion", version.into());
        }
        if let Some(owner) = entry.owner_pubkey {
            put("ownerPubkey", owner.to_hex().into());
        }
        if let Some(role) = entry.role {
            put("role", role.as_str().into());
        }
        raw
    }
}

impl Style {
    /// Indentation of the first indented line, and whether the text ends with a newline.
    fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let indent = text.lines().skip(1).find(|line| !line.trim().is_empty()).map(|line| {
            line.chars().take_while(|character| matches!(character, ' ' | '\t')).collect::<String>()
        });
        Self {
            indent: indent.filter(|indent| !indent.is_empty()).unwrap_or_else(|| "  ".to_owned()),
            trailing_newline: text.ends_with('\n'),
        }
    }

    fn write(&self, document: &Value) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::new());
        let formatter = serde_json::ser::PrettyFormatter::with_indent(self.indent.as_bytes());
        document.serialize(&mut serde_json::Serializer::with_formatter(&mut *bytes, formatter))?;
        if self.trailing_newline {
            bytes.push(b'\n');
        }
        Ok(bytes)
    }
}

/// Moves a secret out of the document; `null` keeps its place in the order of keys.
fn take_secret(raw: &mut Map<String, Value>, key: &str) -> Option<Zeroizing<String>> {
    match raw.get_mut(key)?.take() {
        Value::String(text) if !text.is_empty() => Some(Zeroizing::new(text)),
        _ => None,
    }
}

fn wipe_secrets(document: &mut Value) {
    let rows = document.get_mut("meshes").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten().filter_map(Value::as_object_mut) {
        for key in ["secretKey", "rootKey"] {
            if let Some(Value::String(text)) = row.get_mut(key) {
                text.zeroize();
            }
        }
    }
}

/// `<file>.lock` (CLI spec §2.4).
pub fn lock_file_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
