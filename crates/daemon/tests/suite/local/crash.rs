//! The process dies between any two steps of an accept, of an operator's work and of writing small files (daemon spec
//! §10, §11, §26).

use claudemesh_daemon::clock;
use claudemesh_daemon::home::config::Config;
use claudemesh_ipc::api::{
    OutboxPruneRequest, OutboxQuery, RegisterRequest, RequeueRequest, RowStatus, SendRequest,
};
use claudemesh_protocol::Timestamp;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::process::DaemonProcess;
use super::world::{Home, letter, some_key, token, until};

/// Deaths at each point in an ordinary run.
const ROUNDS: usize = 5;
/// Deaths around the commit in a long run.
const LONG_ROUNDS: usize = 100;

fn once(to: &str) -> SendRequest {
    SendRequest { client_message_id: Some("once".to_owned()), ..letter(to, "hi") }
}

async fn die_and_retry(point: &str) -> usize {
    let home = Home::new();
    home.join("dev");
    let mut daemon = DaemonProcess::start(&home, &format!("{point}=kill")).await;
    let request = once(&some_key());
    assert!(daemon.client().send(&request).await.is_err());
    assert!(!daemon.ended().await.success());
    let daemon = DaemonProcess::start(&home, "").await;
    let before = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items.len();
    daemon.client().send(&request).await.unwrap();
    let after = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items.len();
    assert_eq!(after, 1, "{point}");
    before
}

/// Daemon spec §10 Accept 3: kill -9 at `accept.after_commit_before_reply`: client retry with the same key → 202/200, one row.
/// (One broker message: `mesh::crash`.)
#[tokio::test(flavor = "multi_thread")]
async fn death_after_the_commit_keeps_the_row() {
    for _ in 0..ROUNDS {
        assert_eq!(die_and_retry("accept.after_commit_before_reply").await, 1);
    }
}

/// Daemon spec §10 Accept 3: kill -9 at `accept.before_commit`: retry inserts cleanly.
#[tokio::test(flavor = "multi_thread")]
async fn death_before_the_commit_leaves_nothing() {
    for _ in 0..ROUNDS {
        assert_eq!(die_and_retry("accept.before_commit").await, 0);
    }
}

/// Daemon spec §11 Accept 2: failpoints around the commit, at random: no row that was answered 2xx is missing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_any_death() {
    deaths_around_the_commit(2 * ROUNDS).await;
}

/// Daemon spec §11 Accept 2: failpoints around the commit, 100×: no row that was answered 2xx is missing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: make test-all"]
async fn what_was_answered_survives_a_hundred_crashes() {
    deaths_around_the_commit(LONG_ROUNDS).await;
}

