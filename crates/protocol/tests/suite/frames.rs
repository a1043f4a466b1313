//! Frames: encode then decode is the identity; random and mangled texts are answered, never a panic.

use std::sync::Arc;

use claudemesh_protocol::wire::{
    Ack, ClientAck, ClientFrame, Hello, Inbound, JoinGroup, LeaveGroup, ListPeers, MessageStatus,
    Push, Receipt, ReceiptState, Send, ServerFrame, ServerInbound, SetProfile, SetStatus,
    SetSummary, SetVisible, WrappedKey,
};
use claudemesh_protocol::{
    Group, GroupName, MessageId, PeerStatus, Priority, PublicKey, StatusSource,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn shared() -> impl Strategy<Value = Arc<str>> {
    any::<String>().prop_map(Arc::from)
}

fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

fn group() -> impl Strategy<Value = Group> {
    ("[A-Za-z0-9][A-Za-z0-9._-]{0,8}(/[a-z0-9]{1,8}){0,3}", option::of(text()))
        .prop_filter_map("all is reserved", |(name, role)| {
            name.parse::<GroupName>().ok().map(|name| Group { name, role })
        })
}

fn send() -> impl Strategy<Value = Send> {
    let wrapped =
        (key(), shared(), shared()).prop_map(|(to, nonce, key)| WrappedKey { to, nonce, key });
    let ids = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    let rest = (
        option::of(vec(text(), 0..4)),
        option::of(any::<u8>()),
        option::of(vec(wrapped, 0..4)),
        option::of(any::<u32>()),
        option::of(any::<i64>()),
        option::of(any::<u32>()),
    );
    (text(), option::of(text()), shared(), shared(), ids, rest).prop_map(
        |(target_spec, priority, nonce, ciphertext, ids, rest)| Send {
            target_spec,
            priority,
            nonce,
            ciphertext,
            id: ids.0,
            client_message_id: ids.1,
            request_fingerprint: ids.2,
            reply_to_id: ids.3,
            mentions: rest.0,
            body_version: rest.1,
            wrapped_keys: rest.2,
            key_epoch: rest.3,
            expires_at: rest.4,
            hops: rest.5,
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let optional = (
        option::of(text()),
        option::of(text()),
        option::of(text()),
        option::of(vec(group(), 0..3)),
        option::of(vec(text(), 0..4)),
    );
    (text(), text(), text(), text(), any::<i64>(), any::<i64>(), optional).prop_map(
        |(mesh, member, pubkey, signature, pid, timestamp, optional)| Hello {
            protocol_version: Some(1),
            capabilities: optional.4,
            mesh_id: mesh.into(),
            member_id: member.into(),
            pubkey,
            session_pubkey: optional.0,
            session_proof: None,
            parent_attestation: None,
            display_name: optional.1,
            session_id: "s".to_owned(),
            pid,
            cwd: optional.2,
            hostname: None,
            host_fingerprint: None,
            peer_type: None,
            channel: None,
            model: None,
            groups: optional.3,
            peer_role: None,
            mesh_seq: None,
            timestamp,
            signature,
        },
    )
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let status = select(PeerStatus::ALL);
    let source = option::of(select(StatusSource::ALL));
    prop_oneof![
        send().prop_map(|send| ClientFrame::Send(Box::new(send))),
        hello().prop_map(|hello| ClientFrame::Hello(Box::new(hello))),
        (option::of(text()), option::of(text())).prop_map(|(client, broker)| {
            ClientFrame::ClientAck(Box::new(ClientAck {
                client_message_id: client,
                broker_message_id: broker,
            }))
        }),
        (status, source).prop_map(|(status, source)| {
            ClientFrame::SetStatus(Box::new(SetStatus { status, source }))
        }),
        text().prop_map(|summary| ClientFrame::SetSummary(Box::new(SetSummary { summary }))),
        any::<bool>().prop_map(|visible| ClientFrame::SetVisible(Box::new(SetVisible { visible }))),
        (text(), option::of(text()))
            .prop_map(|(name, role)| ClientFrame::JoinGroup(Box::new(JoinGroup { name, role }))),
        text().prop_map(|name| ClientFrame::LeaveGroup(Box::new(LeaveGroup { name }))),
        text().prop_map(|message_id| ClientFrame::MessageStatus(Box::new(MessageStatus {
            message_id
        }))),
        option::of(any::<bool>())
            .prop_map(|debug| ClientFrame::ListPeers(Box::new(ListPeers { debug }))),
        option::of(text()).prop_map(|title| {
            ClientFrame::SetProfile(Box::new(SetProfile { title, ..SetProfile::default() }))
        }),
    ]
}

fn server_frame() -> impl Strategy<Value = ServerFrame> {
    let push = (
        text(),
        text(),
        shared(),
        shared(),
        option::of(select(Priority::ALL)),
        option::of(any::<u32>()),
    )
        .prop_map(|(message_id, sender_pubkey, nonce, ciphertext, priority, attempt)| {
            ServerFrame::from(Push {
                message_id,
                sender_pubkey,
                nonce,
                ciphertext,
                priority,
                attempt,
                ..Push::default()
            })
        });
    let ack = (text(), text(), any::<bool>(), option::of(text()), option::of(any::<u16>()))
        .prop_map(|(id, message_id, queued, error, status)| {
            ServerFrame::from(Ack { id, message_id, queued, error, status, ..Ack::default() })
        });
    let receipt = (text(), text(), key(), select(ReceiptState::ALL), any::<i64>()).prop_map(
        |(broker, client_message_id, recipient, state, at)| {
            ServerFrame::from(Receipt {
                broker_message_id: MessageId::new(broker),
                client_message_id,
                recipient,
                state,
                path: None,
                evidence: None,
                reason: None,
                at,
                signature: None,
                asserted_by: None,
            })
        },
    );
    prop_oneof![push, ack, receipt]
}

proptest! {
    #[test]
    fn a_client_frame_reads_back(frame in client_frame(), req_id in option::of("[ -~]{0,128}")) {
        let text = frame.encode(req_id.as_deref()).unwrap();
        prop_assert_eq!(ClientFrame::decode(&text), Ok(Inbound { req_id, frame }));
    }

    #[test]
    fn a_server_frame_reads_back(frame in server_frame()) {
        let text = frame.encode().unwrap();
        let inbound = ServerFrame::decode(&text).unwrap();
        prop_assert_eq!(inbound, ServerInbound::Frame { req_id: None, frame });
    }

    #[test]
    fn random_text_never_panics(text in any::<String>()) {
        let _ = ClientFrame::decode(&text);
        let _ = ServerFrame::decode(&text);
    }

    #[test]
    fn a_mangled_frame_never_panics(frame in client_frame(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = frame.encode(Some("r")).unwrap().into_bytes();
        let index = at.index(bytes.len());
        bytes[index] = byte;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = ClientFrame::decode(text);
        }
    }
}
