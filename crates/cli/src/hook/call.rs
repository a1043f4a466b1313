//! The one request of a hook: blocking, on the daemon's socket, with a time by which it is over (MCP spec §10.3). No runtime
//! and no client library: what they take to start is most of the time there is.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use claudemesh_ipc::api::{SESSION_SCHEME, StatusReply, StatusReport};
use claudemesh_ipc::client::ANSWER_MAX_BYTES;
use claudemesh_ipc::{Paths, SessionToken};
use zeroize::Zeroizing;

/// What ends the head of an answer.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// How the head of an answer begins that is worth reading.
const SUCCESS: &[u8] = b"HTTP/1.1 200";
/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Unanswered(String);

impl Unanswered {
    fn because<E: Into<Box<dyn std::error::Error>>>(error: E) -> Self {
        Self(error.into().to_string())
    }
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// `POST /v1/sessions/status` to the daemon that verbs would ask. None is started.
///
/// # Errors
/// No home, no daemon, none that answers in time, an answer that is none.
pub(super) fn status(report: &StatusReport, until: Instant) -> Result<StatusReply, Unanswered> {
    let paths = Paths::from_env().map_err(Unanswered::because)?;
    let paths = crate::ephemeral::found_silently(paths);
    let socket = paths.socket().map_err(Unanswered::because)?;
    let body = serde_json::to_vec(report).map_err(Unanswered::because)?;
    let request = request(&body, SessionToken::from_env().as_ref());
    let answer = exchange(&socket, &request, until).map_err(Unanswered::because)?;
    serde_json::from_slice(&answer).map_err(Unanswered::because)
}

fn request(body: &[u8], token: Option<&SessionToken>) -> Zeroizing<Vec<u8>> {
    let authorization = token.map(|token| {
        Zeroizing::new(format!("authorization: {SESSION_SCHEME} {}\r\n", token.reveal()))
    });
    let authorization = authorization.as_ref().map_or("", |line| line.as_str());
    let head = Zeroizing::new(format!(
        "POST /v1/sessions/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\n{authorization}content-length: {}\r\n\r\n",
        body.len()
    ));
    Zeroizing::new([head.as_bytes(), body].concat())
}

/// The body of the answer to `request`.
fn exchange(socket: &Path, request: &[u8], until: Instant) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(request)?;
    let (mut answer, mut piece) = (Vec::new(), [0; PIECE]);
    loop {
        if let Some(body) = body_of(&answer)? {
            return Ok(body);
        }
        if answer.len() > ANSWER_MAX_BYTES {
            return Err(io::Error::other("the answer is too long"));
        }
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => answer.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The body of an answer that is complete; `None` while it is not.
fn body_of(answer: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Some(at) = answer.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) else {
        return Ok(None);
    };
    let (head, rest) = answer.split_at(at);
    if !head.starts_with(SUCCESS) {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        return Err(io::Error::other(String::from_utf8_lossy(line).into_owned()));
    }
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length
        .and_then(|length| length.trim().parse().ok())
        .ok_or_else(|| io::Error::other("an answer without a length"))?;
    let body = rest.get(HEAD_END.len()..).unwrap_or_default();
    Ok(body.get(..length).map(<[u8]>::to_vec))
}

/// What is left of the time.
fn left(until: Instant) -> io::Result<std::time::Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_is_read_as_it_comes() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx: y\r\n\r\nabcd";
        for end in 0..whole.len() {
            assert_eq!(body_of(&whole[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(body_of(whole).unwrap().unwrap(), b"abcd");
        for bad in [
            &b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        ] {
            assert!(body_of(bad).is_err());
        }
    }

    #[test]
    fn nobody_is_waited_for_longer_than_there_is_time() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let until = Instant::now() + Duration::from_millis(30);
        assert_eq!(exchange(&socket, b"x", until).unwrap_err().kind(), io::ErrorKind::NotFound);
        let _never_answers = UnixListener::bind(&socket).unwrap();
        assert!(exchange(&socket, b"x", until).is_err());
        assert_eq!(exchange(&socket, b"x", until).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
