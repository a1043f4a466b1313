//! Small texts of strangers: targets, groups, slugs, names, keys, times.
#![no_main]

use claudemesh_protocol::text::{display_name, sanitized_line};
use claudemesh_protocol::{GroupName, PublicKey, SignatureBytes, Slug, TargetSpec, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(target) = text.parse::<TargetSpec>() {
        assert_eq!(target.to_string().parse(), Ok(target.clone()));
        assert_eq!(target.to_string().len(), target.wire_len());
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_hex(), text);
    }
    let _ = text.parse::<SignatureBytes>();
    let _ = text.parse::<Slug>();
    let _ = text.parse::<GroupName>();
    let _ = GroupName::parse_lenient(text);
    let _ = Timestamp::parse_iso(text).map(Timestamp::to_iso);
    let _ = display_name(text, 64);
    assert!(sanitized_line(text, 64).chars().count() <= 64);
});
