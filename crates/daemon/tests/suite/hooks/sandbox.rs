//! What a hook is kept from (daemon spec §16.7), as far as this machine can.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use claudemesh_daemon::hooks::{Isolation, Runner};
use claudemesh_ipc::api::hooks::HooksTestRequest;
use serde_json::json;
use tokio::net::TcpListener;

use super::stage::{Hooked, runner, skipped};

fn has_namespaces() -> bool {
    let made = Command::new("unshare").args(["-Urn", "true"]).status();
    made.is_ok_and(|status| status.success())
}

fn asked(hook: &str) -> HooksTestRequest {
    HooksTestRequest { hook: hook.to_owned(), mesh: Some("home".to_owned()), message_id: None }
}

/// §16 Accept 7: with user namespaces `curl` to a TCP port of this machine fails under deny, and reaches it under allow; the
/// daemon's socket stays reachable.
#[tokio::test]
async fn the_network_is_closed_where_the_kernel_can() {
    if !has_namespaces() || !Path::new("/usr/bin/curl").exists() {
        return skipped("no user namespaces, or no /usr/bin/curl");
    }
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    let hooked = Hooked::new();
    hooked.sections(
        "[on-dm]\nenabled = true\nfs_policy = \"rw\"\nrequire_sandbox = true\ncapability_token_scope = [\"reply:event\"]\n\
         [on-message]\nenabled = true\nfs_policy = \"rw\"\nnetwork_policy = \"allow\"\n",
    );
    let try_it = format!(
        "/usr/bin/curl -s --max-time 2 http://{address}/; echo tcp $? >&2; id -u >&2\n\
         /usr/bin/curl -s -o /dev/null -w '%{{http_code}}' --unix-socket $CLAUDEMESH_DAEMON_SOCK http://localhost/v1/health >&2"
    );
    hooked.hook("on-dm", &try_it);
    hooked.hook("on-message", &try_it);
    let running = hooked.start().await;
    let own = rustix::process::geteuid().as_raw();
    let denied = running.client().hooks_test(&asked("on-dm")).await.unwrap();
    assert_eq!(denied.stderr, format!("tcp 7\n{own}\n200"), "{denied:?}");
    assert_eq!(denied.run["sandbox"], json!("enforced"));
    let nobody = tokio::time::timeout(Duration::from_millis(1), port.accept()).await;
    assert!(nobody.is_err(), "somebody came");
    let client = running.client();
    let mut testing = tokio::task::JoinSet::new();
    testing.spawn(async move { client.hooks_test(&asked("on-message")).await });
    let (stream, _) =
        tokio::time::timeout(Duration::from_secs(10), port.accept()).await.unwrap().unwrap();
    drop(stream);
    let allowed = testing.join_next().await.unwrap().unwrap().unwrap();
    assert!(!allowed.stderr.starts_with("tcp 7\n"), "it was let in: {allowed:?}");
    assert_eq!(allowed.run["sandbox"], json!("none"));
    running.shutdown().await;
}

/// §16 Accept 7: `require_sandbox` on a kernel without namespaces skips the run; without it the hook runs, which is counted.
#[tokio::test]
async fn what_cannot_be_enforced_is_counted_or_a_reason_not_to_run() {
    let hooked = Hooked::new();
    hooked.sections(
        "[on-dm]\nenabled = true\nfs_policy = \"rw\"\nrequire_sandbox = true\n[on-message]\nenabled = true\n",
    );
    hooked.hook("on-dm", "echo ran > $OUT/dm");
    hooked.hook("on-message", "echo ran > $OUT/message");
    let running = hooked.start_with(Runner { isolation: Isolation::Missing, ..runner() }).await;
    let skipped = running.client().hooks_test(&asked("on-dm")).await.unwrap();
    assert!(
        !skipped.ok && skipped.run["refused"].as_str().unwrap().contains("policy"),
        "{skipped:?}"
    );
    let ran = running.client().hooks_test(&asked("on-message")).await.unwrap();
    assert_eq!((ran.ok, &ran.run["sandbox"]), (true, &json!("none")));
    assert_eq!((hooked.left("dm"), hooked.left("message").as_deref()), (None, Some("ran\n")));
    let figures = running.daemon().hooks().metrics();
    assert_eq!(figures[0].invocations["not_run"], 1);
    assert_eq!(figures[0].unenforceable["network_no_namespaces"], 1);
    assert_eq!(figures[1].unenforceable["fs_no_sandbox_asked_for"], 1);
    running.shutdown().await;
}

/// With `bwrap` a hook writes nothing, and under `sandbox` it does not see its user's files.
#[tokio::test]
async fn files_are_closed_where_bubblewrap_can() {
    if !Path::new("/usr/bin/bwrap").exists() {
        return skipped("/usr/bin/bwrap is not installed");
    }
    let hooked = Hooked::new();
    hooked.sections(
        "[on-dm]\nenabled = true\nsandbox = \"bubblewrap\"\nrequire_sandbox = true\n\
         [on-message]\nenabled = true\nsandbox = \"bubblewrap\"\nfs_policy = \"sandbox\"\nrequire_sandbox = true\n",
    );
    let script = "echo x > /var/tmp/written.$$ && echo written >&2\necho x > /tmp/written && echo tmp >&2\nls -d /root/.* /home/* 2>/dev/null | grep -vE '/\\.+$' | head -1 >&2";
    hooked.hook("on-dm", script);
    hooked.hook("on-message", script);
    let running = hooked.start().await;
    let confined = running.client().hooks_test(&asked("on-dm")).await.unwrap();
    assert_eq!(confined.run["sandbox"], json!("enforced"), "{confined:?}");
    assert!(
        !confined.stderr.contains("written\n") && confined.stderr.contains("tmp\n"),
        "{confined:?}"
    );
    let hidden = running.client().hooks_test(&asked("on-message")).await.unwrap();
    assert!(hidden.stderr.ends_with("tmp\n"), "{hidden:?}");
    running.shutdown().await;
}
