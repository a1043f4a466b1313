//! Records as files are: cut, exchanged, full of other things, not there, not ours.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use claudemesh_ipc::api::session::{HookEvent, PathState};
use claudemesh_protocol::wire::ReceiptState;
use serde_json::json;

use super::stage::{Agent, FIRST, Record, Stage, asked, ended, lines, noise, shown};
use crate::mesh::node::until;
use claudemesh_daemon::Running;

/// Longer than any line that is read.
const HUGE_BYTES: usize = 17 * 1024 * 1024;

struct Scene {
    stage: Stage,
    running: Running,
    agent: Agent,
}

impl Scene {
    async fn new() -> Self {
        let stage = Stage::new().await;
        let running = stage.home.start().await;
        let agent = stage.agent(&running, FIRST).await;
        agent.hook(HookEvent::Start).await;
        agent.record_is(PathState::Readable).await;
        Self { stage, running, agent }
    }

    /// Sends a message that a hook takes; answers the sender's id, and the message as the record shows it.
    async fn handed(&self, text: &str) -> (String, serde_json::Value) {
        let id = self.stage.send(&self.running, self.agent.key, text).await;
        let item = self.agent.takes(HookEvent::Prompt, text).await;
        self.stage.comes(&id, ReceiptState::Handed).await;
        (id, shown(&item))
    }

    async fn state(&self, id: &str) -> ReceiptState {
        self.stage.progress(id).await.unwrap().state
    }
}

/// Agents spec §1.8: a record that is cut, written over, or exchanged for another file is read from its beginning; what it
/// proved before stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_or_exchanged_record_begins_anew() {
    let scene = Scene::new().await;
    let record = &scene.agent.record;
    let (one, first) = scene.handed("one").await;
    record.append(&[noise(), noise(), first.clone(), asked(), ended()]);
    scene.stage.comes(&one, ReceiptState::TurnEnded).await;
    let (two, second) = scene.handed("two").await;
    std::fs::write(&record.path, lines(&[first.clone(), second.clone(), asked()])).unwrap();
    scene.stage.comes(&two, ReceiptState::InContext).await;
    // As a fork or a restored copy comes: another file of that name, longer than this one.
    let (three, third) = scene.handed("three").await;
    let beside = Record::new(scene.stage.home.path(), "beside");
    beside.append(&[first, noise(), asked(), second, noise(), asked(), third, asked(), ended()]);
    std::fs::rename(&beside.path, &record.path).unwrap();
    scene.stage.comes(&three, ReceiptState::TurnEnded).await;
    scene.stage.comes(&two, ReceiptState::TurnEnded).await;
    // And goes on.
    let (four, fourth) = scene.handed("four").await;
    record.append(&[fourth, asked()]);
    scene.stage.comes(&four, ReceiptState::InContext).await;
    assert_eq!(scene.state(&one).await, ReceiptState::TurnEnded);
    scene.running.shutdown().await;
}

/// Agents spec §1.8: entries that are not understood are passed over, however long they are; so is half a line until its
/// end comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_endless_lines_are_passed_over() {
    let scene = Scene::new().await;
    let record = &scene.agent.record;
    let (id, shown) = scene.handed("hello").await;
    record.append_text("not json\n\0\0\n[1,2]\n\"text\"\n{\"type\":7}\n\n\n");
    record.append_text(&"x".repeat(HUGE_BYTES));
    record.append_text(&format!(
        "\n{}\n",
        json!({ "type": "user", "message": { "content": [[[]]] } })
    ));
    let text = lines(&[shown, asked()]);
    let (begin, rest) = text.split_at(text.len() / 2);
    record.append_text(begin);
    record.append_text(rest);
    scene.stage.comes(&id, ReceiptState::InContext).await;
    scene.running.shutdown().await;
}

/// Agents spec §1.8: a record that appears after its hook named it is read; until then nothing is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_comes_late_is_read() {
    let scene = Scene::new().await;
    let late = Record::new(scene.stage.home.path(), "late");
    scene.agent.hook_naming(HookEvent::Start, &late.path).await;
    scene.agent.record_is(PathState::Unreadable).await;
    let id = scene.stage.send(&scene.running, scene.agent.key, "hello").await;
    let mut messages = scene.agent.hook_naming(HookEvent::Prompt, &late.path).await.messages;
    scene.stage.comes(&id, ReceiptState::Handed).await;
    late.append(&[shown(&messages.remove(0)), asked(), ended()]);
    scene.stage.comes(&id, ReceiptState::TurnEnded).await;
    scene.running.shutdown().await;
}

/// Agents spec §1.8: only an ordinary file of the user, below the home, is read; of anything else nothing is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_no_records_prove_nothing() {
    let scene = Scene::new().await;
    let agent = &scene.agent;
    let (id, shown) = scene.handed("hello").await;
    let proof = lines(&[shown, asked(), ended()]);
    let outside = tempfile::TempDir::new().unwrap();
    let elsewhere = outside.path().join("a.jsonl");
    std::fs::write(&elsewhere, &proof).unwrap();
    let home = scene.stage.home.path();
    let link = home.join("link.jsonl");
    symlink(&elsewhere, &link).unwrap();
    symlink(outside.path(), home.join("dir")).unwrap();
    let forbidden = home.join("forbidden.jsonl");
    std::fs::write(&forbidden, &proof).unwrap();
    take_away(&forbidden);
    for path in [&elsewhere, &link, &home.join("dir/a.jsonl"), &forbidden, &home.join("none.jsonl")]
    {
        // Back to a good one in between, so that each is judged by itself.
        agent.hook(HookEvent::Edit).await;
        agent.record_is(PathState::Readable).await;
        agent.hook_naming(HookEvent::Edit, path).await;
        agent.record_is(PathState::Unreadable).await;
        assert_eq!(scene.state(&id).await, ReceiptState::Handed, "{}", path.display());
    }
    // Paths that cannot be one change nothing.
    agent.hook(HookEvent::Edit).await;
    agent.record_is(PathState::Readable).await;
    for path in ["relative.jsonl", "/etc/passwd", "/home/../a.jsonl", ""] {
        agent.hook_naming(HookEvent::Edit, Path::new(path)).await;
    }
    agent.record.append_text(&proof);
    scene.stage.comes(&id, ReceiptState::TurnEnded).await;
    scene.running.shutdown().await;
}

/// Nobody may read it any more, or it is somebody else's.
fn take_away(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o0)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
    }
}

/// Agents spec §1.8: what stands in a record when a session ends is read to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_session_that_has_ended_is_read_to_its_end() {
    let scene = Scene::new().await;
    let (id, shown) = scene.handed("hello").await;
    scene.agent.client.deregister_session().await.unwrap();
    scene.agent.record.append(&[shown, asked(), ended()]);
    scene.stage.comes(&id, ReceiptState::TurnEnded).await;
    until("the record belongs to nobody", async || {
        scene.running.client().sessions().await.unwrap().is_empty()
    })
    .await;
    scene.running.shutdown().await;
}
