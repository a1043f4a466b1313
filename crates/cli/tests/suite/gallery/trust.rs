//! Pages of grants and safety numbers (CLI spec §3.4.3, §3.5).

use super::page::Page;
use crate::home::{Home, two_people};

#[test]
fn grants_and_safety_numbers() {
    let (ana, bob) = two_people();
    bob.ok(&["daemon", "up"]);
    ana.member_key("Bob");
    let mut list = Page::of("grant list");
    list.case("empty", &ana, &["grants"]);
    let mut block = Page::of("grant block");
    block.success(&ana, &["block", "Bob"], || {});
    block.case("unknown peer", &ana, &["block", "Bobb"]);
    block.case("yourself", &ana, &["block", "ana"]);
    list.success(&ana, &["grants"], || {});
    let mut add = Page::of("grant add");
    add.success(&ana, &["grant", "Bob", "dm", "read"], || {});
    add.case("back to the defaults", &ana, &["grant", "Bob", "--reset"]);
    add.case("everything", &ana, &["grant", "Bob", "all"]);
    add.case("unknown peer", &ana, &["grant", "Bobb", "dm"]);
    add.case("unknown capability", &ana, &["grant", "Bob", "flymode"]);
    let mut remove = Page::of("grant remove");
    remove.success(&ana, &["revoke", "Bob", "dm"], || {});
    remove.case("unknown peer", &ana, &["revoke", "Bobb", "dm"]);
    let mut verify = Page::of("peer verify");
    verify.success(&ana, &["verify", "Bob"], || {});
    verify.case("unknown peer", &ana, &["verify", "Bobb"]);
    let alone = Home::new();
    alone.up();
    verify.case("empty", &alone, &["verify"]);
    for page in [list, block, add, remove, verify] {
        page.keep();
    }
}
