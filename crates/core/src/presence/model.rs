//! Whole lives of presences over random schedules, against a model that knows sessions and nothing of presences.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::presence;
use super::*;
use crate::lease::LeaseBook;

const LEASE: Duration = Duration::from_secs(90);
const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// What happens to one of two members' three programs.
#[derive(Debug, Clone)]
enum Step {
    /// A session says hello, with its first or its second key.
    Session { member: usize, program: usize, key: u8 },
    /// A daemon says hello.
    Daemon { member: usize, program: usize },
    /// A socket is lost.
    Cut(usize),
    /// A client leaves on purpose.
    Leave(usize),
    /// Seconds pass, or somebody sets the clock.
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..2, 0_usize..3, 0_u8..2)
            .prop_map(|(member, program, key)| Step::Session { member, program, key }),
        2 => (0_usize..2, 0_usize..2).prop_map(|(member, program)| Step::Daemon { member, program }),
        4 => (0_usize..8).prop_map(Step::Cut),
        1 => (0_usize..8).prop_map(Step::Leave),
        3 => prop_oneof![8 => 0_i64..70, 1 => -7_200_i64..7_200].prop_map(Step::Pass),
    ]
}

/// The rules under test, put together the way a broker does.
#[derive(Default)]
struct Broker {
    presences: BTreeMap<PresenceId, (Presence, Lease)>,
    leases: LeaseBook,
    made: usize,
}

impl Broker {
    fn set(&mut self, id: &PresenceId, lease: Lease) {
        if let Some((_, now)) = self.presences.get_mut(id) {
            let before = std::mem::replace(now, lease);
            self.leases.change(id, before, lease);
        }
    }

    fn end(&mut self, id: &PresenceId) {
        let (_, lease) = self.presences.remove(id).expect("it ends once");
        self.leases.forget(id, lease);
    }

    fn hello(&mut self, arriving: &Presence) -> PresenceId {
        let arrival = Arrival {
            handshake: arriving.handshake,
            member_id: &arriving.member_id,
            session_key: arriving.session_key,
            session_id: &arriving.client.session_id,
            host_fingerprint: None,
            role: arriving.role,
            channel: None,
            is_transient: arriving.is_transient(),
        };
        let all = self.presences.values().map(|(one, lease)| (one, *lease));
        match place(&arrival, all) {
            Placement::Reattach(id) => {
                self.set(&id, Lease::Online);
                id
            }
            Placement::New { replaces } => {
                for id in &replaces {
                    self.end(id);
                }
                self.made += 1;
                let id = PresenceId::new(format!("{:04}", self.made));
                let presence = Presence { id: id.clone(), ..arriving.clone() };
                self.presences.insert(id.clone(), (presence, Lease::Online));
                id
            }
        }
    }
}

/// What somebody outside sees of one program of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    presence: PresenceId,
    key: Option<u8>,
    lease: Lease,
}

fn arriving(member: usize, program: usize, key: Option<u8>) -> Presence {
    let session_key = key
        .map(|key| PublicKey::from_bytes([u8::try_from(program).unwrap_or(0) * 2 + key + 1; 32]));
    let mut one = presence("", &format!("member-{member}"), session_key);
    let kind = if key.is_some() { "session" } else { "daemon" };
    one.client.session_id = format!("{kind}-{program}");
    one
}

proptest! {
    /// LEASE-1, LEASE-2, LEASE-3: a session keeps its presence while it is never gone for the length of a lease, and
    /// otherwise never; nobody touches another member's; every end comes once.
    #[test]
    fn lives_of_presences_agree_with_the_model(steps in prop::collection::vec(step(), 0..120)) {
        let mut broker = Broker::default();
        let mut model: BTreeMap<(usize, bool, usize), Seen> = BTreeMap::new();
        let mut now = START;
        for step in steps {
            match step {
                Step::Session { member, program, key } => {
                    let id = broker.hello(&arriving(member, program, Some(key)));
                    let before = model.get(&(member, true, program));
                    if let Some(before) = before.filter(|before| before.key == Some(key)) {
                        prop_assert_eq!(&before.presence, &id, "a session returns to its presence");
                    } else {
                        prop_assert!(model.values().all(|seen| seen.presence != id));
                    }
                    let seen = Seen { presence: id, key: Some(key), lease: Lease::Online };
                    model.insert((member, true, program), seen);
                }
                Step::Daemon { member, program } => {
                    let id = broker.hello(&arriving(member, program, None));
                    let before = model.get(&(member, false, program));
                    let is_leased = before.is_some_and(|before| before.lease != Lease::Online);
                    let is_same = before.is_some_and(|before| before.presence == id);
                    prop_assert_eq!(is_same, is_leased, "a daemon returns to a lease only");
                    let seen = Seen { presence: id, key: None, lease: Lease::Online };
                    model.insert((member, false, program), seen);
                }
                Step::Cut(index) => {
                    if let Some(seen) = model.values_mut().nth(index)
                        && seen.lease == Lease::Online
                    {
                        seen.lease = Lease::Until(now.plus(LEASE));
                        broker.set(&seen.presence, seen.lease);
                    }
                }
                Step::Leave(index) => {
                    if let Some(key) = model.keys().nth(index).copied()
                        && let Some(seen) = model.remove(&key)
                    {
                        broker.end(&seen.presence);
                    }
                }
                Step::Pass(seconds) => {
                    now = Timestamp::from_millis(now.as_millis() + seconds * 1_000);
                    for id in broker.leases.ended(now) {
                        broker.end(&id);
                    }
                    model.retain(|_, seen| !matches!(seen.lease, Lease::Until(until) if until <= now));
                }
            }
            let here: BTreeMap<&PresenceId, Lease> =
                broker.presences.iter().map(|(id, (_, lease))| (id, *lease)).collect();
            let expected: BTreeMap<&PresenceId, Lease> =
                model.values().map(|seen| (&seen.presence, seen.lease)).collect();
            prop_assert_eq!(here, expected);
            let next = model.values().filter_map(|seen| match seen.lease {
                Lease::Until(until) => Some(until),
                Lease::Online => None,
            });
            prop_assert_eq!(broker.leases.next_end(), next.min());
        }
    }
}
