//! JSON Schemas of the types that are a text on the wire but no plain text in the program.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::attestation::ParentAttestation;
use crate::capability::CapabilitySet;
use crate::group::GroupName;
use crate::key::{PublicKey, SignatureBytes};

macro_rules! text_schema {
    ($($name:ident = $description:literal;)+) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $description })
            }
        }
    )+};
}

text_schema! {
    PublicKey = "64 lowercase hexadecimal characters.";
    SignatureBytes = "128 lowercase hexadecimal characters.";
    GroupName = "Path of a group, such as eng or eng/core.";
}

impl JsonSchema for CapabilitySet {
    fn schema_name() -> Cow<'static, str> {
        "CapabilitySet".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <Vec<crate::capability::Capability>>::json_schema(generator)
    }
}

impl JsonSchema for ParentAttestation {
    fn schema_name() -> Cow<'static, str> {
        "ParentAttestation".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "The member's signature over the session key (wire spec §2.4).",
            "properties": {
                "sessionPubkey": { "type": "string" },
                "parentMemberPubkey": { "type": "string" },
                "expiresAt": { "type": "integer", "description": "Unix milliseconds." },
                "signature": { "type": "string" },
                "version": { "type": "integer" },
                "allowed_caps": { "type": "array", "items": { "type": "string" } },
            },
        })
    }
}
