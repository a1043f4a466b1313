//! Known bugs that a test switches on, to see that the simulation finds them. Without the cargo feature `planted-bugs`
//! the switch does not exist; a release never has it.

#[cfg(feature = "planted-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Plants the bug `name` on this thread, or takes it away.
#[cfg(feature = "planted-bugs")]
pub fn plant(name: Option<&'static str>) {
    PLANTED.set(name);
}

/// True when the bug `name` is planted on this thread.
#[cfg(feature = "planted-bugs")]
pub fn planted_bug(name: &str) -> bool {
    PLANTED.get() == Some(name)
}

/// False: the feature `planted-bugs` is off.
#[cfg(not(feature = "planted-bugs"))]
pub fn planted_bug(_name: &str) -> bool {
    false
}
