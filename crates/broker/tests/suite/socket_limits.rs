//! How many requests and sockets one network address may have at once (broker spec §5.0).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use claudemesh_broker::Settings;
use claudemesh_broker::settings::Cidr;
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::world::{Answer, PATIENCE, World};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What an upgrade that was refused is answered.
struct Refusal {
    status: u16,
    retry_after: Option<u64>,
    body: Value,
}

/// Asks for a socket; `forwarded` is for whom a proxy says it asks.
async fn open(url: &str, forwarded: Option<&str>) -> Result<Client, Refusal> {
    let mut request = url.into_client_request().unwrap();
    if let Some(address) = forwarded {
        request.headers_mut().insert("x-forwarded-for", address.parse().unwrap());
    }
    let connecting = tokio_tungstenite::connect_async(request);
    match tokio::time::timeout(PATIENCE, connecting).await.unwrap() {
        Ok((client, _)) => Ok(client),
        Err(Error::Http(response)) => Err(Refusal {
            status: response.status().as_u16(),
            retry_after: response
                .headers()
                .get("retry-after")
                .map(|seconds| seconds.to_str().unwrap().parse().unwrap()),
            body: serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap(),
        }),
        Err(error) => panic!("{url}: {error}"),
    }
}

async fn open_many(url: &str, forwarded: Option<&str>, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        match open(url, forwarded).await {
            Ok(client) => clients.push(client),
            Err(refusal) => panic!("socket {number}: {} {}", refusal.status, refusal.body),
        }
    }
    clients
}

/// A socket that has not said hello is told so, which shows that somebody serves it.
async fn is_served(client: &mut Client) -> bool {
    let frame = json!({ "type": "list_peers", "_reqId": "1" });
    client.send(Message::text(frame.to_string())).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.next()).await.unwrap();
    let Some(Ok(Message::Text(text))) = answer else { return false };
    serde_json::from_str::<Value>(&text).unwrap()["code"] == "no_hello"
}

/// Both ends of every socket are in this process; the usual soft limit of 1,024 files is not enough for that.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Says what was not shown; written directly, because the test harness hides what passing tests print.
fn skipped(why: &str) {
    std::io::stderr().write_all(format!("skipped: {why}\n").as_bytes()).unwrap();
}

async fn check_loopback(bind: &str) {
    let ip: IpAddr = bind.parse().unwrap();
    let world = World::start_with(|settings| {
        settings.bind = ip;
        settings.limits.hello_timeout_ms = 60_000;
    })
    .await;
    assert_eq!(world.broker().address().ip(), ip);
    for _ in 0..1_000 {
        assert_eq!(world.get("/nothing").await.status, StatusCode::NOT_FOUND);
    }
    let mut clients = open_many(world.broker().ws_url(), None, 500).await;
    for client in &mut clients {
        assert!(is_served(client).await);
    }
}

/// HTTP-4, from 127.0.0.1.
#[tokio::test]
async fn a_thousand_requests_and_five_hundred_sockets_of_this_machine_are_served() {
    allow_many_files();
    check_loopback("127.0.0.1").await;
}

/// HTTP-4, from ::1.
#[tokio::test]
async fn the_same_number_is_served_over_ipv6() {
    if tokio::net::TcpListener::bind("[::1]:0").await.is_err() {
        skipped("this machine has no ::1");
        return;
    }
    allow_many_files();
    check_loopback("::1").await;
}

/// Room for many requests, so that it is the number of open sockets that is limited.
fn with_many_requests(settings: &mut Settings) {
    settings.limits.http_burst_per_ip = 10_000;
    settings.limits.http_rate_per_ip = 10_000;
    settings.limits.hello_timeout_ms = 60_000;
}

/// The default of `MAX_SOCKETS_PER_IP` is open at once, one more is refused, and a closed one makes room.
async fn check_limit(url: &str, forwarded: Option<&str>) {
    let mut clients = open_many(url, forwarded, 100).await;
    let Err(refusal) = open(url, forwarded).await else { panic!("socket 101 was opened") };
    assert_eq!((refusal.status, refusal.body["error"].as_str()), (429, Some("rate_limited")));
    assert_eq!(refusal.body["message"], "too many open sockets of this address");
    assert_eq!(refusal.retry_after, Some(10));
    assert_eq!(refusal.body["retry_after_ms"], 10_000);
    for client in &mut clients {
        assert!(is_served(client).await, "an open socket suffered from the one refused");
    }
    clients.truncate(99);
    let deadline = Instant::now() + PATIENCE;
    while open(url, forwarded).await.is_err() {
        assert!(Instant::now() < deadline, "the place of a closed socket stays taken");
    }
}

/// HTTP-4, another address behind a proxy.
#[tokio::test]
async fn an_address_behind_a_proxy_has_a_hundred_sockets() {
    let world = World::start_with(|settings| {
        with_many_requests(settings);
        settings.trusted_proxies = Cidr::parse_list("127.0.0.0/8").unwrap();
    })
    .await;
    let url = world.broker().ws_url();
    let others = open_many(url, Some("198.51.100.2"), 50).await;
    check_limit(url, Some("198.51.100.1")).await;
    drop(others);
}

/// The broker's address on a network of this machine; `None`, and a word about it, on a machine without any.
fn network_address(world: &World) -> Option<SocketAddr> {
    let share = world.broker().broker().links().share_urls.first().cloned();
    let address = share.and_then(|url| url.strip_prefix("http://")?.parse().ok());
    if address.is_none() {
        skipped("this machine has no address but loopback");
    }
    address
}

/// HTTP-4, another address over a real interface.
#[tokio::test]
async fn an_address_of_the_network_has_a_hundred_sockets() {
    let world = World::start_with(|settings| {
        with_many_requests(settings);
        settings.bind = "0.0.0.0".parse().unwrap();
    })
    .await;
    let Some(address) = network_address(&world) else { return };
    check_limit(&format!("ws://{address}/ws"), None).await;
    world.get("/health").await.ok();
}

/// HTTP-4, requests over a real interface; an upgrade counts as one of them.
#[tokio::test]
async fn an_address_of_the_network_has_its_rate_of_requests() {
    let world = World::start_with(|settings| {
        settings.bind = "0.0.0.0".parse().unwrap();
        settings.limits.http_burst_per_ip = 5;
        settings.limits.http_rate_per_ip = 1;
    })
    .await;
    let Some(address) = network_address(&world) else { return };
    let url = format!("ws://{address}/ws");
    let mut client = open_many(&url, None, 1).await.remove(0);
    let mut refused = None;
    for _ in 0..50 {
        let request = world.http.request(Method::GET, format!("http://{address}/nothing"));
        let answer = Answer::of(request).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
        answer.refused(404, "not_found");
    }
    let refused = refused.expect("50 requests were served");
    assert!(refused.headers.contains_key("retry-after"));
    refused.refused(429, "rate_limited");
    let mut refused = None;
    for _ in 0..50 {
        refused = open(&url, None).await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("50 upgrades were not counted");
    assert_eq!((refused.status, refused.body["error"].as_str()), (429, Some("rate_limited")));
    assert_eq!(refused.body["message"], "too many requests");
    assert!(refused.retry_after.is_some());
    assert!(is_served(&mut client).await, "what is open is not limited by requests");
    for _ in 0..20 {
        world.get("/nothing").await.refused(404, "not_found");
    }
}
