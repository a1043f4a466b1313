//! The two pipes to the MCP client: bounded lines in, whole flushed lines out.
//!
//! Standard input and output are served by two plain threads, not by the runtime's blocking pool: a read that never
//! returns or a client that stopped reading must not keep the process from exiting (MCP spec §3: gone within 1 s).

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use claudemesh_protocol::limits::{MCP_LINE_MAX_BYTES, MCP_OUTPUT_QUEUE};
use futures_util::stream;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::StreamReader;

/// Bytes read from standard input at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks read ahead of the server; a full queue stops reading, which the client feels as a full pipe.
const CHUNK_QUEUE: usize = 16;

/// One line handed to the writer, and where it tells how that went.
struct Line {
    text: Vec<u8>,
    written: oneshot::Sender<std::io::Result<()>>,
}

/// The way out to the client; clones share one writer, so that lines never interleave.
#[derive(Debug, Clone)]
pub struct Output {
    line_tx: mpsc::Sender<Line>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({} bytes)", self.text.len())
    }
}

impl Output {
    /// Writes one JSON value as a line and returns when it has been flushed to the client.
    ///
    /// # Errors
    /// The write failed or the client closed its end.
    ///
    /// # Cancel safety
    /// A cancelled call may still write its line whole, never a part of it.
    pub async fn write(&self, value: &serde_json::Value) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        let (written, done) = oneshot::channel();
        let closed = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.line_tx.send(Line { text, written }).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// Resolves when the writer has ended: the client no longer reads.
    pub async fn closed(&self) {
        self.line_tx.closed().await;
    }
}

/// An output whose lines go to `writer`; the returned future is the writer and ends at the first failed write or when
/// every [`Output`] is gone.
pub fn output_to<W>(mut writer: W) -> (Output, impl Future<Output = ()>)
where
    W: AsyncWrite + Unpin,
{
    let (line_tx, mut line_rx) = mpsc::channel::<Line>(MCP_OUTPUT_QUEUE);
    let pump = async move {
        while let Some(line) = line_rx.recv().await {
            let outcome = async {
                writer.write_all(&line.text).await?;
                writer.flush().await
            }
            .await;
            let is_broken = outcome.is_err();
            let _ = line.written.send(outcome);
            if is_broken {
                return;
            }
        }
    };
    (Output { line_tx }, pump)
}

/// The process's standard output, written by a thread of its own.
///
/// # Errors
/// The thread could not be started.
pub(crate) fn stdout() -> std::io::Result<Output> {
    let (line_tx, mut line_rx) = mpsc::channel::<Line>(MCP_OUTPUT_QUEUE);
    std::thread::Builder::new().name("mcp-stdout".into()).spawn(move || {
        let mut stdout = std::io::stdout().lock();
        while let Some(line) = line_rx.blocking_recv() {
            let outcome = stdout.write_all(&line.text).and_then(|()| stdout.flush());
            let is_broken = outcome.is_err();
            let _ = line.written.send(outcome);
            if is_broken {
                return;
            }
        }
    })?;
    Ok(Output { line_tx })
}

/// The process's standard input, read by a thread of its own.
///
/// # Errors
/// The thread could not be started.
pub(crate) fn stdin() -> std::io::Result<impl AsyncBufRead + Send + Unpin> {
    let (chunk_tx, chunk_rx) = mpsc::channel::<std::io::Result<Bytes>>(CHUNK_QUEUE);
    std::thread::Builder::new().name("mcp-stdin".into()).spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let chunk = match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default())),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_broken = chunk.is_err();
            if chunk_tx.blocking_send(chunk).is_err() || is_broken {
                return;
            }
        }
    })?;
    let chunks = stream::unfold(chunk_rx, async |mut chunk_rx| {
        chunk_rx.recv().await.map(|chunk| (chunk, chunk_rx))
    });
    Ok(StreamReader::new(Box::pin(chunks)))
}

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    /// A line without its line feed, never empty.
    Line(&'a [u8]),
    /// A line beyond [`MCP_LINE_MAX_BYTES`]; it has been skipped whole.
    TooLong,
}

/// Reads lines of at most [`MCP_LINE_MAX_BYTES`] bytes.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Lines of `reader`.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, line: Vec::new() }
    }

    /// The next line that is not blank, or `None` at the end; bytes after the last line feed are dropped.
    ///
    /// # Cancel safety
    /// Not cancel safe: a line under way is lost. The server reads in one place and never cancels before its own end.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<Read<'_>>> {
        loop {
            self.line.clear();
            let mut is_too_long = false;
            loop {
                let available = self.reader.fill_buf().await?;
                if available.is_empty() {
                    return Ok(None);
                }
                let end = available.iter().position(|byte| *byte == b'\n');
                let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
                is_too_long = is_too_long || self.line.len() + part.len() > MCP_LINE_MAX_BYTES;
                if is_too_long {
                    self.line = Vec::new();
                } else {
                    self.line.extend_from_slice(part);
                }
                let consumed = end.map_or(available.len(), |end| end + 1);
                self.reader.consume(consumed);
                if end.is_some() {
                    break;
                }
            }
            if is_too_long {
                return Ok(Some(Read::TooLong));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(Read::Line(self.line.trim_ascii())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_the_next_one_is_read_whole() {
        let mut input = vec![b'x'; MCP_LINE_MAX_BYTES];
        input.push(b'\n');
        input.extend(vec![b'y'; MCP_LINE_MAX_BYTES + 1]);
        input.extend(b"\n\r\n  \n{}\r\nrest");
        let mut lines = Lines::new(input.as_slice());
        assert!(
            matches!(lines.next().await.unwrap(), Some(Read::Line(line)) if line.len() == MCP_LINE_MAX_BYTES)
        );
        assert_eq!(lines.next().await.unwrap(), Some(Read::TooLong));
        assert_eq!(lines.next().await.unwrap(), Some(Read::Line(b"{}")));
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
