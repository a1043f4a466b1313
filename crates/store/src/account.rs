//! Accounts and the tokens people's command lines sign in with (broker spec §1.7, §4.30).

use std::time::Duration;

use claudemesh_protocol::{Timestamp, UserId};

use crate::engine::{Conn, Row, stored_word};
use crate::{Result, Store, StoreError};

/// A token's use is written down at most this often, so that reading requests do not write.
const USE_WRITTEN_EVERY: Duration = Duration::from_mins(1);

/// SHA-256 of a bearer token; the token itself is never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

/// What an account may do at the broker, beyond its meshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserRole {
    /// Everybody.
    User,
    /// Runs the broker.
    Admin,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Display name.
    pub name: String,
    /// Address; `None` for a local owner made by `claudemesh up`.
    pub email: Option<String>,
    /// What it may do.
    pub role: UserRole,
    /// Refused everywhere when true.
    pub is_banned: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An account to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// A fresh id.
    pub id: UserId,
    /// Display name.
    pub name: String,
    /// Address, if any.
    pub email: Option<String>,
    /// What it may do.
    pub role: UserRole,
    /// Now.
    pub created_at: Timestamp,
}

/// Answer to the request for the first account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstAccount {
    /// It was made, together with its session.
    Created(User),
    /// There is one already (`setup_done`); nothing was written.
    Exists,
}

/// Kind of a command-line token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CliSessionKind {
    /// `cm_session_…`, sliding.
    Session,
    /// `cm_pat_…`, fixed or no end.
    Pat,
}

/// A command-line token to be stored.
#[derive(Debug, Clone)]
pub struct NewCliSession {
    /// Row id (32 characters).
    pub id: String,
    /// Whose it is.
    pub user_id: UserId,
    /// Its kind.
    pub kind: CliSessionKind,
    /// Hash of the token.
    pub token_hash: TokenHash,
    /// The first characters of the token, for lists.
    pub token_prefix: String,
    /// Where it was made.
    pub hostname: Option<String>,
    /// Operating system there.
    pub platform: Option<String>,
    /// Processor there.
    pub arch: Option<String>,
    /// Version of the client.
    pub client_version: Option<String>,
    /// End of validity; `None` never ends.
    pub expires_at: Option<Timestamp>,
    /// Now.
    pub created_at: Timestamp,
}

/// A valid token and its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliLogin {
    /// Row id of the token.
    pub session_id: String,
    /// Its kind.
    pub kind: CliSessionKind,
    /// End of validity after this use.
    pub expires_at: Option<Timestamp>,
    /// Whose it is.
    pub user: User,
}

impl Store {
    /// True once the first account was made; accounts made by provisioning do not count.
    pub async fn has_account(&self) -> Result<bool> {
        let mut reader = self.reader().await?;
        let count = reader.conn().number("SELECT COUNT(*) FROM first_account", &[]).await?;
        Ok(count > 0)
    }

    /// Makes the first account, whose setup code is then used up, and its first session in one transaction; of any number of concurrent calls
    /// exactly one creates.
    pub async fn create_first_account(
        &self,
        user: NewUser,
        session: NewCliSession,
    ) -> Result<FirstAccount> {
        self.write(move |mut conn| {
            Box::pin(async move {
                if conn.number("SELECT COUNT(*) FROM first_account", &[]).await? > 0 {
                    return Ok(FirstAccount::Exists);
                }
                if !insert_user(&mut conn, &user).await? {
                    return Err(StoreError::Conflict("user.email".into()));
                }
                // Two replicas may both have seen no account; only one can write this row, the other waits for it here.
                let marked = conn
                    .execute(
                        "INSERT INTO first_account (only_row, user_id) VALUES (1, $1)
                         ON CONFLICT (only_row) DO NOTHING",
                        &[user.id.as_str().into()],
                    )
                    .await?;
                if marked == 0 {
                    conn.execute("DELETE FROM \"user\" WHERE id = $1", &[user.id.as_str().into()])
                        .await?;
                    return Ok(FirstAccount::Exists);
                }
                insert_cli_session(&mut conn, &session).await?;
                Ok(FirstAccount::Created(user.into_user()))
            })
        })
        .await
    }

