//! Crash points: named places where a test kills the process or makes a commit fail. Without the cargo feature
//! `failpoints` they compile to nothing.

/// Dies here, as by `kill -9`, when the point `name` is armed with `return` (environment `FAILPOINTS`, syntax of the
/// `fail` crate, e.g. `FAILPOINTS="commit.before_fsync=5*off->return"`).
#[cfg(feature = "failpoints")]
pub fn crash_point(name: &str) {
    fail::eval(name, |_| -> () { std::process::abort() });
}

/// Does nothing: the feature `failpoints` is off.
#[cfg(not(feature = "failpoints"))]
pub fn crash_point(_name: &str) {}

/// True when the point `name` is armed with `return`: the caller fails as if its resource had.
#[cfg(feature = "failpoints")]
pub fn refusal_point(name: &str) -> bool {
    fail::eval(name, |_| ()).is_some()
}

/// False: the feature `failpoints` is off.
#[cfg(not(feature = "failpoints"))]
pub fn refusal_point(_name: &str) -> bool {
    false
}

/// Arms the points named in the environment variable `FAILPOINTS` for the rest of the process. Called once by `main`
/// of a binary built with the feature `failpoints`; does nothing without it.
pub fn arm_crash_points() {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
}
