//! Pages of what connects agents (CLI spec §6.1, §6.3).

use std::path::Path;

use super::page::Page;
use crate::home::Home;
use crate::install::{everything, write};

const INSTALL: [&str; 4] = ["install", "claude", "codex", "--no-service"];

/// The home as it was before.
fn emptied(home: &Home) {
    for (path, _) in everything(home).into_iter().rev() {
        let _ = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
    }
    let _ = std::fs::remove_file(home.file("install.json"));
}

#[test]
fn agents_are_connected_and_parted_again() {
    let bin = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_claudemesh"));
    std::os::unix::fs::symlink(program, bin.path().join("claudemesh")).unwrap();
    let home = Home::new().with("PATH", &format!("{}:/usr/bin:/bin", bin.path().display()));
    let with_yes: Vec<&str> = INSTALL.into_iter().chain(["-y"]).collect();
    let mut install = Page::of("install");
    install.success(&home, &with_yes, || emptied(&home));
    install.case("everything there already", &home, &INSTALL);
    emptied(&home);
    install.case("nobody to ask", &home, &INSTALL);
    install.case("bad tools", &home, &["install", "--tools", "nonsense"]);
    install.case("unknown agent", &home, &["install", "emacs"]);
    write(&home, ".claude/settings.json", "{\n  \"a\": 1\n  \"b\": 2\n}\n");
    install.case("a file that cannot be read", &home, &with_yes);
    emptied(&home);
    write(&home, ".codex/config.toml", "model = \"x\"\n");
    install.case("dry run", &home, &["install", "codex", "--dry-run", "--no-service"]);
    install.keep();
    emptied(&home);
    let words = ["uninstall", "-y", "--keep-service"];
    let mut uninstall = Page::of("uninstall");
    uninstall.success(&home, &words, || {
        emptied(&home);
        home.ok(&with_yes);
    });
    uninstall.case("nothing installed", &home, &words);
    home.ok(&with_yes);
    uninstall.case("nobody to ask", &home, &["uninstall"]);
    uninstall.keep();
    let mut skill = Page::of("skill");
    skill.first_line(&home, &["skill"]);
    skill.keep();
}
