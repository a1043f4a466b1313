//! Meshes: the trust boundary, its owner's keys and its settings (broker spec §1.1, §4.28).

use claudemesh_protocol::audit::AuditEvent;
use claudemesh_protocol::status::{GroupEncryption, MemberRole};
use claudemesh_protocol::wire::hello::SelfEditable;
use claudemesh_protocol::{MemberId, MeshId, PublicKey, Slug, Timestamp, UserId};
use serde_json::json;

use crate::admin::append_event;
use crate::audit::append_audit;
use crate::engine::{Conn, Row, stored_word, to_json};
use crate::member::{insert_member, member_columns};
use crate::{
    AddMember, AuditPayload, Encrypted, Member, MeshEvent, NewAuditEntry, NewMember, Result, Store,
    StoreError,
};

/// Columns of a mesh `g`, as [`Mesh::from_row`] reads them beside a member's.
macro_rules! mesh_columns {
    () => {
        "g.id AS mesh_key, g.name AS mesh_name, g.slug, g.owner_user_id, g.owner_pubkey, g.self_editable,
         g.clone_policy, g.dedupe_days, g.group_encryption, g.open_data, g.show_paths, g.retention_days, g.max_peers,
         g.key_epoch, g.event_seq, g.last_event_at, g.created_at AS mesh_created_at, g.archived_at"
    };
}

/// What to do with two live daemons of one member on different machines (wire spec §2.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClonePolicy {
    /// The older is closed.
    #[default]
    PreferNewest,
    /// The newer is refused.
    PreferOldest,
    /// Both stay.
    AllowConcurrent,
}

/// How long a mesh remembers client message ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupeRetention {
    /// That many days (at least 3).
    Days(u32),
    /// For ever.
    Permanent,
}

impl Default for DedupeRetention {
    fn default() -> Self {
        Self::Days(365)
    }
}

/// Settings an admin may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// Which profile fields members edit themselves.
    pub self_editable: SelfEditable,
    /// Two daemons of one member.
    pub clone_policy: ClonePolicy,
    /// Memory of client message ids.
    pub dedupe: DedupeRetention,
    /// How group bodies must be written.
    pub group_encryption: GroupEncryption,
    /// Whether members share one clock, graph and SQL database.
    pub open_data: bool,
    /// Whether peers see each other's working directories.
    pub show_paths: bool,
    /// Days undelivered messages are held; `None` is the broker's default.
    pub retention_days: Option<u32>,
    /// Connections at most; `None` is the broker's default.
    pub max_peers: Option<u32>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            self_editable: SelfEditable::default(),
            clone_policy: ClonePolicy::default(),
            dedupe: DedupeRetention::default(),
            group_encryption: GroupEncryption::Required,
            open_data: true,
            show_paths: false,
            retention_days: None,
            max_peers: None,
        }
    }
}

/// A mesh. Its secret keys are read apart, see [`Store::mesh_secrets`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// Its id.
    pub id: MeshId,
    /// Its name for people.
    pub name: String,
    /// Its short name, unique among live meshes.
    pub slug: Slug,
    /// The account that owns it.
    pub owner_user_id: UserId,
    /// Key that signs its invites.
    pub owner_pubkey: PublicKey,
    /// Settings.
    pub settings: MeshSettings,
    /// Version of the group keys.
    pub key_epoch: u32,
    /// Number of its newest event that peers must learn; 0 when there was none.
    pub event_seq: u64,
    /// When that was.
    pub last_event_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Set once it is archived; nothing works in it then.
    pub archived_at: Option<Timestamp>,
}

/// Secret keys of a mesh, encrypted by the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSecrets {
    /// Owner signing key; `None` when it stays with the owner's client.
    pub owner_secret_key: Option<Encrypted>,
    /// Root key, which invites hand out sealed.
    pub root_key: Encrypted,
}

/// A mesh to be made, with its owner's member row.
#[derive(Debug, Clone)]
pub struct NewMesh {
    /// A fresh id.
    pub id: MeshId,
    /// Its name.
    pub name: String,
    /// The wished slug.
    pub slug: Slug,
    /// Key that signs its invites.
    pub owner_pubkey: PublicKey,
    /// Secret keys.
    pub secrets: MeshSecrets,
    /// Settings.
    pub settings: MeshSettings,
    /// The owner's member row; `mesh_id` must equal `id`, `user_id` is the owner.
    pub owner: NewMember,
    /// The account that owns it.
    pub owner_user_id: UserId,
    /// Now.
    pub created_at: Timestamp,
}

/// Answer to the request for a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateMesh {
    /// It stands, with its owner.
    Created {
        /// The mesh.
        mesh: Box<Mesh>,
        /// Its first member.
        owner: Box<Member>,
    },
    /// A live mesh has this slug; nothing was written.
    SlugTaken,
}

