//! Heads of backup files: what is accepted asks for bounded work.
#![no_main]

use claudemesh_crypto::backup::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((header, rest)) = Header::read(bytes) {
        assert!(header.costs.memory_kib <= 1024 * 1024);
        assert!(bytes.ends_with(rest));
    }
});
