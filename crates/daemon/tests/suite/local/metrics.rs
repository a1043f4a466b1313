//! Figures for monitoring (daemon spec §22).

use std::collections::{BTreeMap, BTreeSet};

use claudemesh_ipc::api::RecipientKind;

use super::inbox::{item, put};
use super::world::{Home, code, letter, raw, register, some_key, until};

/// What a scrape says.
struct Scraped {
    kinds: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Scraped {
    /// Reads the text form 0.0.4, and holds it to its rules: each family declared once, with help and type, before its
    /// samples; counters end in `_total`; no series twice; numbers are numbers.
    fn read(text: &str) -> Self {
        let (mut helped, mut kinds) = (BTreeSet::new(), BTreeMap::new());
        let mut series = BTreeMap::new();
        for line in text.lines() {
            assert!(!line.is_empty() && !line.starts_with("# EOF"), "{line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(helped.insert(name.to_owned()) && !help.trim().is_empty(), "{line}");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(name.starts_with("cm_daemon_") && helped.contains(name), "{line}");
                let before = kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{line}");
                continue;
            }
            assert!(!line.starts_with('#'), "{line}");
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = name.split('{').next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| {
                let base = family.strip_suffix(suffix);
                base.is_some_and(|base| kinds.get(base).is_some_and(|kind| kind == "histogram"))
            });
            assert!(of_histogram || kinds.contains_key(family), "{line}");
            let value = value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(series.insert(name.to_owned(), value), None, "twice: {line}");
        }
        Self { kinds, series }
    }

    fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series}"))
    }

    /// The values of a label.
    fn values(&self, label: &str) -> BTreeSet<&str> {
        let start = format!("{label}=\"");
        let value = |series: &'_ String| series.find(&start).map(|at| at + start.len());
        let names = self.series.keys().filter_map(|series| {
            let rest = &series[value(series)?..];
            rest.split('"').next()
        });
        names.collect()
    }
}

