//! Two people with a mesh, one of them with an agent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use claudemesh_agents::record::{Format, Reader, Sign};
use claudemesh_agents::render::{Place, Provenance, Trust, frame};
use claudemesh_testkit::agents::{ClaudeRig, CodexRig, installed};
use claudemesh_testkit::model::MockModel;

use crate::home::{Home, two_people, until};

/// Longest wait for what a client does by itself.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The person `me`, her agent's model, and Bob, whom she can reach.
pub struct Scene {
    pub me: Home,
    pub bob: Home,
    pub model: MockModel,
}

/// True, and says so, when an agent is not installed.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn is_missing(agent: &str) -> bool {
    let is_missing = installed(agent).is_none();
    if is_missing {
        eprintln!("skipped: {agent} is not installed (scripts/agents-setup)");
    }
    is_missing
}

impl Scene {
    /// Both have a daemon and know each other.
    pub fn new() -> Self {
        let (me, bob) = two_people();
        // It starts his daemon.
        bob.ok(&["peers"]);
        until("I see Bob", || me.ok(&["peers"]).contains("Bob"));
        let model = MockModel::start(&me.path().join("requests")).unwrap();
        Self { me, bob, model }
    }

    /// The directory the agent works in.
    pub fn project(&self) -> PathBuf {
        self.me.path().join("project")
    }

    /// Claude Code of this person.
    pub fn claude(&self) -> ClaudeRig {
        ClaudeRig::new(self.me.path(), &self.project(), tools(), &self.model).unwrap()
    }

    /// What stands in the client's settings file.
    pub fn claude_settings(&self, settings: &serde_json::Value) {
        let dir = self.me.path().join(".claude");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("settings.json"), settings.to_string()).unwrap();
    }

    /// Codex of this person, with `more` in its settings.
    pub fn codex(&self, more: &str) -> CodexRig {
        CodexRig::new(self.me.path(), &self.project(), tools(), &self.model, more).unwrap()
    }

    /// Waits until Bob has a message with this text.
    pub fn bob_has(&self, text: &str) {
        until(&format!("Bob has \"{text}\""), || self.bob.bodies().iter().any(|body| body == text));
    }
}

/// A message of Bob's as a model is shown it.
pub fn framed(id: &str, body: &str) -> String {
    let from = Provenance {
        id,
        name: "Bob",
        key: "7d3f09aabbccddee",
        mesh: "home",
        trust: Trust::Verified,
        place: Place::Direct,
        is_urgent: false,
        reply_to: None,
        also_given: false,
    };
    frame(&from, body, usize::MAX)
}

/// What the agent's own records of its conversations prove.
pub fn proved(format: Format, records: &[PathBuf]) -> Vec<Sign> {
    let mut signs = Vec::new();
    for record in records {
        signs.extend(Reader::new(format).read(&std::fs::read(record).unwrap()));
    }
    signs
}

/// True when it is proved that the model was asked with the message before it, which came in this way.
pub fn is_in_context(signs: &[Sign], id: &str, way: &str) -> bool {
    signs
        .iter()
        .any(|sign| matches!(sign, Sign::InContext(shown) if shown.id == id && shown.way == way))
}

/// The directory of the binary under test.
pub fn tools() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_claudemesh")).parent().unwrap()
}
