//! A home directory that was copied to another machine (CLI spec §3.18, daemon spec §4.3).

use crate::home::{Home, until};

/// The files of a home as they turn up on another machine: those that say who somebody is, and the record of the machine.
pub fn copy_of(home: &Home) -> Home {
    let copy = Home::new();
    copy_files(home, &copy);
    copy
}

pub fn copy_files(home: &Home, copy: &Home) {
    std::fs::create_dir_all(copy.file("daemon")).unwrap();
    for dir in ["", "daemon"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(copy.file(dir), mode).unwrap();
    }
    for name in ["config.json", "auth.json", "daemon/host_fingerprint.json"] {
        if home.file(name).exists() {
            std::fs::copy(home.file(name), copy.file(name)).unwrap();
        }
    }
    std::fs::write(copy.file("daemon/config.toml"), "[clone]\nid_override = \"copy\"\n").unwrap();
}

fn is_open(home: &Home) -> bool {
    home.json_ok(&["daemon", "status"])["brokers"]["home"] == "open"
}

/// CLI spec §3.18: fingerprint mismatch: detached `up` exits 7 and names the fix, foreground exits 4. Then either way out.
#[test]
fn a_copied_home_does_not_start_until_somebody_says_what_it_is() {
    let ana = Home::new();
    ana.up();
    let copy = copy_of(&ana);
    let refused = copy.run(&["daemon", "up"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    for word in ["accept-host", "remint"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    let foreground = copy.run(&["daemon", "up", "--foreground"]);
    assert_eq!(foreground.code, 4, "{foreground:?}");
    assert!(is_open(&ana), "nothing was dialled");
    let link = ana.invite(1);
    let reminted = copy.json_ok(&["daemon", "remint", "--invite", &link, "-y"]);
    assert_eq!((&reminted["mesh"], &reminted["host_accepted"]), (&"home".into(), &true.into()));
    assert_ne!(reminted["old_prefix"], reminted["new_prefix"]);
    copy.ok(&["daemon", "up"]);
    until("both machines are there", || is_open(&copy) && is_open(&ana));
    ana.has_members(2);
    ana.ok(&["daemon", "down"]);
    let twin = copy_of(&ana);
    assert_eq!(twin.run(&["daemon", "up"]).code, 7);
    twin.ok(&["daemon", "accept-host"]);
    twin.ok(&["daemon", "up"]);
    until("the copy takes the place", || is_open(&twin));
    for home in [&copy, &twin] {
        home.ok(&["daemon", "down"]);
    }
}