/// Daemon spec §22 Accept 1: the text is what Prometheus reads, and what is told of what happened is true.
#[tokio::test(flavor = "multi_thread")]
async fn figures_have_the_form_of_prometheus_and_tell_what_happened() {
    let home = Home::new();
    let member = home.join("dev").public();
    let running = home.start().await;
    let client = running.client();
    register(&running, "dev", 1, |_| {}).await;
    client.send(&letter(&some_key(), "waits")).await.unwrap();
    put(&running, item(member, RecipientKind::Member, "m1")).await;
    let _stream = client.events(&claudemesh_ipc::api::EventsQuery::default(), None).await.unwrap();
    client.rotate_token().await.unwrap();
    assert!(client.outbox_drop("12345678").await.is_err());
    let figures = Scraped::read(&client.metrics().await.unwrap());
    for (series, value) in [
        ("cm_daemon_connected{mesh=\"dev\",role=\"control-plane\"}", 0.0),
        ("cm_daemon_connected{mesh=\"dev\",role=\"session\"}", 0.0),
        ("cm_daemon_outbox_depth{mesh=\"dev\",status=\"pending\"}", 1.0),
        ("cm_daemon_outbox_depth{mesh=\"dev\",status=\"dead\"}", 0.0),
        ("cm_daemon_sessions{mesh=\"dev\"}", 1.0),
        ("cm_daemon_sse_streams", 1.0),
        ("cm_daemon_sse_dropped_total", 0.0),
        ("cm_daemon_local_token_rotations_total", 1.0),
        ("cm_daemon_clone_suspected_total", 0.0),
        ("cm_daemon_invalid_inbound_total{mesh=\"dev\",reason=\"unreadable\"}", 0.0),
        ("cm_daemon_decrypt_stale_total{mesh=\"dev\"}", 0.0),
        (
            "cm_daemon_ipc_request_total{endpoint=\"/v1/outbox/drop\",status=\"404\",transport=\"uds\"}",
            1.0,
        ),
        (
            "cm_daemon_ipc_request_total{endpoint=\"/v1/send\",status=\"202\",transport=\"uds\"}",
            1.0,
        ),
        ("cm_daemon_ipc_duration_seconds_count{endpoint=\"/v1/send\"}", 1.0),
    ] {
        assert!(
            (figures.value(series) - value).abs() < 1e-9,
            "{series}: {}",
            figures.value(series)
        );
    }
    assert!(figures.value("cm_daemon_outbox_age_seconds{mesh=\"dev\"}") >= 0.0);
    for kind in ["outbox", "inbox", "volume"] {
        let share = figures.value(&format!("cm_daemon_disk_pct{{kind=\"{kind}\"}}"));
        assert!((0.0..=100.0).contains(&share), "{kind}: {share}");
    }
    assert_eq!(figures.kinds["cm_daemon_ipc_duration_seconds"], "histogram");
    let (status, answer) =
        raw(running.socket(), "GET /v1/metrics HTTP/1.1\r\nhost: localhost", "").await;
    assert!(
        status == 200 && answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    running.shutdown().await;
}

/// Daemon spec §22 Accept 1: cardinality is bounded under fuzzed paths, and nothing that came in is shown.
#[tokio::test(flavor = "multi_thread")]
async fn strange_paths_make_no_series() {
    let home = Home::new();
    home.join("dev");
    let running = home.start().await;
    let client = running.client();
    let shoot = async |round: usize| {
        for number in 0..60 {
            let odd = format!("{round}x{number}");
            for (method, path) in [
                ("GET", format!("/{odd}")),
                ("GET", format!("/v1/{odd}/{odd}")),
                ("GET", format!("/v1/outbox/{odd}")),
                ("DELETE", format!("/v1/inbox/{odd}")),
                ("DELETE", format!("/v1/sessions/{odd}")),
                ("POST", format!("/v1/ops/{odd}")),
                ("GET", format!("/v1/inbox?cursor={odd}")),
                ("PATCH", format!("/v1/inbox/%2e%2e%2f{odd}")),
            ] {
                let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost");
                raw(running.socket(), &head, "").await;
            }
        }
    };
    shoot(0).await;
    let first = Scraped::read(&client.metrics().await.unwrap());
    shoot(1).await;
    let second = Scraped::read(&client.metrics().await.unwrap());
    let endpoints = second.values("endpoint");
    assert_eq!(
        first.values("endpoint").len()
            + usize::from(!first.values("endpoint").contains("/v1/metrics")),
        endpoints.len()
    );
    for endpoint in &endpoints {
        let is_template = endpoint.starts_with("/v1/")
            && !endpoint.contains(|c: char| c.is_ascii_digit() && c != '1');
        assert!(*endpoint == "unmatched" || is_template, "{endpoint}");
    }
    assert!(endpoints.contains("unmatched") && endpoints.contains("/v1/outbox/{id}"));
    assert!(second.series.len() < 400, "{}", second.series.len());
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_can_be_switched_off() {
    let home = Home::new();
    home.settings("[metrics]\nprometheus = false\n");
    let running = home.start().await;
    assert_eq!(code(running.client().metrics().await), "not_found");
    home.settings("");
    let reply = running.client().reload().await.unwrap();
    assert_eq!(reply.needs_restart, ["metrics.prometheus"]);
    assert_eq!(code(running.client().metrics().await), "not_found");
    running.shutdown().await;
}

/// What readers of events were too slow for is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_reads_is_counted() {
    let home = Home::new();
    let member = home.join("dev").public();
    let running = home.start().await;
    let client = running.client();
    let query = claudemesh_ipc::api::EventsQuery::default();
    let _stream = client.events(&query, None).await.unwrap();
    let mut number = 0;
    until("something was dropped", || {
        number += 1;
        let (running, client) = (&running, &client);
        async move {
            for index in 0..100 {
                let mut new = item(member, RecipientKind::Member, &format!("{number}-{index}"));
                new.body = Some("x".repeat(4_000));
                put(running, new).await;
            }
            let figures = Scraped::read(&client.metrics().await.unwrap());
            figures.value("cm_daemon_sse_dropped_total") > 0.0
        }
    })
    .await;
    running.shutdown().await;
}
