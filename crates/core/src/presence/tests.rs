//! Reattachment, replacement and roles.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const LEASED: Lease = Lease::Until(NOW);

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

pub(crate) fn presence(id: &str, member: &str, session_key: Option<PublicKey>) -> Presence {
    Presence {
        id: PresenceId::new(id),
        member_id: MemberId::new(member),
        member_key: key(200),
        session_key,
        handshake: if session_key.is_some() { Handshake::Session } else { Handshake::Member },
        role: if session_key.is_some() { PeerRole::Session } else { PeerRole::ControlPlane },
        display_name: String::new(),
        client: ClientInfo { session_id: "s".to_owned(), ..ClientInfo::default() },
        status: StatusRecord::initial(NOW),
        summary: None,
        groups: Vec::new(),
        is_visible: true,
        profile: Profile::default(),
        stats: None,
        session_caps: None,
        attestation: None,
        connected_at: NOW,
    }
}

fn arrival<'a>(
    handshake: Handshake,
    member_id: &'a MemberId,
    session_key: Option<PublicKey>,
    session_id: &'a str,
) -> Arrival<'a> {
    Arrival {
        handshake,
        member_id,
        session_key,
        session_id,
        host_fingerprint: None,
        role: role_of(handshake, None, None),
        channel: None,
        is_transient: false,
    }
}

/// LEASE-2, LEASE-3.
#[test]
fn a_session_returns_by_its_key_and_nobody_else_does() {
    let old = presence("p", "alice", Some(key(1)));
    let (alice, mallory) = (MemberId::new("alice"), MemberId::new("mallory"));
    for lease in [Lease::Online, LEASED] {
        let back = arrival(Handshake::Session, &alice, Some(key(1)), "s");
        let place_one = |arrival| place(&arrival, [(&old, lease)].into_iter());
        assert_eq!(place_one(back), Placement::Reattach(PresenceId::new("p")));
        let thief = arrival(Handshake::Session, &mallory, Some(key(1)), "s");
        assert_eq!(place_one(thief), Placement::New { replaces: vec![] });
    }
}

/// Broker spec §2.2: whoever only sends something leaves a leased presence to its lease, and one that returns does not
/// become as silent as the other.
#[test]
fn a_transient_arrival_and_a_lasting_presence_leave_each_other_alone() {
    let alice = MemberId::new("alice");
    let lasting = presence("p", "alice", Some(key(1)));
    let mut passing = lasting.clone();
    passing.id = PresenceId::new("q");
    passing.client.capabilities = vec!["transient".to_owned()];
    let back = arrival(Handshake::Session, &alice, Some(key(1)), "s");
    let call = Arrival { is_transient: true, ..back };
    for lease in [Lease::Online, LEASED] {
        let alone = Placement::New { replaces: vec![] };
        assert_eq!(place(&call, [(&lasting, lease)].into_iter()), alone);
        assert_eq!(place(&back, [(&passing, lease)].into_iter()), alone);
        let both = || [(&lasting, lease), (&passing, lease)].into_iter();
        assert_eq!(place(&back, both()), Placement::Reattach(PresenceId::new("p")));
        assert_eq!(place(&call, both()), Placement::Reattach(PresenceId::new("q")));
    }
}

#[test]
fn a_member_hello_returns_to_a_lease_only() {
    let old = presence("p", "alice", None);
    let alice = MemberId::new("alice");
    let back = arrival(Handshake::Member, &alice, None, "s");
    let replaced = Placement::New { replaces: vec![PresenceId::new("p")] };
    assert_eq!(
        place(&back, [(&old, LEASED)].into_iter()),
        Placement::Reattach(PresenceId::new("p"))
    );
    assert_eq!(place(&back, [(&old, Lease::Online)].into_iter()), replaced);
    let other = arrival(Handshake::Member, &alice, None, "t");
    assert_eq!(place(&other, [(&old, LEASED)].into_iter()), Placement::New { replaces: vec![] });
}

#[test]
fn two_machines_with_the_same_session_id_stay_apart() {
    let mut old = presence("p", "alice", None);
    old.client.host_fingerprint = Some("one".to_owned());
    let alice = MemberId::new("alice");
    let mut newer = arrival(Handshake::Member, &alice, None, "s");
    newer.host_fingerprint = Some("two");
    for lease in [Lease::Online, LEASED] {
        assert_eq!(place(&newer, [(&old, lease)].into_iter()), Placement::New { replaces: vec![] });
    }
}

