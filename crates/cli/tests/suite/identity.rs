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

/// Daemon spec §4.3: without an invite the machine makes one for itself with the key it gives up, for each mesh in turn.
#[test]
fn a_copied_home_invites_itself_where_it_may() {
    let ana = Home::new();
    ana.up();
    ana.ok(&["create", "Second"]);
    let copy = copy_of(&ana);
    let refused = copy.run(&["daemon", "remint"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(refused.stderr.contains("pass -y"), "{refused:?}");
    let reminted = copy.json_ok(&["daemon", "remint", "-y"]);
    let rows = reminted.as_array().unwrap();
    let meshes: Vec<_> = rows.iter().map(|row| row["mesh"].as_str().unwrap()).collect();
    assert_eq!(meshes, ["home", "second"]);
    for row in rows {
        assert_eq!(row["host_accepted"], true, "{row}");
        assert_ne!(row["old_prefix"], row["new_prefix"], "{row}");
    }
    assert!(!copy.file("join-pending.json").exists(), "nothing is left to do");
    copy.ok(&["daemon", "up"]);
    until("both machines are there", || is_open(&copy) && is_open(&ana));
    let members = ana.json_ok(&["members", "--mesh", "second"]);
    let members = members.as_array().unwrap();
    assert_eq!(members.len(), 2, "{members:?}");
    assert!(members.iter().any(|member| member["role"] == "member"), "{members:?}");
    // The invites are used up, and nobody has to know their codes.
    let copied: Vec<_> = ["config.json", "daemon/host_fingerprint.json"]
        .iter()
        .map(|name| std::fs::read_to_string(copy.file(name)).unwrap())
        .collect();
    assert!(copied.iter().all(|text| !text.contains("/i/")));
    copy.ok(&["daemon", "down"]);
}

/// Whoever may not invite is told whom to ask, and nothing has changed.
#[test]
fn a_member_that_may_not_invite_is_told_whom_to_ask() {
    let (ana, bob) = crate::home::two_people();
    bob.ok(&["daemon", "down"]);
    let copy = copy_of(&bob);
    let before = std::fs::read_to_string(copy.file("config.json")).unwrap();
    let refused = copy.run(&["daemon", "remint", "-y"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    for words in ["you cannot invite to \"home\"", "claudemesh share", "remint --invite"] {
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    }
    assert_eq!(std::fs::read_to_string(copy.file("config.json")).unwrap(), before);
    assert_eq!(copy.run(&["daemon", "up"]).code, 7, "it is still the other machine");
    ana.ok(&["member", "allow", "Bob", "canInvite"]);
    copy.ok(&["daemon", "remint", "-y"]);
    ana.has_members(3);
}

/// What if the power goes between these two lines? Wherever it does, the same words make one member, not two.
#[test]
fn a_remint_that_is_broken_off_goes_on_as_the_same_member() {
    let ana = Home::new();
    ana.up();
    let mut members = 1;
    for time in 1.. {
        let copy = copy_of(&ana);
        let mut command = copy.command(&["daemon", "remint", "-y"]);
        command.env("CLAUDEMESH_FAILPOINTS", format!("config.mid_write=kill@{time}"));
        let ran = crate::home::Ran::from(command.output().unwrap());
        if ran.code == 0 {
            assert!(time > 3, "it writes less than it should: {ran:?}");
            break;
        }
        assert_eq!(copy.run(&["daemon", "up"]).code, 7, "at {time}: nothing starts half-way");
        let reminted = copy.json_ok(&["daemon", "remint", "-y"]);
        assert_eq!(reminted["host_accepted"], true, "at {time}: {reminted}");
        assert!(!copy.file("join-pending.json").exists(), "at {time}");
        members += 1;
        ana.has_members(members);
        copy.ok(&["daemon", "up"]);
        until("the new member is there", || is_open(&copy));
        copy.ok(&["daemon", "down"]);
    }
}
