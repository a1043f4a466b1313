//! Small grammars: targets, groups, slugs, keys, invite links, names.

use claudemesh_protocol::invite::{InviteLink, PlainHttp};
use claudemesh_protocol::{GroupName, PublicKey, Slug, TargetSpec, Timestamp};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_target_writes_what_it_read(text in "(\\*|@[a-z][a-z/]{0,12}|#[A-Za-z0-9_-]{1,32}|[0-9a-f]{64})") {
        if let Ok(target) = text.parse::<TargetSpec>() {
            prop_assert_eq!(target.to_string(), if text == "@all" { "*".to_owned() } else { text.clone() });
            prop_assert_eq!(target.to_string().parse(), Ok(target));
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in any::<String>()) {
        let _ = text.parse::<TargetSpec>();
        let _ = GroupName::parse_lenient(&text);
        let _ = text.parse::<Slug>();
        let _ = PublicKey::parse_any_case(&text);
        let _ = InviteLink::parse(&text, PlainHttp::LoopbackOnly);
        let _ = Timestamp::parse_iso(&text);
        let _ = Slug::from_name(&text);
        let _ = claudemesh_protocol::text::sanitized_line(&text, 40);
    }

    #[test]
    fn every_slug_made_of_a_name_is_a_slug(name in any::<String>()) {
        if let Ok(slug) = Slug::from_name(&name) {
            prop_assert_eq!(slug.as_str().parse::<Slug>(), Ok(slug.clone()));
            let numbered = slug.with_number(100);
            prop_assert!(numbered.as_str().parse::<Slug>().is_ok(), "{}", numbered);
        }
    }

    #[test]
    fn a_group_is_within_its_ancestors_only(a in "[a-z]{1,4}", b in "[a-z]{1,4}") {
        let parent: GroupName = format!("x{a}").parse().unwrap();
        let child: GroupName = format!("x{a}/{b}").parse().unwrap();
        prop_assert!(child.is_within(&parent));
        prop_assert!(!parent.is_within(&child));
    }

    #[test]
    fn sanitized_text_has_no_control_characters(text in any::<String>()) {
        let clean = claudemesh_protocol::text::sanitized(&text);
        prop_assert!(clean.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
    }

    #[test]
    fn iso_times_read_back(millis in 0_i64..4_000_000_000_000) {
        let time = Timestamp::from_millis(millis);
        prop_assert_eq!(Timestamp::parse_iso(&time.to_iso()), Some(time));
    }
}
