//! Precedence, checks and what is never printed.

use super::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn resolve(pairs: &[(&str, &str)]) -> Result<Resolved, SettingsError> {
    let sources = pairs
        .iter()
        .fold(Sources::default().with("HOME", "/home/ana"), |sources, (name, value)| {
            sources.with(name, value)
        });
    Settings::resolve(&sources)
}

fn problem(pairs: &[(&str, &str)]) -> Problem {
    match resolve(pairs) {
        Ok(_) => panic!("accepted {pairs:?}"),
        Err(error) => error.problems.into_iter().next().unwrap(),
    }
}

#[test]
fn nothing_set_gives_an_embedded_broker_on_loopback() {
    let resolved = resolve(&[]).unwrap();
    assert_eq!(resolved.settings.bind, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(resolved.settings.port, DEFAULT_PORT);
    assert_eq!(resolved.settings.limits, BrokerLimits::default());
    assert!(resolved.settings.data_dir.ends_with("claudemesh-broker"));
    assert!(resolved.warnings.is_empty(), "{:?}", resolved.warnings);
}

#[test]
fn environment_wins_over_the_file_and_unknown_keys_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    std::fs::write(
        &file,
        "broker_port = 8001\nsend_burst = 7\nno_such_key = 1\ntrusted_proxies = [\"10.0.0.0/8\"]\n",
    )
    .unwrap();
    let resolved = resolve(&[
        (CONFIG_VARIABLE, file.to_str().unwrap()),
        ("BROKER_PORT", "8002"),
        ("BROKER_NONSENSE", "1"),
    ])
    .unwrap();
    assert_eq!(resolved.settings.port, 8002);
    assert_eq!(resolved.settings.limits.send_burst, 7);
    assert_eq!(resolved.settings.trusted_proxies.len(), 1);
    assert_eq!(resolved.warnings.len(), 2, "{:?}", resolved.warnings);
    let origin = |name: &str| {
        resolved.effective.iter().find(|line| line.name == name).unwrap().origin.clone()
    };
    assert_eq!(origin("BROKER_PORT"), Origin::Environment);
    assert_eq!(origin("SEND_BURST"), Origin::File(file));
    assert_eq!(origin("LOG_LEVEL"), Origin::Default);
}

/// CFG-1.
#[test]
fn a_wrong_value_names_its_variable_and_the_expectation() {
    for (name, value) in [
        ("BROKER_PORT", "x"),
        ("BROKER_PORT", "70000"),
        ("BROKER_BIND", "localhost"),
        ("STORAGE_PROFILE", "cloud"),
        ("DATA_DIR", "relative"),
        ("BROKER_ENCRYPTION_KEY", "short"),
        ("SEND_BURST", "0"),
        ("SEND_BURST", "-1"),
        ("TRUSTED_PROXIES", "10.0.0.0/40"),
        ("LOG_LEVEL", "loud"),
        ("INVITE_V1_ENABLED", "maybe"),
        ("BROKER_PUBLIC_URL", "ftp://x"),
        ("BROKER_PUBLIC_URL", "https://x/path"),
    ] {
        let problem = problem(&[(name, value)]);
        assert_eq!(problem.variable, name, "{value}");
        assert!(!problem.expected.is_empty());
    }
}

/// CFG-1.
#[test]
fn secrets_are_neither_listed_nor_in_errors() {
    let resolved = resolve(&[
        ("BROKER_ENCRYPTION_KEY", KEY),
        ("METRICS_TOKEN", "a-planted-metrics-token"),
        ("DATABASE_URL", "postgres://user:planted@host/db"),
    ])
    .unwrap();
    let listed = format!("{:?}", resolved.effective);
    assert!(!listed.contains("planted") && !listed.contains(KEY), "{listed}");
    let wrong = problem(&[("BROKER_ENCRYPTION_KEY", "planted-but-wrong")]);
    assert!(!wrong.to_string().contains("planted"));
}

#[test]
fn the_server_profile_needs_its_database_and_key() {
    let error = resolve(&[("STORAGE_PROFILE", "server")]).err().unwrap();
    let names: Vec<&str> = error.problems.iter().map(|problem| problem.variable.as_str()).collect();
    assert_eq!(names, ["DATABASE_URL", "BROKER_ENCRYPTION_KEY"]);
    let resolved = resolve(&[
        ("STORAGE_PROFILE", "server"),
        ("DATABASE_URL", "postgres://host/db"),
        ("BROKER_ENCRYPTION_KEY", KEY),
    ])
    .unwrap();
    assert_eq!(resolved.settings.bind, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

#[test]
fn each_variable_reads_from_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let path = file.to_str().unwrap();
    let resolved = resolve(&[("BROKER_ENCRYPTION_KEY_FILE", path)]).unwrap();
    assert_eq!(resolved.settings.encryption_key.unwrap().to_hex().as_str(), KEY);
    let both = problem(&[("BROKER_ENCRYPTION_KEY_FILE", path), ("BROKER_ENCRYPTION_KEY", KEY)]);
    assert_eq!(both.variable, "BROKER_ENCRYPTION_KEY");
    let missing = problem(&[("BROKER_PORT_FILE", "/nowhere/port")]);
    assert_eq!(missing.variable, "BROKER_PORT_FILE");
}

/// HTTP-4: each limit changes with its variable.
#[test]
fn every_limit_has_its_variable() {
    let serde_json::Value::Object(fields) = serde_json::to_value(BrokerLimits::default()).unwrap()
    else {
        panic!("limits are an object");
    };
    for field in fields.keys() {
        let name = field.to_ascii_uppercase();
        let limits = resolve(&[(&name, "3")]).unwrap().settings.limits;
        assert_eq!(serde_json::to_value(limits).unwrap()[field], 3, "{name}");
    }
}
