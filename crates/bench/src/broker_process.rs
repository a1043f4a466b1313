//! A broker in a process of its own, with provisioned members, and what it costs the machine.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use claudemesh_crypto::identity::KeyPair;
use claudemesh_protocol::{MemberId, MeshId};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::process;

/// How long a broker may take to answer before a measurement gives up.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// One provisioned member.
pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) keys: KeyPair,
    pub(crate) mesh: MeshId,
}

/// A running broker with its meshes; it is killed and its data removed on drop.
pub(crate) struct BrokerProcess {
    child: Child,
    /// `ws://127.0.0.1:port/ws`.
    pub(crate) ws_url: String,
    /// The first mesh.
    pub(crate) mesh: MeshId,
    /// Members of all meshes, one mesh after the other.
    pub(crate) members: Vec<Member>,
    data: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    binary: std::path::PathBuf,
}

#[derive(Deserialize)]
struct Provisioned {
    mesh_id: MeshId,
    members: Vec<ProvisionedMember>,
}

#[derive(Deserialize)]
struct ProvisionedMember {
    member_id: MemberId,
    secret_key: String,
}

impl BrokerProcess {
    /// Provisions `members` members in a fresh data directory and starts the broker, with limits out of the way.
    pub(crate) async fn start(options: &crate::Options, members: usize) -> anyhow::Result<Self> {
        Self::start_meshes(options, 1, members).await
    }

    /// The same with `members` members in each of `meshes` meshes.
    pub(crate) async fn start_meshes(
        options: &crate::Options,
        meshes: usize,
        members: usize,
    ) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let port = free_port()?;
        let mut settings: Vec<(String, String)> = [
            ("DATA_DIR", data.path().join("data").display().to_string()),
            ("BROKER_BIND", "127.0.0.1".to_owned()),
            ("BROKER_PORT", port.to_string()),
            ("MAX_CONNECTIONS_PER_MESH", "100000".to_owned()),
            ("SEND_BURST", "10000000".to_owned()),
            ("SEND_PER_MIN", "60000000".to_owned()),
            ("BACKLOG_PER_MEMBER", "1000000".to_owned()),
            ("BACKLOG_PER_MESH", "10000000".to_owned()),
            ("LOG_LEVEL", "warn".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(url) = &options.database_url {
            settings.push(("STORAGE_PROFILE".to_owned(), "server".to_owned()));
            settings.push(("DATABASE_URL".to_owned(), url.clone()));
        }
        let mut provisioned = Vec::with_capacity(meshes * members);
        for number in 0..meshes {
            let slug = format!("bench-{port}-{number}");
            provisioned.extend(provision(options, &settings, &data, &slug, members).await?);
        }
        let mesh = provisioned.first().context("no member was made")?.mesh.clone();
        let child = serve(&options.binary, &settings)?;
        let process = Self {
            child,
            ws_url: format!("ws://127.0.0.1:{port}/ws"),
            mesh,
            members: provisioned,
            data,
            port,
            settings,
            binary: options.binary.clone(),
        };
        process.wait_until_listening().await?;
        Ok(process)
    }

    /// Kills the broker without warning and starts it again on the same data; returns the time from exec to the
    /// first accepted connection.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.child.kill().await?;
        let start = Instant::now();
        self.child = serve(&self.binary, &self.settings)?;
        self.wait_until_listening().await?;
        Ok(start.elapsed())
    }

    /// Bytes of the data directory.
    pub(crate) fn stored_bytes(&self) -> u64 {
        fn size_of(path: &Path) -> u64 {
            let Ok(entries) = std::fs::read_dir(path) else { return 0 };
            entries
                .flatten()
                .map(|entry| match entry.metadata() {
                    Ok(meta) if meta.is_dir() => size_of(&entry.path()),
                    Ok(meta) => meta.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        size_of(self.data.path())
    }

    /// Resident memory of the broker, in MiB.
    pub(crate) fn rss_mib(&self) -> anyhow::Result<f64> {
        process::rss_mib(self.pid()?)
    }

    /// CPU time the broker has used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.pid()?)
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the broker has ended")
    }

    async fn wait_until_listening(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_DEADLINE {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the broker does not listen after {START_DEADLINE:?}")
    }
}

/// Makes a mesh with members in the data that no broker serves yet.
async fn provision(
    options: &crate::Options,
    settings: &[(String, String)],
    data: &TempDir,
    slug: &str,
    members: usize,
) -> anyhow::Result<Vec<Member>> {
    let roster = data.path().join(format!("{slug}.json"));
    let output = command(&options.binary, settings)
        .args(["provision", "--mesh", slug, "--members", &members.to_string(), "--out"])
        .arg(&roster)
        .output()
        .await
        .with_context(|| format!("running {}", options.binary.display()))?;
    if !output.status.success() {
        bail!("provision failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let made: Provisioned = serde_json::from_slice(&std::fs::read(&roster)?)?;
    made.members
        .into_iter()
        .map(|member| {
            let keys = KeyPair::from_hex(&member.secret_key)?;
            Ok(Member { id: member.member_id, keys, mesh: made.mesh_id.clone() })
        })
        .collect()
}

fn command(binary: &Path, settings: &[(String, String)]) -> Command {
    let mut command = Command::new(binary);
    command.arg("broker").env_clear().envs(settings.iter().map(|(name, value)| (name, value)));
    for kept in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

fn serve(binary: &Path, settings: &[(String, String)]) -> anyhow::Result<Child> {
    command(binary, settings)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", binary.display()))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
