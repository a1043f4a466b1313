//! Resolution against a naive model that looks at every pair of target and receiver on its own.

use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

fn groups(names: &[&str]) -> Vec<Group> {
    names.iter().map(|name| Group::plain(name.parse().unwrap())).collect()
}

#[derive(Debug, Clone)]
struct Peer {
    member: u8,
    session: Option<u8>,
    groups: Vec<Group>,
    is_visible: bool,
    is_transient: bool,
}

#[derive(Debug, Clone)]
struct World {
    ids: Vec<MemberId>,
    peers: Vec<Peer>,
    member_groups: Vec<Vec<Group>>,
}

const NAMES: &[&str] = &["a", "a/b", "a/b/c", "ab", "x"];

fn some_groups() -> impl Strategy<Value = Vec<Group>> {
    prop::collection::vec(0..NAMES.len(), 0..3)
        .prop_map(|indexes| indexes.into_iter().flat_map(|index| groups(&[NAMES[index]])).collect())
}

fn world() -> impl Strategy<Value = World> {
    let peer = (
        0_u8..5,
        prop::option::of(10_u8..40),
        some_groups(),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(member, session, groups, is_visible, is_transient)| Peer {
            member,
            session,
            groups,
            is_visible,
            is_transient,
        });
    (prop::collection::vec(peer, 0..12), prop::collection::vec(some_groups(), 5)).prop_map(
        |(mut peers, member_groups)| {
            // A session key belongs to one member.
            for peer in &mut peers {
                peer.session = peer.session.map(|session| session - session % 5 + peer.member);
            }
            let ids = (0..5).map(|index| MemberId::new(index.to_string())).collect();
            World { ids, peers, member_groups }
        },
    )
}

impl World {
    fn key_of(peer: &Peer) -> PublicKey {
        key(peer.session.unwrap_or(peer.member))
    }

    fn resolve(&self, reach: Reach<'_>, sender: usize) -> Audience<'_> {
        let present = self.peers.iter().map(|peer| PresentPeer {
            member: &self.ids[usize::from(peer.member)],
            key: Self::key_of(peer),
            groups: &peer.groups,
            is_visible: peer.is_visible,
            is_transient: peer.is_transient,
        });
        let roster = self.ids.iter().enumerate().map(|(index, id)| RosterEntry {
            id,
            key: key(u8::try_from(index).unwrap()),
            groups: &self.member_groups[index],
        });
        audience(reach, &self.ids[sender], present, roster)
    }

    fn naive_match(target: Option<&str>, groups: &[Group]) -> bool {
        let Some(target) = target else { return true };
        groups.iter().any(|group| {
            let name = group.name.as_str();
            name == target || name.starts_with(&format!("{target}/"))
        })
    }
}

proptest! {
    /// GRP-1, TGT-4, TGT-6.
    #[test]
    fn the_audience_is_that_of_the_naive_model(
        world in world(), sender in 0_usize..5, target in prop::option::of(0..NAMES.len()),
    ) {
        let target = target.map(|index| NAMES[index]);
        let name: Option<GroupName> = target.map(|name| name.parse().unwrap());
        let got = world.resolve(name.as_ref().map_or(Reach::Everyone, Reach::Group), sender);

        let mut present = BTreeSet::new();
        let mut absent = BTreeSet::new();
        for member in (0_u8..5).filter(|member| usize::from(*member) != sender) {
            let mine: Vec<&Peer> = world
                .peers
                .iter()
                .filter(|peer| peer.member == member && !peer.is_transient)
                .collect();
            for peer in &mine {
                if peer.is_visible && World::naive_match(target, &peer.groups) {
                    present.insert(World::key_of(peer));
                }
            }
            if mine.is_empty() && World::naive_match(target, &world.member_groups[usize::from(member)]) {
                absent.insert(key(member));
            }
        }
        prop_assert_eq!(got.present.len(), present.len());
        prop_assert_eq!(got.present.iter().map(|one| one.key).collect::<BTreeSet<_>>(), present);
        prop_assert_eq!(got.absent.len(), absent.len());
        prop_assert_eq!(got.absent.iter().map(|one| one.key).collect::<BTreeSet<_>>(), absent);
    }
}

#[test]
fn nobody_writes_to_itself() {
    let member = MemberId::new("a");
    let (member, to) = (&member, key(1));
    assert_eq!(direct(KeyFact::Session { member, is_sender: true }), None);
    assert_eq!(direct(KeyFact::Member { member, is_sender_alone: true }), None);
    let ended = |is_sender_alone| KeyFact::EndedSession { member, member_key: to, is_sender_alone };
    assert_eq!(direct(ended(true)), None);
    assert_eq!(direct(ended(false)), Some(Direct::Rerouted { member, to }));
    assert_eq!(direct(KeyFact::Unknown), None);
    assert_eq!(
        direct(KeyFact::Session { member, is_sender: false }),
        Some(Direct::Session(member))
    );
    assert_eq!(
        direct(KeyFact::Member { member, is_sender_alone: false }),
        Some(Direct::Member(member))
    );
}
