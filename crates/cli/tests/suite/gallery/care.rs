//! Pages of what keeps a user's files safe (CLI spec §6.10).

use super::page::Page;
use crate::backup::{cheap_backup, joined, passphrase_file};
use crate::care::with_queue;
use crate::home::Home;
use crate::service::managed;

#[test]
fn a_backup_and_its_way_back() {
    let (home, nobody) = (joined(), Home::new());
    let pass = passphrase_file(&home, crate::backup::PASSPHRASE);
    let mut backup = Page::of("backup");
    let words = ["backup", "--out", "copy.cmb", "--passphrase-file", &pass];
    backup.success(&home, &words, || {
        let _ = std::fs::remove_file(home.path().join("copy.cmb"));
    });
    backup.case("the file exists", &home, &words);
    backup.case("nobody to ask", &home, &["backup"]);
    backup.case("nothing to back up", &nobody, &["backup"]);
    let short = home.path().join("short");
    std::fs::write(&short, "eleven char").unwrap();
    std::fs::set_permissions(&short, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let short = short.to_str().unwrap();
    backup.case("short passphrase", &home, &["backup", "--passphrase-file", short]);
    backup.keep();
    let mut restore = Page::of("restore");
    let other = joined();
    let file = cheap_backup(&other, &home, |_| {});
    let words = ["restore", "--in", &file, "--passphrase-file", &pass, "--confirm"];
    let without_consent = &words[..5];
    restore.case("nobody to confirm", &home, without_consent);
    let mut rounds = [joined(), joined(), joined()].into_iter();
    restore.success(&home, &words, || {
        // What is the same already is not touched, and nothing is kept of it.
        cheap_backup(&rounds.next().unwrap(), &home, |_| {});
    });
    restore.case(
        "nothing to add",
        &home,
        &["restore", "--in", &file, "--passphrase-file", &pass, "--merge"],
    );
    restore.case("no such file", &home, &["restore", "--in", "nowhere.cmb"]);
    cheap_backup(&other, &home, |sealed| sealed[0] = b'X');
    restore.case("no backup", &home, &words);
    cheap_backup(&other, &home, |sealed| sealed[60] ^= 1);
    restore.case("wrong passphrase or damaged file", &home, &words);
    cheap_backup(&other, &home, |_| {});
    home.ok(&["daemon", "up"]);
    restore.case("daemon running", &home, &words);
    restore.keep();
}

#[test]
#[cfg(target_os = "linux")]
fn a_service_comes_and_goes() {
    let home = managed(Home::new());
    let mut install = Page::of("daemon install-service");
    let words = ["daemon", "install-service"];
    let mut in_ci = home.command(&words);
    in_ci.env("CI", "1");
    install.within("in an automated build", in_ci, &words);
    let no_bus = home.path().join("no-bus");
    std::fs::write(&no_bus, "").unwrap();
    install.case("no service manager", &home, &words);
    std::fs::remove_file(no_bus).unwrap();
    install.success(&home, &words, || {});
    install.keep();
    let mut uninstall = Page::of("daemon uninstall-service");
    uninstall.success(&home, &["daemon", "uninstall-service"], || {
        home.ok(&words);
    });
    uninstall.case("none installed", &home, &["daemon", "uninstall-service"]);
    uninstall.keep();
}

#[test]
fn what_is_left_after_damage_and_removal() {
    let home = with_queue(1);
    let mut recover = Page::of("daemon recover");
    let look = ["daemon", "recover"];
    recover.success(&home, &look, || {});
    let wipe = ["daemon", "recover", "--choice", "wipe-outbox"];
    recover.case("nobody to confirm", &home, &wipe);
    home.ok(&["daemon", "up"]);
    recover.case("daemon running", &home, &wipe);
    home.ok(&["daemon", "down"]);
    let outbox = home.file("daemon/outbox.db");
    let whole = std::fs::read(&outbox).unwrap();
    std::fs::write(&outbox, [0xa5; 4096]).unwrap();
    recover.case("damaged outbox", &home, &look);
    std::fs::write(&outbox, whole).unwrap();
    recover.case("salvage", &home, &["daemon", "recover", "--choice", "salvage"]);
    recover.keep();
    let mut reset = Page::of("daemon reset");
    reset.case("nobody to confirm", &home, &["daemon", "reset"]);
    reset.success(&home, &["daemon", "reset", "--confirm"], || {});
    reset.keep();
    let mut uninstall = Page::of("daemon uninstall");
    uninstall.case("nobody to confirm", &home, &["daemon", "uninstall"]);
    let purge = ["daemon", "uninstall", "--purge-keys", "-y"];
    uninstall.case("keys without a person", &home, &purge);
    uninstall.success(&home, &["daemon", "uninstall", "-y"], || {});
    uninstall.keep();
}
