//! What must never be in a release.

use std::process::Command;

/// The released package is built without seeded randomness, simulated clocks, planted bugs and crash points.
#[test]
fn the_released_package_enables_no_switch_of_the_tests() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--package", "claudemesh"])
        .args(["--edges", "normal,build", "--prefix", "none", "--format", "{p} [{f}]"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("claudemesh-sqlite"), "{text}");
    for line in text.lines() {
        for switch in ["simulation", "planted-bugs", "failpoints", "test-util"] {
            assert!(!line.contains(switch), "{switch} is enabled: {line}");
        }
        assert!(!line.starts_with("claudemesh-sim "), "{line}");
    }
}
