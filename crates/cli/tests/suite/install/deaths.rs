//! An installation that dies in the middle: the files are old or new, and the next one goes on (CLI spec §2.4).

use super::{FILES, INSTALL, UNINSTALL, everything, read, write};
use crate::home::Home;

/// Where it can be made to die, and how often it comes by.
const POINTS: [(&str, u32); 5] = [
    ("install.begun", 4),
    ("install.before_rename", 4),
    ("install.renamed", 4),
    ("install.settled", 4),
    // Our own record.
    ("config.mid_write", 10),
];

fn furnished() -> Home {
    let home = Home::new();
    for (file, text) in FILES.into_iter().zip(BEFORE) {
        write(&home, file, text);
    }
    home
}

const BEFORE: [&str; 4] = [
    "{\"a\":1}",
    "{\n\t\"model\": \"x\" // mine\n}\n",
    "a = 1\n",
    "{ \"hooks\": { \"Stop\": [ { \"hooks\": [ { \"command\": \"theirs\" } ] } ] } }",
];

fn kill_at(home: &Home, words: &[&str], point: &str, time: u32) -> bool {
    let mut command = home.command(words);
    command.env("CLAUDEMESH_FAILPOINTS", format!("{point}=kill@{time}"));
    command.output().unwrap().status.code().is_none()
}

fn are_whole(home: &Home, what: &str) {
    for (file, before) in FILES.into_iter().zip(BEFORE) {
        let text = read(home, file);
        assert!(text == before || text.contains("claudemesh"), "{what}: {file}: {text}");
    }
}

fn are_clean(home: &Home, what: &str) {
    let left: Vec<_> = everything(home)
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension().is_some_and(|end| end == "tmp" || end == "lock"))
        .collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

/// A death at each point, also between two files; then it is done again, and taken back to the byte.
#[test]
fn an_installation_that_dies_before_a_file_is_new_is_finished_by_the_next() {
    finished_by_the_next(&POINTS[..2]);
}

/// The same.
#[test]
fn an_installation_that_dies_when_a_file_is_new_is_finished_by_the_next() {
    finished_by_the_next(&POINTS[2..4]);
}

/// The same.
#[test]
fn an_installation_that_dies_over_its_record_is_finished_by_the_next() {
    finished_by_the_next(&POINTS[4..]);
}

fn finished_by_the_next(points: &[(&str, u32)]) {
    let mut deaths = 0;
    for &(point, times) in points {
        for time in 1..=times {
            let what = format!("{point}@{time}");
            let home = furnished();
            deaths += u32::from(kill_at(&home, &INSTALL, point, time));
            are_whole(&home, &what);
            let ran = home.run(&INSTALL);
            assert_eq!(ran.code, 0, "{what}: {ran:?}");
            are_clean(&home, &what);
            home.ok(&UNINSTALL);
            assert_eq!(FILES.map(|file| read(&home, file)), BEFORE, "{what}");
            assert!(!home.file("install.json").exists(), "{what}");
        }
    }
    assert!(deaths >= 8, "only {deaths} deaths");
}

/// Taken back straight after a death, too.
#[test]
fn an_installation_that_died_can_be_taken_back() {
    for (point, times) in POINTS {
        let what = format!("{point}@{times}");
        let home = furnished();
        kill_at(&home, &INSTALL, point, times);
        home.ok(&UNINSTALL);
        assert_eq!(FILES.map(|file| read(&home, file)), BEFORE, "{what}");
        are_clean(&home, &what);
        assert!(!home.file("install.json").exists(), "{what}");
    }
}

#[test]
fn a_removal_that_dies_is_finished_by_the_next() {
    for (point, times) in POINTS {
        for time in [1, times] {
            let what = format!("{point}@{time}");
            let home = furnished();
            home.ok(&INSTALL);
            kill_at(&home, &UNINSTALL, point, time);
            are_whole(&home, &what);
            home.ok(&UNINSTALL);
            assert_eq!(FILES.map(|file| read(&home, file)), BEFORE, "{what}");
            are_clean(&home, &what);
            assert!(!home.file("install.json").exists(), "{what}");
            // And it can begin again.
            home.ok(&INSTALL);
            home.ok(&UNINSTALL);
            assert_eq!(FILES.map(|file| read(&home, file)), BEFORE, "{what}");
        }
    }
}

/// A second version of an installation that dies leads back to the very beginning, too.
#[test]
fn an_update_that_dies_keeps_the_way_back() {
    for (point, times) in POINTS {
        for time in [1, times / 2, times] {
            let home = furnished();
            home.ok(&INSTALL);
            let words: Vec<&str> =
                INSTALL.into_iter().chain(["--no-bell", "--tools", "state"]).collect();
            kill_at(&home, &words, point, time);
            home.ok(&UNINSTALL);
            assert_eq!(FILES.map(|file| read(&home, file)), BEFORE, "{point}@{time}");
        }
    }
}