async fn deaths_around_the_commit(rounds: usize) {
    for (round, point) in ["commit.before_fsync", "commit.after_fsync_before_reply"]
        .iter()
        .cycle()
        .take(rounds)
        .enumerate()
    {
        let home = Home::new();
        home.join("dev");
        // The first commits are those of the start.
        let failpoints = format!("{point}=kill@{}", 9 + 2 * (round % 20));
        let mut daemon = DaemonProcess::start(&home, &failpoints).await;
        let to = some_key();
        let letters: Vec<_> = (0..160).map(|n| letter(&to, &n.to_string())).collect();
        let mut answered = Vec::new();
        for chunk in letters.chunks(3) {
            let sends = chunk.iter().map(|letter| daemon.client().send(letter));
            let answers = futures_util::future::join_all(sends).await;
            let is_over = answers.iter().any(Result::is_err);
            answered.extend(
                answers.into_iter().filter_map(Result::ok).map(|reply| reply.client_message_id),
            );
            if is_over {
                break;
            }
        }
        assert!(!daemon.ended().await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        let query = OutboxQuery { limit: Some(500), ..OutboxQuery::default() };
        let rows = daemon.client().outbox(&query).await.unwrap().items;
        for id in &answered {
            assert!(
                rows.iter().any(|row| row.client_message_id == *id),
                "{point}: {id} is missing"
            );
        }
    }
}

/// Daemon spec §11.8: the old row and the new one change together.
#[tokio::test(flavor = "multi_thread")]
async fn death_in_the_middle_of_a_requeue_changes_nothing() {
    for _ in 0..ROUNDS {
        let home = Home::new();
        home.join("dev");
        let mut daemon = DaemonProcess::start(&home, "requeue.mid_tx=kill").await;
        daemon.client().send(&once(&some_key())).await.unwrap();
        let requeue = RequeueRequest { id: "once".to_owned(), ..RequeueRequest::default() };
        assert!(daemon.client().outbox_requeue(&requeue).await.is_err());
        assert!(!daemon.ended().await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        let rows = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items;
        assert_eq!((rows.len(), rows[0].status), (1, RowStatus::Pending));
        daemon.client().outbox_requeue(&requeue).await.unwrap();
        let rows = daemon.client().outbox(&OutboxQuery::default()).await.unwrap().items;
        let states: Vec<_> = rows.iter().map(|row| row.status).collect();
        assert_eq!(states, [RowStatus::Pending, RowStatus::Aborted]);
    }
}

/// Makes every row done, long ago.
async fn settle_long_ago(home: &Home) {
    let options = SqliteConnectOptions::new().filename(home.paths.outbox_file());
    let mut conn = options.connect().await.unwrap();
    let long_ago = Timestamp::from_millis(1).as_millis();
    let sql = "UPDATE outbox SET status='done', delivered_at=$1";
    sqlx::query(sql).bind(long_ago).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// Daemon spec §11.7: pruning goes on where it was interrupted; what proves that an id was used stays.
#[tokio::test(flavor = "multi_thread")]
async fn death_in_the_middle_of_pruning_is_made_up_for() {
    for _ in 0..ROUNDS {
        let home = Home::new();
        home.join("dev");
        let mut daemon = DaemonProcess::start(&home, "").await;
        let request = once(&some_key());
        daemon.client().send(&request).await.unwrap();
        daemon.kill();
        settle_long_ago(&home).await;
        // It prunes at once when it starts, and dies of it, before or after it answers for the first time.
        let mut child = super::process::command(&home)
            .env("CLAUDEMESH_FAILPOINTS", "prune.mid=kill")
            .spawn()
            .unwrap();
        assert!(!super::process::ended(&mut child).await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        until("the text is gone", || async {
            daemon.client().outbox_row("once").await.unwrap().row.payload_bytes == 0
        })
        .await;
        let prune = OutboxPruneRequest { confirm: true, older_than: Some(0) };
        assert_eq!(daemon.client().outbox_prune(&prune).await.unwrap().compacted, 0);
        assert!(daemon.client().send(&request).await.unwrap().duplicate, "the id stays used");
    }
}

/// Daemon spec §2 Accept 3: the small files are the old ones or the new ones, never a half.
#[tokio::test(flavor = "multi_thread")]
async fn death_while_the_sessions_are_written_leaves_the_file_whole() {
    for _ in 0..ROUNDS {
        let home = Home::new();
        home.join("dev");
        let mut daemon = DaemonProcess::start(&home, "sessions.mid_write=kill").await;
        let request = RegisterRequest::stored(
            token(1),
            super::world::UUID.to_owned(),
            "dev".to_owned(),
            "one".to_owned(),
            std::process::id(),
        );
        let client = daemon.client().clone().with_token(Some(request.token.clone()));
        let _overtaken_by_the_death = client.register_session(&request).await;
        assert!(!daemon.ended().await.success());
        let daemon = DaemonProcess::start(&home, "").await;
        let client = daemon.client().clone().with_token(Some(request.token.clone()));
        client.register_session(&request).await.unwrap();
        assert_eq!(client.session().await.unwrap().session_id, super::world::UUID);
    }
}

/// Daemon spec §2 Accept 3: as above for all other small files, which take one road; the first that a start writes is the pid.
#[tokio::test(flavor = "multi_thread")]
async fn death_while_a_small_file_is_written_leaves_the_others_whole() {
    for _ in 0..ROUNDS {
        let home = Home::new();
        home.join("dev");
        let before = Config::read(&home.paths.membership_file()).unwrap();
        let mut child = super::process::command(&home)
            .env("CLAUDEMESH_FAILPOINTS", "config.mid_write=kill")
            .spawn()
            .unwrap();
        assert!(!super::process::ended(&mut child).await.success());
        let after = Config::read(&home.paths.membership_file()).unwrap();
        assert_eq!(before.meshes().count(), after.meshes().count());
        let daemon = DaemonProcess::start(&home, "").await;
        let started = daemon.client().version().await.unwrap().started_at;
        assert!(Timestamp::parse_iso(&started).unwrap() <= clock::now());
    }
}
