//! How a client reaches its broker: one WebSocket connection that survives everything but a clear no, the signed
//! handshakes that open it, and the HTTP calls around accounts and invites.
//!
//! Nothing here reads the environment, stores anything or knows about meshes, outboxes and inboxes; the daemon and the
//! command line do.

pub mod clock;
pub mod connection;
pub mod dial;
pub mod hello;
pub mod http;
pub mod proxy;
pub mod reaction;

pub use connection::{
    Close, Connection, ConnectionEvent, ConnectionOptions, ConnectionState, RequestError,
    SharedTiming, Status, Timing,
};
pub use dial::{DialError, Dialer, TcpDialer};
pub use hello::{HelloClock, HelloContext, HelloSource, MemberHello, SessionHelloSource};
pub use http::{BrokerHttp, HttpError};
pub use proxy::{Proxies, ProxyDialer};
pub use reaction::{Backoff, DisabledReason, Reaction, Role, reaction};
