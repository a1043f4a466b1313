//! The delivery chapter on a server's PostgreSQL, where pushes follow their commits: what the store decides must come out
//! the same as on SQLite.

use serde_json::json;
use sqlx::Connection as _;

use crate::leases::until_leased;
use crate::peers::Session;
use crate::restarts::process;
use crate::world::World;
use crate::{recipients, road, sending};

/// SND-1.
#[tokio::test]
async fn a_message_to_an_absent_member_waits_and_arrives_once() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(sending::a_message_to_an_absent_member_waits_and_arrives_once_on(&world)).await;
}

/// IDM-1.
#[tokio::test]
async fn a_hundred_times_the_same_on_four_sockets_is_one_message() {
    let Some(world) = World::on_postgres_with(|settings| settings.limits.send_burst = 100).await
    else {
        return;
    };
    Box::pin(sending::a_hundred_times_the_same_on_four_sockets_is_one_message_on(&world)).await;
}

/// IDM-2.
#[tokio::test]
async fn an_id_used_for_something_else_is_refused_even_in_flight() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(sending::an_id_used_for_something_else_is_refused_even_in_flight_on(&world)).await;
}

/// IDM-4.
#[tokio::test]
async fn a_duplicate_of_a_removed_message_says_so_and_is_not_sent_again() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(sending::a_duplicate_of_a_removed_message_says_so_and_is_not_sent_again_on(&world))
        .await;
}

/// IDM-5.
#[tokio::test]
async fn a_repeat_of_a_committed_message_costs_no_budget() {
    let Some(world) = World::on_postgres_with(|settings| {
        settings.limits.send_burst = 2;
        settings.limits.send_per_min = 1;
    })
    .await
    else {
        return;
    };
    Box::pin(sending::a_repeat_of_a_committed_message_costs_no_budget_on(&world)).await;
}

/// DLV-1.
#[tokio::test]
async fn an_unacknowledged_push_comes_again_with_doubled_patience() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(road::an_unacknowledged_push_comes_again_with_doubled_patience_on(&world)).await;
}

/// DLV-3.
#[tokio::test]
async fn a_thousand_messages_arrive_in_order_though_the_socket_is_cut_twenty_times() {
    let Some(world) = World::on_postgres_with(|settings| settings.limits.send_burst = 2_000).await
    else {
        return;
    };
    Box::pin(road::a_thousand_messages_arrive_in_order_though_the_socket_is_cut_twenty_times_on(
        &world,
    ))
    .await;
}

/// DLV-5.
#[tokio::test]
async fn a_push_without_ack_comes_again_on_the_next_socket() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(road::a_push_without_ack_comes_again_on_the_next_socket_on(&world)).await;
}

/// DLV-6.
#[tokio::test]
async fn an_ack_of_somebody_elses_message_changes_nothing() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(road::an_ack_of_somebody_elses_message_changes_nothing_on(&world)).await;
}

/// TGT-2.
#[tokio::test]
async fn a_message_to_an_ended_session_goes_to_its_member_for_seven_days() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(recipients::a_message_to_an_ended_session_goes_to_its_member_for_seven_days_on(
        &world,
    ))
    .await;
}

/// TGT-2b.
#[tokio::test]
async fn a_message_held_for_a_leased_session_moves_to_the_member_when_the_lease_ends() {
    let Some(world) = World::on_postgres().await else { return };
    recipients::a_message_held_for_a_leased_session_moves_to_the_member_when_the_lease_ends_on(
        &world,
    )
    .await;
}

/// TGT-4.
#[tokio::test]
async fn a_broadcast_waits_for_the_leased_and_the_absent_and_for_nobody_else() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(recipients::a_broadcast_waits_for_the_leased_and_the_absent_and_for_nobody_else_on(
        &world,
    ))
    .await;
}

/// RCV-2.
#[tokio::test]
async fn two_devices_both_get_a_member_row_and_the_first_ack_delivers_it() {
    let Some(world) = World::on_postgres().await else { return };
    Box::pin(recipients::two_devices_both_get_a_member_row_and_the_first_ack_delivers_it_on(
        &world,
    ))
    .await;
}

/// A daemon is killed, and its next process comes while a session stands in and has a row that is not acknowledged. A
/// younger row must not reach the new connection first, however long the store takes to write what the old process had
/// counted (found by `make chaos`).
#[tokio::test]
async fn a_device_that_comes_has_the_older_rows_before_a_younger_one() {
    let Some(world) = World::on_postgres().await else { return };
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut killed = world.connect(process(&world, &people[1], 1, "a")).await;
    killed.ask(json!({"type": "set_stats", "stats": {"messagesIn": 5}})).await;
    killed.cut();
    until_leased(&mut alice, 1).await;
    let mut stand_in = world.session(&people[1], &Session::new()).await;
    let to_bob = json!({"targetSpec": people[1].key.public()});
    let older = alice.message(to_bob.clone()).await;
    assert_eq!(stand_in.push().await["messageId"], older["messageId"]);

    let lock = Hold::of_writes(&world, "peer_state").await;
    let mut device = world.connect(process(&world, &people[1], 2, "a")).await;
    let younger = alice.message(to_bob).await;
    for expected in [&older, &younger] {
        assert_eq!(device.push().await["messageId"], expected["messageId"]);
    }
    lock.let_go().await;
}

/// A session leaves while a message waits for it, and the store takes its time to move that to the member: the next message
/// to the session goes to the member at once, and must not pass it.
#[tokio::test]
async fn what_an_ended_session_leaves_to_its_member_is_not_passed_on_the_way() {
    let Some(world) = World::on_postgres().await else { return };
    let people = world.mesh_of(&["alice", "bob"]).await;
    let mut alice = world.daemon(&people[0]).await;
    let mut device = world.daemon(&people[1]).await;
    let session = Session::new();
    let mut leaving = world.session(&people[1], &session).await;
    let to_session = json!({"targetSpec": session.key.public()});
    let older = alice.message(to_session.clone()).await;
    assert_eq!(leaving.push().await["messageId"], older["messageId"]);

    let lock = Hold::of_writes(&world, "peer_state").await;
    // The farewell is not over before the move is.
    tokio::join!(leaving.leave(), async {
        alice.event("peer_left").await;
        let younger = alice.message(to_session).await;
        assert_eq!(younger["rerouted_to"], json!(people[1].key.public()));
        lock.let_go().await;
        for expected in [&older, &younger] {
            assert_eq!(device.push().await["messageId"], expected["messageId"]);
        }
    });
}

/// Holds up whoever writes a table, as a busy database would.
struct Hold(sqlx::PgConnection);

impl Hold {
    async fn of_writes(world: &World, table: &str) -> Self {
        let url = world.settings.database_url.as_ref().unwrap();
        let mut database = sqlx::PgConnection::connect(url.expose()).await.unwrap();
        let sql = format!("BEGIN; LOCK TABLE {table} IN SHARE MODE");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut database).await.unwrap();
        Self(database)
    }

    async fn let_go(self) {
        self.0.close().await.unwrap();
    }
}
