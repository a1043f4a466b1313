//! Frames of brokers: reading never panics.
#![no_main]

use claudemesh_protocol::wire::{ServerFrame, ServerInbound};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(ServerInbound::Frame { frame, .. }) = ServerFrame::decode(text) {
        let written = frame.encode().expect("a frame is JSON");
        assert!(ServerFrame::decode(&written).is_ok());
    }
});