    /// Makes an account, for provisioning and tests. `None` when the address is taken (case-insensitively).
    pub async fn create_user(&self, user: NewUser) -> Result<Option<User>> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let is_new = insert_user(&mut conn, &user).await?;
                Ok(is_new.then(|| user.into_user()))
            })
        })
        .await
    }

    /// Looks an account up.
    pub async fn user(&self, id: &UserId) -> Result<Option<User>> {
        let mut reader = self.reader().await?;
        let row = reader
            .conn()
            .first(
                "SELECT id AS user_id, name, email, role, banned, created_at FROM \"user\" WHERE id = $1",
                &[id.as_str().into()],
            )
            .await?;
        row.as_ref().map(User::from_row).transpose()
    }

    /// Stores a further token.
    pub async fn create_cli_session(&self, session: NewCliSession) -> Result<()> {
        self.write(move |mut conn| {
            Box::pin(async move { insert_cli_session(&mut conn, &session).await })
        })
        .await
    }

    /// The login a token stands for: neither revoked nor past its end, account not banned. Moves the end of a sliding
    /// session to `now + ttl`, writing at most once a minute per token.
    pub async fn use_cli_session(
        &self,
        token: TokenHash,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Option<CliLogin>> {
        let mut reader = self.reader().await?;
        let found = find_login(&mut reader.conn(), token, now).await?;
        drop(reader);
        let Some((mut login, last_seen_at)) = found else { return Ok(None) };
        let is_fresh = last_seen_at.is_some_and(|seen| now.since(seen) < USE_WRITTEN_EVERY);
        if is_fresh {
            return Ok(Some(login));
        }
        if login.kind == CliSessionKind::Session && login.expires_at.is_some() {
            login.expires_at = Some(now.plus(ttl));
        }
        let (id, expires_at) = (login.session_id.clone(), login.expires_at);
        let touched = self
            .write(move |mut conn| {
                Box::pin(async move {
                    conn.execute(
                        "UPDATE cli_session SET last_seen_at = $2, expires_at = $3
                         WHERE id = $1 AND revoked_at IS NULL",
                        &[id.as_str().into(), now.into(), expires_at.into()],
                    )
                    .await
                })
            })
            .await?;
        // Revoked between reading and writing: the token does not count any more.
        Ok((touched > 0).then_some(login))
    }

    /// Ends a token. False when there is no live one.
    pub async fn revoke_cli_session(&self, token: TokenHash, now: Timestamp) -> Result<bool> {
        self.write(move |mut conn| {
            Box::pin(async move {
                let rows = conn
                    .execute(
                        "UPDATE cli_session SET revoked_at = $2 WHERE token_hash = $1 AND revoked_at IS NULL",
                        &[token.to_hex().into(), now.into()],
                    )
                    .await?;
                Ok(rows > 0)
            })
        })
        .await
    }
}

stored_word!(UserRole, "user.role" { User = "user", Admin = "admin", });
stored_word!(CliSessionKind, "cli_session.kind" { Session = "session", Pat = "pat", });

impl User {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: UserId::new(row.get::<String>("user_id")?),
            name: row.get("name")?,
            email: row.get("email")?,
            role: UserRole::from_stored(&row.get::<String>("role")?)?,
            is_banned: row.flag("banned")?,
            created_at: row.time("created_at")?,
        })
    }
}

impl NewUser {
    fn into_user(self) -> User {
        let Self { id, name, email, role, created_at } = self;
        User { id, name, email, role, is_banned: false, created_at }
    }
}

/// False when the address is taken.
async fn insert_user(conn: &mut Conn<'_>, user: &NewUser) -> Result<bool> {
    let rows = conn
        .execute(
            "INSERT INTO \"user\" (id, name, email, role, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
            &[
                user.id.as_str().into(),
                user.name.as_str().into(),
                user.email.as_deref().into(),
                user.role.stored().into(),
                user.created_at.into(),
            ],
        )
        .await?;
    Ok(rows > 0)
}

async fn insert_cli_session(conn: &mut Conn<'_>, session: &NewCliSession) -> Result<()> {
    conn.execute(
        "INSERT INTO cli_session (id, user_id, kind, client_version, token_hash, token_prefix, hostname, platform,
            arch, expires_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        &[
            session.id.as_str().into(),
            session.user_id.as_str().into(),
            session.kind.stored().into(),
            session.client_version.as_deref().into(),
            session.token_hash.to_hex().into(),
            session.token_prefix.as_str().into(),
            session.hostname.as_deref().into(),
            session.platform.as_deref().into(),
            session.arch.as_deref().into(),
            session.expires_at.into(),
            session.created_at.into(),
        ],
    )
    .await
    .map(drop)
}

/// A valid login and when its use was last written down.
async fn find_login(
    conn: &mut Conn<'_>,
    token: TokenHash,
    now: Timestamp,
) -> Result<Option<(CliLogin, Option<Timestamp>)>> {
    let row = conn
        .first(
            "SELECT s.id AS session_id, s.kind, s.expires_at, s.last_seen_at,
                u.id AS user_id, u.name, u.email, u.role, u.banned, u.created_at
             FROM cli_session s JOIN \"user\" u ON u.id = s.user_id
             WHERE s.token_hash = $1 AND s.revoked_at IS NULL AND u.banned = 0
                AND (s.expires_at IS NULL OR s.expires_at > $2)",
            &[token.to_hex().into(), now.into()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let login = CliLogin {
        session_id: row.get("session_id")?,
        kind: CliSessionKind::from_stored(&row.get::<String>("kind")?)?,
        expires_at: row.time_option("expires_at")?,
        user: User::from_row(&row)?,
    };
    Ok(Some((login, row.time_option("last_seen_at")?)))
}
