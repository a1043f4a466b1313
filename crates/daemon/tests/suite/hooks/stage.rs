//! A daemon with hooks, a broker, and somebody who writes to it.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_daemon::hooks::{Isolation, RUN_HOOK, Runner};
use claudemesh_daemon::inbox::InboxFilter;
use claudemesh_daemon::{Options, Running};
use claudemesh_ipc::api::{InboxItem, MeshStatus};
use claudemesh_protocol::PublicKey;
use serde_json::Value;

use crate::local::world::Home;
use crate::mesh::node::{Node, SLUG, World, until};

/// The program that becomes a hook: built beside this one, as an example of the same package.
pub fn runner() -> Runner {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().with_file_name("examples").join("hook_runner");
    // A run of one test binary alone builds no examples.
    assert!(program.exists(), "build it: cargo build -p claudemesh-daemon --example hook_runner");
    Runner { program, words: vec![OsString::from(RUN_HOOK)], isolation: Isolation::Tried }
}

/// A home with hooks.
pub struct Hooked {
    pub home: Home,
    /// Where hooks leave what a test looks at.
    pub out: PathBuf,
}

impl Hooked {
    /// A member of the world's mesh, with nothing in its directory of hooks yet.
    pub fn of(world: &World, member: usize) -> Self {
        let hooked = Self::new();
        hooked.home.join_as(world.entry(member));
        hooked
    }

    pub fn new() -> Self {
        let home = Home::new();
        let out = home.path().join("out");
        for dir in [home.paths.root(), home.paths.daemon_dir(), &home.paths.hooks_dir(), &out] {
            make_dir(dir);
        }
        Self { home, out }
    }

    pub fn dir(&self) -> PathBuf {
        self.home.paths.hooks_dir()
    }

    /// Writes `hooks.toml`.
    pub fn sections(&self, text: &str) {
        write(&self.dir().join("hooks.toml"), text, 0o600);
    }

    /// Writes a hook; `$OUT` in it is the directory of [`Self::out`].
    pub fn hook(&self, name: &str, script: &str) -> PathBuf {
        self.hook_with(name, script, 0o700)
    }

    pub fn hook_with(&self, name: &str, script: &str, mode: u32) -> PathBuf {
        let path = self.dir().join(name);
        make_dir(path.parent().unwrap());
        let script = script.replace("$OUT", self.out.to_str().unwrap());
        write(&path, &format!("#!/bin/sh\n{script}\n"), mode);
        path
    }

    /// Starts the daemon.
    pub async fn start(&self) -> Running {
        self.start_with(runner()).await
    }

    pub async fn start_with(&self, hook_runner: Runner) -> Running {
        let mut options = Options::from_env(self.home.paths.clone());
        // On a build server hooks are off unless the settings say otherwise.
        options.surroundings = claudemesh_daemon::identity::Surroundings::Machine;
        options.hook_runner = hook_runner;
        // Also on a build server.
        options.surroundings = claudemesh_daemon::identity::Surroundings::Machine;
        claudemesh_daemon::start(options).await.unwrap()
    }

    /// Starts it, and waits until it is connected and knows who else is there.
    pub async fn open(&self) -> Running {
        let running = self.start().await;
        connected(&running).await;
        running
    }

    /// What a hook left.
    pub fn left(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.out.join(name)).ok()
    }

    /// Waits until a hook has left something with this name that ends with a line feed.
    pub async fn leaves(&self, name: &str) -> String {
        until(&format!("a hook leaves {name}"), async || {
            self.left(name).is_some_and(|text| text.ends_with('\n'))
        })
        .await;
        self.left(name).unwrap()
    }

    /// The lines of the audit file.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.home.paths.hooks_audit_file()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until so many runs are written down.
    pub async fn audited(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} runs are in the audit file"), async || self.audit().len() >= count)
            .await;
        self.audit()
    }
}

pub async fn connected(running: &Running) {
    until("the daemon is connected and its roster is there", async || {
        running.daemon().meshes().get(SLUG).is_some_and(|mesh| {
            let health = mesh.health();
            health.status == MeshStatus::Open && health.roster_age.is_some()
        })
    })
    .await;
}

/// A world of two, the first with hooks, the second a plain daemon that writes to it.
pub async fn pair() -> (World, Hooked, Node) {
    let world = World::new(2).await;
    let hooked = Hooked::of(&world, 0);
    let peer = Node::open(world.entry(1)).await;
    (world, hooked, peer)
}

/// Sends from a plain daemon, and answers the id.
pub async fn write_to(peer: &Node, to: PublicKey, text: &str) -> String {
    peer.send(&to.to_hex(), text).await
}

/// The messages of a daemon, oldest first.
pub async fn inbox(running: &Running) -> Vec<InboxItem> {
    let filter = InboxFilter { limit: 1_000, ..InboxFilter::default() };
    let scope = claudemesh_daemon::inbox::Scope::Everything;
    let inbox = &running.daemon().context().inbox;
    let mut items = inbox.list(&scope, &filter).await.unwrap().items;
    items.sort_by(|left, right| left.id.cmp(&right.id));
    items
}

/// Processes whose command line holds `mark`.
pub fn processes(mark: &str) -> usize {
    let is_it = |pid: &Path| {
        let line = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(mark)
    };
    let listing = std::fs::read_dir("/proc").unwrap().flatten();
    listing.filter(|entry| is_it(&entry.path())).count()
}

/// Says that this machine lacks what a test needs.
#[expect(clippy::print_stderr, reason = "a test that did nothing says so")]
pub fn skipped(what: &str) {
    eprintln!("skipped: {what}");
}

/// Longer than anything that is said to take no time.
pub const SOON: Duration = Duration::from_secs(2);

fn make_dir(path: &Path) {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
}

fn write(path: &Path, text: &str, mode: u32) {
    use std::io::Write as _;
    let _ = std::fs::remove_file(path);
    let mut file =
        std::fs::OpenOptions::new().create_new(true).write(true).mode(mode).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    // Whatever the umask took away.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}
