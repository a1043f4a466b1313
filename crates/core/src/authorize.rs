//! The one decision whether a connection may use a frame (broker spec §4.23, §4.24; wire spec §2.4).

use std::collections::BTreeMap;

use claudemesh_protocol::StatusSource;
use claudemesh_protocol::capability::{Capability, CapabilitySet};
use claudemesh_protocol::permission::{Permission, Standing};
use claudemesh_protocol::target::TargetSpec;
use claudemesh_protocol::wire::{Access, ClientFrame, Right};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The member's standing in the mesh.
    pub standing: Standing,
    /// Explicit permissions of the member; what is not named follows the standing.
    pub overrides: BTreeMap<Permission, bool>,
    /// What its session may do; `None` everything the member may.
    pub session_caps: Option<CapabilitySet>,
}

/// Why not. Its text is the sentence of the refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The session was not given this capability.
    #[error("missing session capability \"{0}\"")]
    Capability(Capability),
    /// The member does not have this permission.
    #[error("missing permission \"{0}\"")]
    Permission(Permission),
    /// The member is neither owner nor admin; names the frame's word.
    #[error("only the owner or an admin can use \"{0}\"")]
    Role(&'static str),
}

impl Caller {
    /// True when the member has `permission`. The owner's cannot be taken away.
    pub fn may(&self, permission: Permission) -> bool {
        match (self.standing, self.overrides.get(&permission)) {
            (Standing::Owner, _) => true,
            (_, Some(explicit)) => *explicit,
            (standing, None) => standing.grants(permission),
        }
    }

    fn holds(&self, capability: Capability) -> bool {
        self.session_caps.is_none_or(|caps| caps.contains(capability))
    }
}

/// The capability a frame needs, exactly one or none. A `send` whose target cannot be read needs `dm`: it is refused for
/// its shape anyway, and an unreadable target must not be a way around the list.
pub fn needed_capability(frame: &ClientFrame) -> Option<Capability> {
    match frame.kind().spec().access {
        Access::Handshake => None,
        Access::Upkeep => match frame {
            ClientFrame::SetStatus(set) if set.source != Some(StatusSource::Hook) => {
                Some(Capability::ProfileWrite)
            }
            _ => None,
        },
        Access::Needs(capability) => Some(capability),
        Access::ByTarget => {
            let target = match frame {
                ClientFrame::Send(send) => send.target_spec.parse::<TargetSpec>().ok(),
                _ => None,
            };
            let is_direct = target.is_none_or(|target| target.is_direct());
            Some(if is_direct { Capability::Dm } else { Capability::Broadcast })
        }
    }
}

/// Decides.
///
/// # Errors
/// [`Denied`] names the capability or permission that is missing.
pub fn authorize(caller: &Caller, frame: &ClientFrame) -> Result<(), Denied> {
    if let Some(capability) = needed_capability(frame)
        && !caller.holds(capability)
    {
        return Err(Denied::Capability(capability));
    }
    let spec = frame.kind().spec();
    match spec.right {
        Right::Holds(permission) if !caller.may(permission) => Err(Denied::Permission(permission)),
        Right::Admin if !caller.standing.is_admin() => Err(Denied::Role(spec.word)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use claudemesh_protocol::PeerStatus;
    use claudemesh_protocol::wire::{JoinGroup, Send, SetStats, SetStatus, SetSummary, Stats};

    use super::*;

    fn caller(standing: Standing) -> Caller {
        Caller { standing, overrides: BTreeMap::new(), session_caps: None }
    }

    fn send_to(target: &str) -> ClientFrame {
        ClientFrame::Send(Box::new(Send { target_spec: target.to_owned(), ..Send::default() }))
    }

    fn frames() -> Vec<(ClientFrame, Option<Capability>)> {
        let status = |source| {
            ClientFrame::SetStatus(Box::new(SetStatus { status: PeerStatus::Idle, source }))
        };
        vec![
            (send_to(&"ab".repeat(32)), Some(Capability::Dm)),
            (send_to("*"), Some(Capability::Broadcast)),
            (send_to("@ops"), Some(Capability::Broadcast)),
            (send_to("#topic"), Some(Capability::Broadcast)),
            (ClientFrame::ListPeers(Box::default()), Some(Capability::Read)),
            (status(None), Some(Capability::ProfileWrite)),
            (status(Some(StatusSource::Manual)), Some(Capability::ProfileWrite)),
            (status(Some(StatusSource::Hook)), None),
            (
                ClientFrame::SetSummary(Box::new(SetSummary { summary: String::new() })),
                Some(Capability::ProfileWrite),
            ),
            (
                ClientFrame::JoinGroup(Box::new(JoinGroup { name: "a".to_owned(), role: None })),
                Some(Capability::ProfileWrite),
            ),
            (ClientFrame::SetStats(Box::new(SetStats { stats: Stats::default() })), None),
            (ClientFrame::PullMessages(Box::default()), None),
            (ClientFrame::ClientAck(Box::default()), None),
            (ClientFrame::Goodbye(Box::default()), None),
        ]
    }

    #[test]
    fn every_list_of_capabilities_decides_every_frame_by_the_table() {
        for (frame, needed) in frames() {
            assert_eq!(needed_capability(&frame), needed, "{frame:?}");
            for bits in 0..1_u32 << Capability::ALL.len() {
                let caps = Capability::ALL
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| bits >> index & 1 == 1)
                    .map(|(_, capability)| *capability)
                    .collect::<CapabilitySet>();
                let session = Caller { session_caps: Some(caps), ..caller(Standing::Owner) };
                let expected = match needed {
                    Some(capability) if !caps.contains(capability) => {
                        Err(Denied::Capability(capability))
                    }
                    _ => Ok(()),
                };
                assert_eq!(authorize(&session, &frame), expected, "{frame:?} {bits:b}");
            }
        }
    }

    #[test]
    fn without_a_list_a_session_may_what_its_member_may() {
        for standing in [Standing::Owner, Standing::Admin, Standing::Member] {
            for (frame, _) in frames() {
                assert_eq!(authorize(&caller(standing), &frame), Ok(()));
            }
        }
    }

    #[test]
    fn an_explicit_row_overrides_the_role_but_not_the_owner() {
        let muted =
            |standing| Caller { overrides: [(Permission::Send, false)].into(), ..caller(standing) };
        let refused = Err(Denied::Permission(Permission::Send));
        assert_eq!(authorize(&muted(Standing::Member), &send_to("*")), refused);
        assert_eq!(authorize(&muted(Standing::Admin), &send_to("*")), refused);
        assert_eq!(authorize(&muted(Standing::Owner), &send_to("*")), Ok(()));
        assert_eq!(
            Denied::Permission(Permission::Send).to_string(),
            "missing permission \"canSend\""
        );
    }
}
