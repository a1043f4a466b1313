//! A daemon as a process of its own, in a HOME of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use claudemesh_ipc::api::{MeshStatus, SendRequest};
use claudemesh_ipc::{Client, Paths};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Options;
use crate::broker_process::{BrokerProcess, Member};

/// Time for the daemon to start and to connect.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A daemon in a HOME of its own, a member of the broker's mesh.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) client: Client,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// Key of the other member.
    other: String,
    home: TempDir,
}

impl Daemon {
    /// The first of the broker's two members; it writes to the other one.
    pub(crate) async fn start(options: &Options, broker: &BrokerProcess) -> anyhow::Result<Self> {
        Self::start_as(options, broker, 0).await
    }

    /// The daemon of the first or the second of two members.
    pub(crate) async fn start_as(
        options: &Options,
        broker: &BrokerProcess,
        number: usize,
    ) -> anyhow::Result<Self> {
        Self::start_with(options, broker, number, |_| Ok(())).await
    }

    /// In a HOME that `prepare` has put something into.
    pub(crate) async fn start_with(
        options: &Options,
        broker: &BrokerProcess,
        number: usize,
        prepare: impl FnOnce(&Paths) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        let [first, second] = broker.members.as_slice() else { bail!("two members are needed") };
        let (own, other) = if number == 0 { (first, second) } else { (second, first) };
        let paths = Paths::for_home(home.path());
        write_private(&paths.membership_file(), &membership(broker, own), 0o600)?;
        // More streams and rows than anybody needs.
        let settings = "[ipc]\nmax_sse = 200\n[outbox]\nmax_queue_rows = 1000000\n";
        write_private(&paths.settings_file(), settings, 0o600)?;
        prepare(&paths)?;
        let child = Command::new(&options.binary)
            .args(["daemon", "up", "--foreground"])
            .env_clear()
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let socket = paths.default_socket();
        let client = Client::new(socket.clone());
        let daemon = Self { child, client, socket, other: other.keys.public().to_hex(), home };
        daemon.wait_until_open().await?;
        Ok(daemon)
    }

    async fn wait_until_open(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_DEADLINE {
            if let Ok(health) = self.client.health().await
                && health.brokers.values().any(|status| *status == MeshStatus::Open)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the daemon has no connection after {START_DEADLINE:?}")
    }

    /// Its HOME.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the daemon has ended")
    }

    /// Sends; the message is on disk when this returns.
    pub(crate) async fn send(&self, number: usize) -> anyhow::Result<()> {
        let message = format!("message {number} of a measurement, about as long as people write");
        let request = SendRequest { to: self.other.clone(), message, ..SendRequest::default() };
        self.client.send(&request).await?;
        Ok(())
    }
}

fn membership(broker: &BrokerProcess, member: &Member) -> String {
    let mesh = json!({
        "meshId": member.mesh,
        "memberId": member.id,
        "slug": "bench",
        "name": "bench",
        "pubkey": member.keys.public(),
        "secretKey": member.keys.to_hex().as_str(),
        "brokerUrl": broker.ws_url,
        "joinedAt": "2026-01-01T00:00:00.000Z",
    });
    json!({ "version": 1, "meshes": [mesh] }).to_string()
}

/// A file that nobody else may read, in directories that are nobody else's.
pub(crate) fn write_private(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let dir = path.parent().context("a directory")?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
