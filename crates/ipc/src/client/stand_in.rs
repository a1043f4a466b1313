//! Who answers in the place of a daemon, in the same process (CLI spec §1.15).

use claudemesh_protocol::ops::OperationKind;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use crate::api::{OpReply, SendReply, SendRequest};
use crate::error::IpcError;

/// Answers the calls that need no daemon. Every other call of a [`Client`](crate::Client) fails as if none ran.
pub trait StandIn: Send + Sync {
    /// An operation of the table; ends by itself when its time is over.
    fn operate<'a>(
        &'a self,
        kind: OperationKind,
        mesh: Option<&'a str>,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'a, Result<OpReply, IpcError>>;

    /// A message; the answer says what the broker said.
    fn send<'a>(&'a self, request: &'a SendRequest) -> BoxFuture<'a, Result<SendReply, IpcError>>;
}
