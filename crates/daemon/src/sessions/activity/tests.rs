//! What moves the gate of a session.

use super::*;

/// A row that moved to the member keeps its number; what was told since is not told again with it.
#[tokio::test]
async fn an_old_number_that_waits_brings_nothing_back() {
    let activity = Activity::default();
    assert_eq!(admit(&activity, Priority::Next, 7), Lane::Push);
    activity.hook(event(HookEvent::Prompt));
    assert_eq!(admit(&activity, Priority::Next, 3), Lane::Held);
    assert!(activity.is_waiting(3) && !activity.is_waiting(7));
    activity.hook(event(HookEvent::Stop));
    assert_eq!(activity.begin_release(), Some(3));
    let told: Vec<i64> = (3..9).filter(|seq| activity.was_held(*seq)).collect();
    assert_eq!(told, [3]);
    assert!(!activity.was_held(3), "once");
    assert_eq!(activity.next_release(), None);
}

fn event(event: HookEvent) -> Report {
    Report { event: Some(event), ..Report::default() }
}

fn admit(activity: &Activity, priority: Priority, seq: i64) -> Lane {
    activity.admit(MessageMode::Push, priority, seq)
}

#[tokio::test]
async fn next_waits_for_a_working_session_and_now_does_not() {
    let activity = Activity::default();
    assert_eq!(admit(&activity, Priority::Next, 1), Lane::Push);
    let prompt = activity.hook(event(HookEvent::Prompt));
    assert_eq!(
        prompt,
        Change {
            status: Some(PeerStatus::Working),
            reported: Some(PeerStatus::Working),
            opening: Opening::All
        }
    );
    assert_eq!(admit(&activity, Priority::Now, 2), Lane::Push);
    assert_eq!(admit(&activity, Priority::Low, 3), Lane::Quiet);
    assert_eq!(admit(&activity, Priority::Next, 4), Lane::Held);
    assert_eq!(admit(&activity, Priority::Next, 5), Lane::Held);
    let tool = activity.hook(event(HookEvent::Tool));
    assert_eq!((tool.status, tool.opening), (None, Opening::Urgent));
    assert_eq!(activity.hook(event(HookEvent::Edit)).opening, Opening::Closed);
    let stop = activity.hook(event(HookEvent::Stop));
    assert_eq!((stop.status, stop.opening), (Some(PeerStatus::Idle), Opening::All));
    assert_eq!(activity.begin_release(), Some(4));
    assert_eq!(activity.begin_release(), None, "somebody is at it");
    assert_eq!(admit(&activity, Priority::Next, 6), Lane::Held, "behind the others");
    assert_eq!(activity.next_release(), Some(6));
    assert_eq!(activity.next_release(), None);
    assert_eq!(admit(&activity, Priority::Next, 7), Lane::Push);
}

/// Daemon §8.7: a manual `dnd` is never overridden by a hook.
#[tokio::test]
async fn only_the_person_leaves_dnd() {
    let activity = Activity::default();
    activity.set_by_hand(PeerStatus::Dnd);
    assert_eq!(admit(&activity, Priority::Next, 1), Lane::Held);
    for report in [
        event(HookEvent::Stop),
        event(HookEvent::Prompt),
        Report { status: Some(PeerStatus::Idle), ..Report::default() },
    ] {
        assert_eq!(
            activity.hook(report),
            Change { status: None, reported: None, opening: Opening::Urgent },
            "{report:?}"
        );
    }
    let change = activity.set_by_hand(PeerStatus::Idle);
    assert_eq!((change.status, change.opening), (Some(PeerStatus::Idle), Opening::All));
    assert_eq!(activity.begin_release(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_manual_working_ends_by_itself_and_a_reported_one_does_not() {
    let (manual, reported) = (Activity::default(), Activity::default());
    manual.set_by_hand(PeerStatus::Working);
    reported.hook(event(HookEvent::Prompt));
    assert!(!manual.expire());
    tokio::time::advance(MANUAL_WORKING_TTL).await;
    assert!(manual.expire() && !reported.expire());
    assert_eq!((manual.status(), reported.status()), (PeerStatus::Idle, PeerStatus::Working));
}

/// Daemon §10.6: only a prompt of human origin clears the hops; in doubt it is not human.
#[tokio::test]
async fn hops_grow_until_a_person_speaks() {
    let activity = Activity::default();
    assert_eq!(activity.next_hops(), 0);
    activity.was_shown(4);
    activity.was_shown(2);
    assert_eq!(activity.next_hops(), 5);
    for origin in [None, Some(PromptOrigin::Push), Some(PromptOrigin::Other)] {
        activity.hook(Report { origin, ..event(HookEvent::Prompt) });
        assert_eq!(activity.next_hops(), 5, "{origin:?}");
    }
    let human = Some(PromptOrigin::Human);
    activity.hook(Report { origin: human, ..event(HookEvent::Stop) });
    assert_eq!(activity.next_hops(), 5, "only a prompt");
    activity.hook(Report { origin: human, ..event(HookEvent::Prompt) });
    assert_eq!(activity.next_hops(), 0);
}

/// Daemon §10.6: the record says later that a person typed; what was shown since then goes on counting.
#[tokio::test]
async fn what_was_shown_after_a_person_spoke_still_counts() {
    let activity = Activity::default();
    let now = crate::clock::now();
    activity.was_shown(4);
    activity.was_shown(1);
    activity.human_spoke(now.minus(Duration::from_mins(1)));
    assert_eq!(activity.next_hops(), 5, "both came after that");
    activity.human_spoke(now.plus(Duration::from_secs(1)));
    assert_eq!(activity.next_hops(), 5, "both came along with it");
    activity.human_spoke(now.plus(Duration::from_mins(1)));
    assert_eq!(activity.next_hops(), 0);
    activity.was_shown(2);
    assert_eq!(activity.next_hops(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_live_path_that_shows_nothing_is_passed_over_after_a_minute() {
    let activity = Arc::new(Activity::default());
    activity.was_offered("m");
    assert!(!activity.is_under_way("m"), "nobody listens");
    let stream = activity.open_stream();
    assert!(activity.has_live_path() && activity.is_under_way("m"));
    drop(stream);
    assert!(activity.is_under_way("m"), "it may come back");
    tokio::time::advance(LIVE_PATH_GRACE).await;
    let _stream = activity.open_stream();
    assert!(!activity.is_under_way("m"));
}

#[test]
fn modes_come_before_the_gate() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    let activity = Activity::default();
    for priority in [Priority::Now, Priority::Next, Priority::Low] {
        assert_eq!(activity.admit(MessageMode::Off, priority, 1), Lane::Off);
        assert_eq!(activity.admit(MessageMode::Inbox, priority, 1), Lane::Quiet);
    }
}