/// A mesh in the list of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMesh {
    /// The mesh.
    pub mesh: Mesh,
    /// The account's own member row, when it has one that is not revoked.
    pub member: Option<Member>,
    /// Role shown for it: `admin` for the owner too.
    pub role: MemberRole,
    /// Members that are bound and not revoked.
    pub member_count: u64,
}

impl Store {
    /// Makes a mesh and its owner's member row in one transaction.
    pub async fn create_mesh(&self, mesh: NewMesh) -> Result<CreateMesh> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let settings = &mesh.settings;
                let rows = conn
                    .execute(
                        "INSERT INTO mesh (id, name, slug, owner_user_id, owner_pubkey, owner_secret_key, root_key,
                            self_editable, clone_policy, dedupe_days, group_encryption, open_data, show_paths,
                            retention_days, max_peers, created_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
                         ON CONFLICT (lower(slug)) WHERE archived_at IS NULL DO NOTHING",
                        &[
                            mesh.id.as_str().into(),
                            mesh.name.as_str().into(),
                            mesh.slug.as_str().into(),
                            mesh.owner_user_id.as_str().into(),
                            (&mesh.owner_pubkey).into(),
                            mesh.secrets.owner_secret_key.as_ref().map(Encrypted::as_str).into(),
                            mesh.secrets.root_key.as_str().into(),
                            to_json(&settings.self_editable, "mesh.self_editable")?.into(),
                            settings.clone_policy.stored().into(),
                            settings.dedupe.days().into(),
                            settings.group_encryption.as_str().into(),
                            settings.open_data.into(),
                            settings.show_paths.into(),
                            settings.retention_days.into(),
                            settings.max_peers.into(),
                            mesh.created_at.into(),
                        ],
                    )
                    .await?;
                if rows == 0 {
                    return Ok(CreateMesh::SlugTaken);
                }
                let owner = match insert_member(&mut conn, &mesh.owner, None).await? {
                    AddMember::Added(member) | AddMember::Exists(member) => Box::new(member),
                };
                let mesh = find_mesh(&mut conn, &mesh.id)
                    .await?
                    .map(Box::new)
                    .ok_or_else(|| StoreError::corrupt("mesh.id"))?;
                let entry = NewAuditEntry {
                    mesh_id: mesh.id.clone(),
                    event: AuditEvent::MeshCreated,
                    actor: Some(owner.id.clone()),
                    payload: AuditPayload::new()
                        .with("slug", mesh.slug.as_str())
                        .with("name", mesh.name.as_str())
                        .with("pubkey", owner.pubkey.map(PublicKey::to_hex)),
                    at: mesh.created_at,
                };
                append_audit(&mut conn, &entry).await?;
                Ok(CreateMesh::Created { mesh, owner })
            })
        })
        .await
    }

    /// Looks a mesh up by id, archived ones too.
    pub async fn mesh(&self, id: &MeshId) -> Result<Option<Mesh>> {
        let mut reader = self.reader().await?;
        find_mesh(&mut reader.conn(), id).await
    }

    /// Looks a live mesh up by slug.
    pub async fn mesh_by_slug(&self, slug: &Slug) -> Result<Option<Mesh>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                concat!(
                    "SELECT ",
                    mesh_columns!(),
                    " FROM mesh g WHERE lower(g.slug) = $1 AND g.archived_at IS NULL"
                ),
                &[slug.as_str().into()],
            )
            .await?;
        row.as_ref().map(Mesh::from_row).transpose()
    }

    /// Reads the secret keys of a mesh.
    pub async fn mesh_secrets(&self, id: &MeshId) -> Result<Option<MeshSecrets>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT owner_secret_key, root_key FROM mesh WHERE id = $1",
                &[id.as_str().into()],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(MeshSecrets {
            owner_secret_key: row.get::<Option<String>>("owner_secret_key")?.map(Encrypted::new),
            root_key: Encrypted::new(row.get::<String>("root_key")?),
        }))
    }

    /// Live meshes the account owns or is a member of, oldest first.
    pub async fn meshes_of_user(&self, user: &UserId) -> Result<Vec<UserMesh>> {
        let mut reader = self.reader().await?;
        let rows = reader
            .conn()
            .all(
                concat!(
                    "SELECT ",
                    mesh_columns!(),
                    ", ",
                    member_columns!(),
                    ", (SELECT COUNT(*) FROM member c
                         WHERE c.mesh_id = g.id AND c.peer_pubkey IS NOT NULL AND c.revoked_at IS NULL) AS member_count
                     FROM mesh g
                     LEFT JOIN member m ON m.id = (SELECT own.id FROM member own
                         WHERE own.mesh_id = g.id AND own.user_id = $1 AND own.revoked_at IS NULL
                            AND own.peer_pubkey IS NOT NULL
                         ORDER BY own.joined_at, own.id LIMIT 1)
                     LEFT JOIN permission p ON p.member_id = m.id
                     WHERE g.archived_at IS NULL AND (g.owner_user_id = $1 OR m.id IS NOT NULL)
                     ORDER BY g.created_at, g.id"
                ),
                &[user.as_str().into()],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let mesh = Mesh::from_row(row)?;
                let has_member = row.get::<Option<String>>("member_id")?.is_some();
                let member = if has_member { Some(Member::from_row(row)?) } else { None };
                let is_owner = mesh.owner_user_id == *user;
                let own_role = member.as_ref().map_or(MemberRole::Member, |member| member.role);
                let role = if is_owner { MemberRole::Admin } else { own_role };
                Ok(UserMesh { member_count: row.count("member_count")?, mesh, member, role })
            })
            .collect()
    }

    /// Replaces the settings of a live mesh; `what` names those that change. Returns the mesh and what peers learn;
    /// `None` when there is none.
    pub async fn set_mesh_settings(
        &self,
        id: &MeshId,
        settings: MeshSettings,
        what: Vec<&'static str>,
        by: Option<&MemberId>,
        now: Timestamp,
    ) -> Result<Option<(Mesh, MeshEvent)>> {
        let (id, actor) = (id.clone(), by.cloned());
        self.write(move |mut conn| {
            Box::pin(async move {
                let rows = conn
                    .execute(
                        "UPDATE mesh SET self_editable = $2, clone_policy = $3, dedupe_days = $4, group_encryption = $5,
                            open_data = $6, show_paths = $7, retention_days = $8, max_peers = $9
                         WHERE id = $1 AND archived_at IS NULL",
                        &[
                            id.as_str().into(),
                            to_json(&settings.self_editable, "mesh.self_editable")?.into(),
                            settings.clone_policy.stored().into(),
                            settings.dedupe.days().into(),
                            settings.group_encryption.as_str().into(),
                            settings.open_data.into(),
                            settings.show_paths.into(),
                            settings.retention_days.into(),
                            settings.max_peers.into(),
                        ],
                    )
                    .await?;
                if rows == 0 {
                    return Ok(None);
                }
                let data = json!({ "fields": what });
                let event = append_event(&mut conn, &id, "mesh_state_update", data, now).await?;
                let mesh = find_mesh(&mut conn, &id).await?;
                let entry = NewAuditEntry {
                    mesh_id: id,
                    event: AuditEvent::MeshSettingsChanged,
                    actor,
                    payload: AuditPayload::new().with("fields", what),
                    at: now,
                };
                append_audit(&mut conn, &entry).await?;
                Ok(mesh.map(|mesh| (mesh, event)))
            })
        })
        .await
    }

    /// Archives a live mesh, which frees its slug. False when there is none.
    pub async fn archive_mesh(&self, id: &MeshId, now: Timestamp) -> Result<bool> {
        let id = id.clone();
        self.write(move |mut conn| {
            Box::pin(async move {
                let rows = conn
                    .execute(
                        "UPDATE mesh SET archived_at = $2 WHERE id = $1 AND archived_at IS NULL",
                        &[id.as_str().into(), now.into()],
                    )
                    .await?;
                Ok(rows > 0)
            })
        })
        .await
    }
}