/// Broker spec §2.2: what a killed daemon left behind is continued by its successor.
#[test]
fn a_restarted_daemon_continues_what_its_machine_left_behind() {
    let alice = MemberId::new("alice");
    let left = |id: &str, session_id: &str, at: i64| {
        let mut one = presence(id, "alice", None);
        one.client.session_id = session_id.to_owned();
        one.client.host_fingerprint = Some("one".to_owned());
        one.client.channel = Some("daemon".to_owned());
        one.connected_at = Timestamp::from_millis(at);
        one
    };
    let (older, newer) = (left("p", "daemon-1", 1), left("q", "daemon-2", 2));
    let mut back = arrival(Handshake::Member, &alice, None, "daemon-3");
    (back.host_fingerprint, back.channel) = (Some("one"), Some("daemon"));
    let both = || [(&newer, LEASED), (&older, LEASED)].into_iter();
    let continues = |id: &str| Placement::Reattach(PresenceId::new(id));
    let new = Placement::New { replaces: vec![] };
    assert_eq!(place(&back, both()), continues("q"));
    // Its own id says more than its machine.
    assert_eq!(place(&Arrival { session_id: "daemon-1", ..back }, both()), continues("p"));
    // Not what is connected, nor what another machine or another program left, nor anything as somebody else.
    assert_eq!(place(&back, [(&newer, Lease::Online)].into_iter()), new);
    let mallory = MemberId::new("mallory");
    for other in [
        Arrival { host_fingerprint: Some("two"), ..back },
        Arrival { host_fingerprint: None, ..back },
        Arrival { channel: Some("connector"), ..back },
        Arrival { role: PeerRole::Service, ..back },
        Arrival { session_key: Some(key(1)), ..back },
        Arrival { is_transient: true, ..back },
        Arrival { member_id: &mallory, ..back },
    ] {
        assert_eq!(place(&other, both()), new, "{other:?}");
    }
    // Whoever replaces its own open socket leaves the lease of another process alone.
    let mut open = left("r", "daemon-3", 3);
    open.client.host_fingerprint = None;
    let replaced = Placement::New { replaces: vec![PresenceId::new("r")] };
    assert_eq!(place(&back, [(&newer, LEASED), (&open, Lease::Online)].into_iter()), replaced);
}

#[test]
fn roles_follow_the_handshake() {
    assert_eq!(role_of(Handshake::Session, Some("service"), None), PeerRole::Session);
    assert_eq!(role_of(Handshake::Member, None, Some("ai")), PeerRole::ControlPlane);
    assert_eq!(role_of(Handshake::Member, None, Some("bridge")), PeerRole::Service);
    assert_eq!(role_of(Handshake::Member, Some("service"), None), PeerRole::Service);
    assert_eq!(role_of(Handshake::Member, Some("control-plane"), None), PeerRole::ControlPlane);
}

#[test]
fn who_acknowledges_and_who_takes_member_rows() {
    let mut peer = presence("p", "alice", None);
    assert!(peer.is_device() && !peer.acknowledges());
    peer.client.channel = Some("claudemesh-daemon".to_owned());
    assert!(peer.acknowledges());
    peer.client.capabilities = vec!["transient".to_owned()];
    assert!(!peer.is_device() && !peer.is_stand_in());
    let session = presence("p", "alice", Some(key(1)));
    assert!(!session.is_device() && session.is_stand_in());
    let mut ephemeral = session.clone();
    ephemeral.client.capabilities = vec!["ephemeral".to_owned()];
    assert!(!ephemeral.is_device() && !ephemeral.is_stand_in());
    let mut one_shot = session;
    one_shot.role = PeerRole::ControlPlane;
    assert!(!one_shot.is_device() && !one_shot.is_stand_in());
}

proptest! {
    /// LEASE-3.
    #[test]
    fn no_arrival_touches_another_members_presence(
        others in prop::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 0..12),
        session in prop::option::of(0_u8..3),
    ) {
        let presences: Vec<(Presence, Lease)> = others
            .iter()
            .enumerate()
            .map(|(index, (member, session, is_leased))| {
                let session_key = (*session > 0).then(|| key(*session));
                let one = presence(&index.to_string(), &member.to_string(), session_key);
                (one, if *is_leased { LEASED } else { Lease::Online })
            })
            .collect();
        let me = MemberId::new("0");
        let handshake = if session.is_some() { Handshake::Session } else { Handshake::Member };
        let arriving = arrival(handshake, &me, session.map(key), "s");
        let touched = match place(&arriving, presences.iter().map(|(one, lease)| (one, *lease))) {
            Placement::Reattach(id) => vec![id],
            Placement::New { replaces } => replaces,
        };
        for (one, _) in &presences {
            prop_assert!(!touched.contains(&one.id) || one.member_id == me);
        }
    }
}
