//! Frames of clients: reading never panics, and what is written reads back equal.
#![no_main]

use claudemesh_protocol::wire::ClientFrame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(inbound) = ClientFrame::decode(text) {
        let written = inbound.frame.encode(inbound.req_id.as_deref()).expect("a frame is JSON");
        assert_eq!(ClientFrame::decode(&written).as_ref(), Ok(&inbound));
    }
});