stored_word!(ClonePolicy, "mesh.clone_policy" {
    PreferNewest = "prefer_newest",
    PreferOldest = "prefer_oldest",
    AllowConcurrent = "allow_concurrent",
});

impl DedupeRetention {
    /// The column `dedupe_days`; null is permanent.
    const fn days(self) -> Option<u32> {
        match self {
            Self::Days(days) => Some(days),
            Self::Permanent => None,
        }
    }
}

impl Mesh {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: MeshId::new(row.get::<String>("mesh_key")?),
            name: row.get("mesh_name")?,
            slug: row.parsed("slug")?,
            owner_user_id: UserId::new(row.get::<String>("owner_user_id")?),
            owner_pubkey: row.parsed("owner_pubkey")?,
            settings: MeshSettings {
                self_editable: row.json("self_editable")?,
                clone_policy: ClonePolicy::from_stored(&row.get::<String>("clone_policy")?)?,
                dedupe: row
                    .small_option("dedupe_days")?
                    .map_or(DedupeRetention::Permanent, DedupeRetention::Days),
                group_encryption: row.parsed("group_encryption")?,
                open_data: row.flag("open_data")?,
                show_paths: row.flag("show_paths")?,
                retention_days: row.small_option("retention_days")?,
                max_peers: row.small_option("max_peers")?,
            },
            key_epoch: row.small("key_epoch")?,
            event_seq: row.count("event_seq")?,
            last_event_at: row.time_option("last_event_at")?,
            created_at: row.time("mesh_created_at")?,
            archived_at: row.time_option("archived_at")?,
        })
    }
}

async fn find_mesh(conn: &mut Conn<'_>, id: &MeshId) -> Result<Option<Mesh>> {
    let row = conn
        .first(
            concat!("SELECT ", mesh_columns!(), " FROM mesh g WHERE g.id = $1"),
            &[id.as_str().into()],
        )
        .await?;
    row.as_ref().map(Mesh::from_row).transpose()
}
