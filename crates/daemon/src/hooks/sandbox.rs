//! Which policies of a hook can be enforced on this machine, and how (daemon spec §16.7). What cannot is said, counted, and
//! for hooks that insist on it the reason not to run. Landlock is not used.

use super::audit::Enforced;
use super::runner::Plan;
use super::section::{FsPolicy, NetworkPolicy, Sandbox, Section};

/// What was tried and works here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// A user namespace with a network namespace in it.
    pub(super) namespaces: bool,
    /// `bwrap`.
    pub(super) bubblewrap: bool,
}

/// How a hook is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Confinement {
    no_network: bool,
    bubblewrap: Option<FsPolicy>,
    /// For the audit.
    pub(super) enforced: Enforced,
    /// Why not everything is enforced; nothing when it is.
    pub(super) missing: Vec<&'static str>,
}

impl Confinement {
    /// What can be done for a hook with this section.
    pub(super) fn of(section: &Section, abilities: Abilities) -> Self {
        let wants_network = section.network_policy == NetworkPolicy::Deny;
        let wants_files = section.fs_policy != FsPolicy::Rw;
        let mut missing = Vec::new();
        let mut bubblewrap = None;
        if wants_files {
            match (section.sandbox, abilities.bubblewrap) {
                (Sandbox::Bubblewrap, true) => bubblewrap = Some(section.fs_policy),
                (Sandbox::Bubblewrap, false) => missing.push("fs_no_bubblewrap"),
                (Sandbox::None, _) => missing.push("fs_no_sandbox_asked_for"),
            }
        }
        let no_network = wants_network && (abilities.namespaces || abilities.bubblewrap);
        if wants_network && !no_network {
            missing.push("network_no_namespaces");
        }
        if no_network && !abilities.namespaces {
            bubblewrap = bubblewrap.or(Some(FsPolicy::Rw));
        }
        let wanted = usize::from(wants_network) + usize::from(wants_files);
        let enforced = match wanted - missing.len() {
            0 => Enforced::Nothing,
            done if done == wanted => Enforced::All,
            _ => Enforced::Some,
        };
        Self { no_network, bubblewrap, enforced, missing }
    }

    /// True when a way out of the daemon's own surroundings has to be kept open.
    pub(super) const fn hides_files(&self) -> bool {
        self.bubblewrap.is_some()
    }

    /// Puts it into a plan.
    pub(super) fn apply(&self, plan: &mut Plan) {
        plan.no_network = self.no_network;
        plan.bubblewrap = self.bubblewrap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confined(
        network_policy: NetworkPolicy,
        fs_policy: FsPolicy,
        sandbox: Sandbox,
        (namespaces, bubblewrap): (bool, bool),
    ) -> Confinement {
        let mut section = Section::default();
        (section.network_policy, section.fs_policy) = (network_policy, fs_policy);
        section.sandbox = sandbox;
        Confinement::of(&section, Abilities { namespaces, bubblewrap })
    }

    #[test]
    fn what_cannot_be_enforced_is_said() {
        use FsPolicy::{Readonly, Rw};
        use NetworkPolicy::{Allow, Deny};
        use Sandbox::{Bubblewrap, None as Nothing};
        let both = (true, true);
        let neither = (false, false);
        let said = |confinement: Confinement| (confinement.enforced, confinement.missing);
        let fine = |enforced| (enforced, vec![]);
        assert_eq!(said(confined(Deny, Rw, Nothing, both)), fine(Enforced::All));
        assert_eq!(said(confined(Deny, Readonly, Bubblewrap, both)), fine(Enforced::All));
        assert_eq!(said(confined(Allow, Rw, Nothing, neither)), fine(Enforced::Nothing));
        let files = vec!["fs_no_sandbox_asked_for"];
        assert_eq!(said(confined(Deny, Readonly, Nothing, both)), (Enforced::Some, files.clone()));
        assert_eq!(said(confined(Allow, Readonly, Nothing, both)), (Enforced::Nothing, files));
        let nothing = vec!["fs_no_bubblewrap", "network_no_namespaces"];
        assert_eq!(
            said(confined(Deny, Readonly, Bubblewrap, neither)),
            (Enforced::Nothing, nothing)
        );
    }

    #[test]
    fn without_namespaces_of_our_own_bubblewrap_takes_the_network_away() {
        let confinement = confined(NetworkPolicy::Deny, FsPolicy::Rw, Sandbox::None, (false, true));
        let mut plan = Plan::default();
        confinement.apply(&mut plan);
        assert_eq!((plan.no_network, plan.bubblewrap), (true, Some(FsPolicy::Rw)));
        assert_eq!(confinement.enforced, Enforced::All);
    }
}
