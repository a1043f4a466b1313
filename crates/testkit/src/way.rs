//! A way to PostgreSQL that can go silent: it swallows every byte in both directions, closes nothing and refuses nothing,
//! as a network does whose other end is gone.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes moved at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A TCP port in front of a database; ends with the value.
pub struct Way {
    options: PgConnectOptions,
    is_silent: watch::Sender<bool>,
    // Aborted when dropped.
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
enum Upstream {
    Socket(PathBuf),
    Port(String, u16),
}

impl Way {
    /// Opens a way to the database at this URL, which may be a Unix socket.
    ///
    /// # Errors
    /// When the URL makes no sense or no port can be opened.
    pub async fn to(url: &str) -> io::Result<Self> {
        let server = PgConnectOptions::from_str(url).map_err(io::Error::other)?;
        let port = server.get_port();
        let upstream = match server.get_socket() {
            Some(directory) => Upstream::Socket(directory.join(format!(".s.PGSQL.{port}"))),
            None => Upstream::Port(server.get_host().to_owned(), port),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let is_silent = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream, is_silent.clone()));
        Ok(Self { options: towards(&server, address), is_silent, _tasks: tasks })
    }

    /// The database's URL by this way.
    pub fn url(&self) -> String {
        self.options.to_url_lossy().to_string()
    }

    /// From now on nothing passes. Connections that try meanwhile never speak again.
    pub fn go_silent(&self) {
        self.is_silent.send_replace(true);
    }

    /// New connections work again.
    pub fn recover(&self) {
        self.is_silent.send_replace(false);
    }
}

/// The same database, role and password behind another address.
fn towards(server: &PgConnectOptions, address: SocketAddr) -> PgConnectOptions {
    let options = if server.get_socket().is_some() {
        // A socket would be preferred to any host.
        PgConnectOptions::new_without_pgpass().username(server.get_username())
    } else {
        server.clone()
    };
    let database = server.get_database().unwrap_or_else(|| server.get_username());
    options.host(&address.ip().to_string()).port(address.port()).database(database)
}

async fn accept(listener: TcpListener, upstream: Upstream, is_silent: watch::Sender<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(client, upstream.clone(), is_silent.subscribe()));
    }
}

async fn carry(client: TcpStream, upstream: Upstream, is_silent: watch::Receiver<bool>) {
    let _ = client.set_nodelay(true);
    match upstream {
        Upstream::Socket(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                join(client, server, is_silent).await;
            }
        }
        Upstream::Port(host, port) => {
            if let Ok(server) = TcpStream::connect((host, port)).await {
                let _ = server.set_nodelay(true);
                join(client, server, is_silent).await;
            }
        }
    }
}

async fn join(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    is_silent: watch::Receiver<bool>,
) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    tokio::select! {
        () = pump(from_client, to_server, is_silent.clone()) => {}
        () = pump(from_server, to_client, is_silent) => {}
    }
}

/// Ends when `from` does.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    is_silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut is_deaf = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        is_deaf |= *is_silent.borrow();
        let Some(bytes) = buffer.get(..read).filter(|_| !is_deaf) else { continue };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
