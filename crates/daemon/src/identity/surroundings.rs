//! What surrounds the process, and the defaults that follow (daemon spec §4.2).

use std::collections::BTreeMap;
use std::path::Path;

use claudemesh_ipc::env;

/// Files that container runtimes put into their containers.
const CONTAINER_FILES: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
/// Where the first process of the machine says what it runs in.
const CGROUP_FILE: &str = "/proc/1/cgroup";
/// Words in it that stand for a container.
const CGROUP_WORDS: [&str; 4] = ["docker", "kubepods", "containerd", "libpod"];

/// Where a daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Surroundings {
    /// A machine of somebody's own, or a virtual one.
    #[default]
    Machine,
    /// A container.
    Container,
    /// A pod that lives as long as somebody pays for it; a container for us.
    RunPod,
    /// A build server, on which nothing should last.
    Ci,
}

/// What a decision is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Signs {
    variables: BTreeMap<&'static str, String>,
    has_container_file: bool,
    cgroup: String,
}

impl Surroundings {
    /// Of this process.
    pub fn of_this_process() -> Self {
        Self::by(&Signs::of_this_process())
    }

    /// True where a daemon is ephemeral unless it is told otherwise, and hooks are off unless the settings switch them on.
    pub const fn is_ci(self) -> bool {
        matches!(self, Self::Ci)
    }

    fn by(signs: &Signs) -> Self {
        let has = |name: &str| signs.variables.contains_key(name);
        let is_ci = |name: &&str| match signs.variables.get(*name).map(String::as_str) {
            None => false,
            // Some shells set it to say that it is none.
            Some(value) if **name == *env::CI => {
                value != "0" && !value.eq_ignore_ascii_case("false")
            }
            Some(_) => true,
        };
        let is_container = has(env::KUBERNETES_SERVICE_HOST)
            || signs.variables.get(env::CONTAINER).is_some_and(|value| value == "1")
            || signs.has_container_file
            || CGROUP_WORDS.iter().any(|word| signs.cgroup.contains(word));
        if has(env::RUNPOD_POD_ID) {
            Self::RunPod
        } else if env::CI_VARIABLES.iter().any(is_ci) {
            Self::Ci
        } else if is_container {
            Self::Container
        } else {
            Self::Machine
        }
    }

    /// Says once which defaults are in force and why.
    pub(crate) fn tell(self, is_ephemeral: bool) {
        match self {
            Self::Machine => {}
            Self::Container => tracing::info!("container_defaults"),
            Self::RunPod => tracing::info!("runpod_persistent_default_assumed"),
            Self::Ci => {
                tracing::info!(ephemeral = is_ephemeral, hooks = false, "ci_defaults");
                if !is_ephemeral {
                    tracing::warn!("persistent_keypair_in_ci_environment");
                }
            }
        }
    }
}

impl Signs {
    fn of_this_process() -> Self {
        let others = [env::KUBERNETES_SERVICE_HOST, env::CONTAINER, env::RUNPOD_POD_ID];
        let names = env::CI_VARIABLES.into_iter().chain(others);
        Self {
            variables: names.filter_map(|name| Some((name, env::text(name)?))).collect(),
            has_container_file: CONTAINER_FILES.iter().any(|file| Path::new(file).exists()),
            cgroup: std::fs::read_to_string(CGROUP_FILE).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(variables: &[(&'static str, &str)]) -> Signs {
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Signs { variables: variables.collect(), ..Signs::default() }
    }

    /// Daemon spec §4.2: the table of surroundings.
    #[test]
    fn the_table_of_surroundings() {
        use Surroundings::{Ci, Container, Machine, RunPod};
        for (variables, expected) in [
            (&[][..], Machine),
            (&[("CI", "true")], Ci),
            (&[("CI", "1")], Ci),
            (&[("CI", "false")], Machine),
            (&[("CI", "0")], Machine),
            (&[("GITHUB_ACTIONS", "true")], Ci),
            (&[("JENKINS_URL", "http://ci")], Ci),
            (&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")], Container),
            (&[("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("GITLAB_CI", "true")], Ci),
            (&[("CONTAINER", "1")], Container),
            (&[("CONTAINER", "0")], Machine),
            (&[("RUNPOD_POD_ID", "abc")], RunPod),
            (&[("RUNPOD_POD_ID", "abc"), ("CI", "true")], RunPod),
        ] {
            assert_eq!(Surroundings::by(&signs(variables)), expected, "{variables:?}");
        }
        let inside = Signs { has_container_file: true, ..Signs::default() };
        assert_eq!(Surroundings::by(&inside), Container);
        for (cgroup, expected) in [
            ("0::/\n", Machine),
            ("0::/system.slice/docker-0123.scope\n", Container),
            ("1:name=systemd:/kubepods/pod1\n", Container),
            ("0::/machine.slice/libpod-1.scope\n", Container),
        ] {
            let signs = Signs { cgroup: cgroup.to_owned(), ..Signs::default() };
            assert_eq!(Surroundings::by(&signs), expected, "{cgroup}");
        }
    }
}
