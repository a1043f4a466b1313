//! Pages of profile and groups (CLI spec §3.7).

use super::page::Page;
use crate::home::Home;
use crate::sessions::Agent;

#[test]
fn profile_and_groups_of_a_session() {
    let home = Home::new();
    home.up();
    let agent = Agent::register(&home, 1, "builder");
    let inside = |words: &'static [&'static str]| {
        let (home, agent) = (&home, &agent);
        move || agent.command(home, words)
    };
    let pages: [(&str, &'static [&'static str]); 6] = [
        ("profile summary", &["summary", "reviewing", "the", "parser"]),
        ("profile status set", &["status", "set", "dnd"]),
        ("profile visible", &["visible", "yes"]),
        (
            "profile edit",
            &["profile", "edit", "--title", "Build master", "--capabilities", "rust,ci"],
        ),
        ("group join", &["group", "join", "@eng/core", "--role", "lead"]),
        ("group list", &["group", "list"]),
    ];
    let mut nobody = Page::of("group list");
    nobody.case("empty", &home, &["group", "list"]);
    nobody.keep_as("group-list-of-nobody");
    for (verb, words) in pages {
        let mut page = Page::of(verb);
        page.success_within(words, inside(words), || {});
        if verb == "profile summary" {
            page.case("nothing said", &home, &["summary"]);
            let words = &["summary", "--clear"];
            page.within("taken back", agent.command(&home, words), words);
        }
        page.keep();
    }
    let mut leave = Page::of("group leave");
    leave.success_within(
        &["group", "leave", "@eng/core"],
        inside(&["group", "leave", "@eng/core"]),
        || {
            agent.ok(&home, &["group", "join", "@eng/core"]);
        },
    );
    leave.keep();
}
