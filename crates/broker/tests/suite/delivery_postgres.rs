//! The delivery chapter on a server's PostgreSQL, where pushes follow their commits: what the store decides must come out
//! the same as on SQLite.

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
