//! Safety numbers: what two people read to each other to be sure of their keys (wire spec §5.10).

use claudemesh_protocol::PublicKey;

use crate::hash::sha256;

/// Six groups of five digits over the two **member** keys, the same from both sides.
pub fn safety_number(one: PublicKey, other: PublicKey) -> String {
    let mut input = Vec::with_capacity(64);
    input.extend_from_slice(one.min(other).as_bytes());
    input.extend_from_slice(one.max(other).as_bytes());
    let digest = sha256(&input);
    let leading = digest.iter().take(15).fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let groups: Vec<String> = (0..6)
        .rev()
        .map(|group| format!("{:05}", (leading >> (group * 20) & 0xf_ffff) % 100_000))
        .collect();
    groups.join(" ")
}
