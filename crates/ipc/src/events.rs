//! Reader of the daemon's event stream: the parts of server-sent events that the daemon writes (daemon spec §14.2).

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;

use crate::api::{Event, EventKind};
use crate::error::IpcError;

/// Silence after which the stream is taken for dead: three keepalives of 15 s.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(45);
/// Largest event, in bytes; a message body is at most 64 KiB before JSON escapes.
const EVENT_MAX_BYTES: usize = 2 * 1024 * 1024;

/// The connection below a stream.
pub(crate) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// Events as they happen. Ends with an error; the caller opens a new one with [`EventStream::last_event_id`].
pub struct EventStream {
    connection: Option<Driver>,
    body: Incoming,
    // Dropping it would end the connection once the answer is read.
    _sender: SendRequest<Full<Bytes>>,
    parser: Parser,
}

impl EventStream {
    pub(crate) fn new(
        connection: Driver,
        body: Incoming,
        sender: SendRequest<Full<Bytes>>,
    ) -> Self {
        Self { connection: Some(connection), body, _sender: sender, parser: Parser::default() }
    }

    /// Id of the last event that was returned, for the next stream.
    pub fn last_event_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// The next event; `None` when the daemon ended the stream.
    ///
    /// # Errors
    /// [`IpcError::TimedOut`] after 45 s without even a keepalive, [`IpcError::Broken`], [`IpcError::Malformed`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, IpcError> {
        loop {
            if let Some(event) = self.parser.next_event()? {
                return Ok(Some(event));
            }
            let chunk = tokio::time::timeout(SILENCE_LIMIT, self.next_chunk())
                .await
                .map_err(|_| IpcError::TimedOut(SILENCE_LIMIT))??;
            match chunk {
                Some(chunk) => self.parser.push(&chunk)?,
                None => return Ok(None),
            }
        }
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, IpcError> {
        loop {
            let frame = match self.connection.as_mut() {
                Some(connection) => tokio::select! {
                    biased;
                    frame = self.body.frame() => frame,
                    _ = connection => {
                        // What it has read already still comes out of the body.
                        self.connection = None;
                        continue;
                    }
                },
                None => self.body.frame().await,
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(IpcError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Splits the byte stream into events.
#[derive(Default)]
struct Parser {
    buffer: BytesMut,
    scanned: usize,
    last_id: Option<String>,
}

impl Parser {
    fn push(&mut self, chunk: &[u8]) -> Result<(), IpcError> {
        if self.buffer.len() + chunk.len() > EVENT_MAX_BYTES {
            return Err(IpcError::Malformed("an event is larger than 2 MiB".to_owned()));
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    fn next_event(&mut self) -> Result<Option<Event>, IpcError> {
        while let Some(end) = self.block_end() {
            let block = self.buffer.split_to(end);
            self.buffer.advance(2);
            self.scanned = 0;
            let text = std::str::from_utf8(&block)
                .map_err(|_| IpcError::Malformed("an event is not UTF-8".to_owned()))?;
            if let Some(event) = read_block(text)? {
                if let Some(id) = &event.id {
                    self.last_id = Some(id.clone());
                }
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn block_end(&mut self) -> Option<usize> {
        let from = self.scanned.saturating_sub(1);
        let found = self.buffer.get(from..)?.windows(2).position(|pair| pair == b"\n\n");
        if found.is_none() {
            self.scanned = self.buffer.len();
        }
        found.map(|at| from + at)
    }
}

fn read_block(text: &str) -> Result<Option<Event>, IpcError> {
    let (mut id, mut kind, mut data) = (None, None, None);
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = Some(value.to_owned()),
            "event" => kind = Some(EventKind::parse(value)),
            "data" => data = Some(value),
            _ => {}
        }
    }
    let (Some(kind), Some(data)) = (kind, data) else { return Ok(None) };
    let data: Value =
        serde_json::from_str(data).map_err(|error| IpcError::Malformed(error.to_string()))?;
    Ok(Some(Event { id, kind, data }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(parser: &mut Parser, text: &str, chunk: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for part in text.as_bytes().chunks(chunk) {
            parser.push(part).unwrap();
            while let Some(event) = parser.next_event().unwrap() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let text = ": connected\n\nid: b-1\nevent: message\ndata: {\"a\":1}\n\n: keepalive\n\n\
                    event: lagged\ndata: {\"dropped\":3}\n\nid: b-9\nevent: brand_new\ndata: {}\n\n";
        for chunk in 1..=text.len() {
            let mut parser = Parser::default();
            let events = feed(&mut parser, text, chunk);
            let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
            assert_eq!(kinds, ["message", "lagged", "brand_new"], "chunks of {chunk}");
            assert_eq!(parser.last_id.as_deref(), Some("b-9"));
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; EVENT_MAX_BYTES]).unwrap();
        assert!(parser.next_event().unwrap().is_none());
        assert!(parser.push(b"x").is_err());
    }
}
