//! Decrypted texts: taking apart never panics, and what is wrapped again reads back equal.
#![no_main]

use claudemesh_protocol::{body, text::sanitized};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let prefixed = format!("\u{1}cm1:{text}");
    for text in [text, &prefixed] {
        let read = body::unwrap(text);
        if let Some(meta) = &read.meta {
            let wrapped = body::wrap(&read.body, meta).expect("it was within the limit");
            assert_eq!(body::unwrap(&wrapped), read);
        }
        let _ = sanitized(text);
    }
    let (hops, rest) = body::bridge_hops(text);
    if let Some(forwarded) = body::bridge_forward(text, u32::MAX) {
        assert_eq!(body::bridge_hops(&forwarded), (hops + 1, rest));
    }
});
