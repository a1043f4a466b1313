//! The way out through a proxy.

use claudemesh_client::dial::{DialError, Dialer as _, Endpoint};
use claudemesh_client::{Proxies, ProxyDialer};
use claudemesh_protocol::invite::PlainHttp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

async fn proxy() -> (TcpListener, ProxyDialer) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://me:secret@{}", listener.local_addr().unwrap());
    (listener, ProxyDialer::new(Proxies::new(Some(&url), None)))
}

async fn request(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    (socket, String::from_utf8(head).unwrap())
}

/// Daemon spec §6.2: `HTTPS_PROXY` by CONNECT; what follows the proxy's head belongs to the broker.
#[tokio::test]
async fn an_encrypted_connection_goes_through_the_proxy() {
    let (listener, dialer) = proxy().await;
    let endpoint = Endpoint::of_url("wss://mesh.example.org/ws", PlainHttp::LoopbackOnly).unwrap();
    let serving = async {
        let (mut socket, head) = request(&listener).await;
        let expected = "CONNECT mesh.example.org:443 HTTP/1.1\r\nHost: mesh.example.org:443\r\n\
                        Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n";
        assert_eq!(head, expected);
        socket
            .write_all(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\nbroker")
            .await
            .unwrap();
        let mut said = [0; 6];
        socket.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"client");
    };
    let dialling = async {
        let mut stream = dialer.dial(&endpoint).await.unwrap();
        stream.write_all(b"client").await.unwrap();
        let mut said = [0; 6];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"broker");
    };
    tokio::join!(serving, dialling);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_from_a_broker_that_is_away() {
    let endpoint = Endpoint::of_url("wss://mesh.example.org/ws", PlainHttp::LoopbackOnly).unwrap();
    for (answer, status) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", Some(407)),
        ("HTTP/1.0 503 Down\r\n\r\n", Some(503)),
        ("SSH-2.0-x\r\n\r\n", None),
    ] {
        let (listener, dialer) = proxy().await;
        let serving = async {
            let (mut socket, _) = request(&listener).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        let ((), dialled) = tokio::join!(serving, dialer.dial(&endpoint));
        match (dialled.map(drop).unwrap_err(), status) {
            (DialError::Proxy { status: told }, Some(status)) => assert_eq!(told, status),
            (DialError::Io(_), None) => {}
            (error, _) => panic!("{answer}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_not_gone_around() {
    let dialer = ProxyDialer::new(Proxies::new(Some("socks5://127.0.0.1:1"), None));
    let endpoint = Endpoint::of_url("wss://mesh.example.org/ws", PlainHttp::LoopbackOnly).unwrap();
    let refused = dialer.dial(&endpoint).await.map(drop).unwrap_err();
    assert!(matches!(refused, DialError::ProxySetting(_)), "{refused}");
}
