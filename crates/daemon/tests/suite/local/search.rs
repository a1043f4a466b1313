//! Full-text search of the inbox (daemon spec §13.6).

use claudemesh_daemon::Running;
use claudemesh_ipc::Client;
use claudemesh_ipc::api::RecipientKind;
use claudemesh_ipc::api::inbox::{FlushQuery, SearchQuery};
use claudemesh_protocol::PublicKey;

use super::inbox::{item, put};
use super::world::{Home, code, register, until};

async fn say(running: &Running, member: PublicKey, id: &str, text: &str) {
    let mut new = item(member, RecipientKind::Member, id);
    new.body = Some(text.to_owned());
    put(running, new).await;
}

fn query(text: &str) -> SearchQuery {
    SearchQuery { q: text.to_owned(), ..SearchQuery::default() }
}

async fn found(client: &Client, text: &str) -> Vec<String> {
    let page = client.inbox_search(&query(text)).await.unwrap();
    page.items.into_iter().map(|found| found.item.client_message_id).collect()
}

/// daemon §13.6: expressions, marks, diacritics; a syntax error falls back to a phrase; deletion is followed.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_found_by_their_words() {
    let home = Home::new();
    let member = home.join("dev").public();
    let running = home.start().await;
    let client = running.client();
    say(&running, member, "a", "the build of café is red").await;
    say(&running, member, "b", "rebuild the index: NEAR(quote \"unbalanced").await;
    say(&running, member, "c", "nothing of interest").await;
    assert_eq!(found(&client, "build").await, ["a"]);
    assert_eq!(found(&client, "build OR interest").await, ["c", "a"], "newest first");
    assert_eq!(found(&client, "cafe").await, ["a"]);
    assert_eq!(found(&client, "body : red").await, ["a"]);
    assert_eq!(found(&client, "quote \"unbalanced").await, ["b"], "taken as a phrase");
    assert_eq!(found(&client, "Ann").await.len(), 3, "by sender");
    assert!(found(&client, "absent").await.is_empty());
    let page = client.inbox_search(&query("build")).await.unwrap();
    assert_eq!(page.items[0].snippet, "the [build] of café is red");
    assert!(page.items[0].rank < 0.0);
    for bad in ["", "   "] {
        assert_eq!(code(client.inbox_search(&query(bad)).await), "invalid_field");
    }
    let row = page.items[0].item.id.clone();
    client.inbox_delete(&row).await.unwrap();
    assert!(found(&client, "build").await.is_empty());
    running.shutdown().await;
}

/// daemon §13.4, §13.7: a search sees what a listing sees, page by page.
#[tokio::test(flavor = "multi_thread")]
async fn findings_stay_in_scope_and_come_in_pages() {
    let home = Home::new();
    let member = home.join("dev").public();
    let running = home.start().await;
    let (a, a_reply) = register(&running, "dev", 1, |_| {}).await;
    let (b, _) = register(&running, "dev", 2, |_| {}).await;
    put(&running, item(a_reply.session_pubkey.unwrap(), RecipientKind::Session, "only-a")).await;
    for n in 0..25 {
        say(&running, member, &format!("m{n:02}"), "text for all").await;
    }
    assert_eq!(found(&a, "text").await.len(), 26);
    assert_eq!(found(&b, "text").await.len(), 25);
    let mut request = SearchQuery { limit: Some(10), ..query("text") };
    let mut ids = Vec::new();
    loop {
        let page = a.inbox_search(&request).await.unwrap();
        ids.extend(page.items.into_iter().map(|found| found.item.client_message_id));
        say(&running, member, &format!("late-{}", ids.len()), "text that is late").await;
        match page.next_cursor {
            Some(cursor) => request.cursor = Some(cursor),
            None => break,
        }
    }
    let mut expected: Vec<_> = (0..25).rev().map(|n| format!("m{n:02}")).collect();
    expected.push("only-a".to_owned());
    assert_eq!(ids, expected, "stable under arrivals");
    assert_eq!(
        code(a.inbox_search(&SearchQuery { cursor: Some("x".to_owned()), ..query("text") }).await),
        "invalid_field"
    );
    running.shutdown().await;
}

/// daemon §13.6: rebuilt in the background when toggled on; rows that came, went or were deleted meanwhile are right.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_toggled_on_finds_what_came_before() {
    let home = Home::new();
    let member = home.join("dev").public();
    home.settings("[inbox]\nfts = false\n");
    let running = home.start().await;
    for n in 0..1_200 {
        say(&running, member, &format!("m{n}"), &format!("old number {n}")).await;
    }
    assert_eq!(code(running.client().inbox_search(&query("old")).await), "not_found");
    running.shutdown().await;
    home.settings("[inbox]\nfts = true\n");
    let running = home.start().await;
    let client = running.client();
    say(&running, member, "new", "new number").await;
    let all = SearchQuery { limit: Some(200), ..query("number") };
    until("all are found", || async {
        let mut request = all.clone();
        let mut count = 0;
        loop {
            let page = client.inbox_search(&request).await.unwrap();
            count += page.items.len();
            match page.next_cursor {
                Some(cursor) => request.cursor = Some(cursor),
                None => break,
            }
        }
        count == 1_201
    })
    .await;
    // An index with wrong entries would fail its own check at deletion.
    let everything = FlushQuery { all: Some(true), ..FlushQuery::default() };
    assert_eq!(client.inbox_flush(&everything).await.unwrap().removed, 1_201);
    assert!(found(&client, "number").await.is_empty());
    say(&running, member, "again", "number one").await;
    assert_eq!(found(&client, "number").await, ["again"]);
    running.shutdown().await;
}
