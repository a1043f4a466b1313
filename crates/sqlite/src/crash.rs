//! Crash points: named places where a test kills the process or makes a commit fail. Without the cargo feature
//! `failpoints` they compile to nothing.

/// Dies here, as by `kill -9`, when the point `name` is armed with `return` (environment `FAILPOINTS`, syntax of the
/// `fail` crate, e.g. `FAILPOINTS="commit.before_fsync=5*off->return"`).
#[cfg(feature = "failpoints")]
pub fn crash_point(name: &str) {
    evaluate(name, |argument| {
        if argument.as_deref() != Some(ERROR) {
            std::process::abort();
        }
    });
}

/// True when the environment armed points of this process.
#[cfg(feature = "failpoints")]
static IS_ARMED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// A point that sleeps must hold up whoever passes it, and no task that happens to wait for the same thread.
#[cfg(feature = "failpoints")]
fn evaluate<T>(name: &str, act: impl FnOnce(Option<String>) -> T) -> Option<T> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let is_worker =
        Handle::try_current().is_ok_and(|at| at.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_worker && IS_ARMED.load(std::sync::atomic::Ordering::Relaxed) {
        tokio::task::block_in_place(|| fail::eval(name, act))
    } else {
        fail::eval(name, act)
    }
}

/// Does nothing: the feature `failpoints` is off.
#[cfg(not(feature = "failpoints"))]
pub fn crash_point(_name: &str) {}

/// True when the point `name` is armed with `return`: the caller fails as if its resource had.
#[cfg(feature = "failpoints")]
pub fn refusal_point(name: &str) -> bool {
    evaluate(name, |_| ()).is_some()
}

/// False: the feature `failpoints` is off.
#[cfg(not(feature = "failpoints"))]
pub fn refusal_point(_name: &str) -> bool {
    false
}

/// Arms the points named in the environment for the rest of the process. Called once by `main` of a binary built with
/// the feature `failpoints`; does nothing without it.
///
/// `CLAUDEMESH_FAILPOINTS` has the syntax of daemon spec §26, `name=kill|error|sleep(ms)|panic[@n]`, several separated
/// by `;`, where `@n` stands for the n-th time only and after; `FAILPOINTS` has that of the `fail` crate.
pub fn arm_crash_points() {
    #[cfg(feature = "failpoints")]
    {
        std::mem::forget(fail::FailScenario::setup());
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_armed = is_set("FAILPOINTS") || is_set("CLAUDEMESH_FAILPOINTS");
        IS_ARMED.store(is_armed, std::sync::atomic::Ordering::Relaxed);
        let text = std::env::var("CLAUDEMESH_FAILPOINTS").unwrap_or_default();
        for (name, actions) in text.split(';').filter_map(|point| point.split_once('=')) {
            if let Err(error) = fail::cfg(name.trim(), &translated(actions.trim())) {
                tracing::warn!(name, error, "failpoint_not_understood");
            }
        }
    }
}

/// Argument of a point that fails as its resource would, instead of ending the process.
#[cfg(feature = "failpoints")]
const ERROR: &str = "error";

/// `kill@3` as `2*off->return`.
#[cfg(feature = "failpoints")]
fn translated(actions: &str) -> String {
    let (action, nth) = match actions.split_once('@') {
        Some((action, nth)) => (action, nth.parse().unwrap_or(1_u32)),
        None => (actions, 1),
    };
    let action = match action {
        "kill" => "return".to_owned(),
        "error" => format!("return({ERROR})"),
        other => other.to_owned(),
    };
    if nth > 1 { format!("{}*off->{action}", nth - 1) } else { action }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::*;

    #[test]
    fn both_syntaxes_mean_the_same() {
        for (ours, theirs) in [
            ("kill", "return"),
            ("kill@1", "return"),
            ("kill@3", "2*off->return"),
            ("error@2", "1*off->return(error)"),
            ("sleep(20)", "sleep(20)"),
            ("panic@2", "1*off->panic"),
        ] {
            assert_eq!(translated(ours), theirs);
        }
    }
}
