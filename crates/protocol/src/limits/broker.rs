//! What an operator may set (broker spec §6.1).

use std::time::Duration;

use super::{
    CLAIM_LEASE, DUE_QUERY_INTERVAL, GROUP_AUDIENCE_MAX, HELLO_TIMEOUT, LOOP_PAIR_MAX, LOOP_STOP,
    LOOP_WINDOW, MAX_FRAME_BYTES, MAX_HOPS, PING_INTERVAL, SILENCE_LIMIT, SLOW_CONSUMER_AFTER,
};

/// Limits an operator may set; each field names its environment variable (broker spec §6.1).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct BrokerLimits {
    /// `MAX_CONNECTIONS_PER_MESH`: live connections of one mesh.
    pub max_connections_per_mesh: usize,
    /// `MAX_MESSAGE_BYTES`: characters of ciphertext, nonce and target of one send.
    pub max_message_bytes: usize,
    /// `MAX_FRAME_BYTES`: bytes of one WebSocket message.
    pub max_frame_bytes: usize,
    /// `MAX_WRAPPED_KEYS_BYTES`: characters of all wrapped keys of one send.
    pub max_wrapped_keys_bytes: usize,
    /// `GROUP_AUDIENCE_MAX`: wrapped keys of one send.
    pub group_audience_max: usize,
    /// `SEND_BURST`: messages a member may send at once.
    pub send_burst: u32,
    /// `SEND_PER_MIN`: messages a member may send per minute.
    pub send_per_min: u32,
    /// `BACKLOG_PER_MEMBER`: undelivered rows of one member.
    pub backlog_per_member: u64,
    /// `BACKLOG_PER_MESH`: undelivered rows of one mesh.
    pub backlog_per_mesh: u64,
    /// `LOOP_MAX_HOPS`: hops a message may have made.
    pub loop_max_hops: u32,
    /// `LOOP_PAIR_MESSAGES`: messages two sessions may exchange within the window.
    pub loop_pair_messages: usize,
    /// `LOOP_PAIR_WINDOW_SECONDS`: that window, in seconds.
    pub loop_pair_window_seconds: u64,
    /// `LOOP_STOP_SECONDS`: how long they are stopped, in seconds.
    pub loop_stop_seconds: u64,
    /// `LEASE_TTL_MS`: how long a presence outlives its socket, in milliseconds.
    pub lease_ttl_ms: u64,
    /// `STATUS_TTL_SECONDS`: age at which `working` decays to `idle`.
    pub status_ttl_seconds: u64,
    /// `HOOK_FRESH_WINDOW_SECONDS`: age up to which a reported status counts as fresh.
    pub hook_fresh_window_seconds: u64,
    /// `MESSAGE_RETENTION_DAYS`: days an undelivered message is held.
    pub message_retention_days: u32,
    /// `MAX_SOCKETS_PER_IP`: open WebSockets of one address; loopback is exempt.
    pub max_sockets_per_ip: usize,
    /// `HTTP_RATE_PER_IP`: HTTP requests per second of one address; loopback is exempt.
    pub http_rate_per_ip: u32,
    /// `HTTP_BURST_PER_IP`: burst above it.
    pub http_burst_per_ip: u32,
    /// `INVITE_CLAIMS_PER_IP_HOUR`: claims per hour and address.
    pub invite_claims_per_ip_hour: u32,
    /// `INVITE_CLAIMS_PER_CODE_HOUR`: claims per hour and code.
    pub invite_claims_per_code_hour: u32,
    /// `INVITE_PREVIEWS_PER_IP_MIN`: previews per minute and address.
    pub invite_previews_per_ip_min: u32,
    /// `HOOK_RATE_LIMIT_PER_MIN`: hook reports per minute of one process id and directory.
    pub hook_rate_limit_per_min: u32,
    /// `HELLO_TIMEOUT_MS`: time from upgrade to accepted hello, in milliseconds.
    pub hello_timeout_ms: u64,
    /// `PING_INTERVAL_MS`: period of WebSocket pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// `SILENCE_LIMIT_MS`: time without a pong after which a socket is dead, in milliseconds.
    pub silence_limit_ms: u64,
    /// `SLOW_CONSUMER_MS`: how long an outbound buffer may stay full, in milliseconds.
    pub slow_consumer_ms: u64,
    /// `CLAIM_LEASE_MS`: first claim lease of a pushed row, in milliseconds; doubles per attempt.
    pub claim_lease_ms: u64,
    /// `DUE_INTERVAL_MS`: safety net of the deadline queue, in milliseconds.
    pub due_interval_ms: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            max_connections_per_mesh: 100,
            max_message_bytes: 65_536,
            max_frame_bytes: MAX_FRAME_BYTES,
            max_wrapped_keys_bytes: 524_288,
            group_audience_max: GROUP_AUDIENCE_MAX,
            send_burst: 60,
            send_per_min: 300,
            backlog_per_member: 10_000,
            backlog_per_mesh: 100_000,
            loop_max_hops: MAX_HOPS,
            loop_pair_messages: LOOP_PAIR_MAX,
            loop_pair_window_seconds: LOOP_WINDOW.as_secs(),
            loop_stop_seconds: LOOP_STOP.as_secs(),
            lease_ttl_ms: 90_000,
            status_ttl_seconds: 60,
            hook_fresh_window_seconds: 30,
            message_retention_days: 7,
            max_sockets_per_ip: 100,
            http_rate_per_ip: 40,
            http_burst_per_ip: 80,
            invite_claims_per_ip_hour: 20,
            invite_claims_per_code_hour: 60,
            invite_previews_per_ip_min: 60,
            hook_rate_limit_per_min: 30,
            hello_timeout_ms: millis(HELLO_TIMEOUT),
            ping_interval_ms: millis(PING_INTERVAL),
            silence_limit_ms: millis(SILENCE_LIMIT),
            slow_consumer_ms: millis(SLOW_CONSUMER_AFTER),
            claim_lease_ms: millis(CLAIM_LEASE),
            due_interval_ms: millis(DUE_QUERY_INTERVAL),
        }
    }
}
