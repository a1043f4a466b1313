//! Joining and leaving (CLI spec §3.1, §5.3).

use serde_json::Value;

use crate::home::{Home, kill, two_people, until};
use crate::words::snapshot;

/// CLI spec §5.3: v2 join, then `peer list`; joining again; §3.1: without a restart of the daemon.
#[test]
fn a_link_makes_a_member_that_the_broker_knows() {
    let ana = Home::new();
    ana.up();
    let link = ana.invite(1);
    let bob = Home::new();
    bob.ok(&["daemon", "up"]);
    let joined = bob.json_ok(&["join", &link, "--name", "Bob"]);
    assert_eq!((joined["slug"].as_str(), &joined["alreadyMember"]), (Some("home"), &false.into()));
    assert!(bob.json_ok(&["peers", "--mesh", "home"]).is_array());
    let again = bob.json_ok(&["join", &link]);
    assert_eq!(again["alreadyMember"], true);
    assert_eq!(bob.json_ok(&["join", "home"])["memberId"], joined["memberId"]);
    ana.has_members(2);
    let names: Vec<String> = ana
        .json_ok(&["members", "--json=name"])
        .to_string()
        .split('"')
        .map(str::to_owned)
        .collect();
    assert!(names.contains(&"Bob".to_owned()), "{names:?}");
    // The one use is gone: somebody else is told so.
    let carol = Home::new();
    let (code, refused) = carol.json(&["join", &link]);
    assert_eq!((code, refused["error"].as_str()), (5, Some("exhausted")), "{refused}");
    assert!(!carol.file("config.json").exists());
}

/// What others write is taken in from the join on: nobody has to know of a daemon.
#[test]
fn whoever_has_joined_receives() {
    let ana = Home::new();
    ana.up();
    let bob = Home::new();
    let joined = bob.run(&["join", &ana.invite(1), "--name", "Bob"]);
    assert_eq!(joined.code, 0, "{joined:?}");
    assert!(joined.stderr.contains("daemon started automatically"), "{joined:?}");
    assert!(joined.stdout.contains("claudemesh peers"), "{joined:?}");
    until("bob is there without a word of his", || {
        bob.json_ok(&["daemon", "status"])["brokers"]["home"] == "open"
    });
    // A second mesh is attached by the same daemon.
    ana.ok(&["create", "Second"]);
    let again = bob.run(&["join", &ana.invite_to("second", 1)]);
    assert!(again.code == 0 && !again.stderr.contains("started"), "{again:?}");
}

/// Where nothing is to be started by the way, the join says how to receive; it is a join all the same.
#[test]
fn a_join_without_a_daemon_says_how_to_receive() {
    let ana = Home::new();
    ana.up();
    let link = ana.invite(9);
    let unasked: [(Home, &[&str]); 3] = [
        (Home::new(), &["--no-daemon", "join"]),
        (Home::new().with("CI", "true"), &["join"]),
        (Home::new().with("CLAUDEMESH_INTERNAL_NO_AUTOSPAWN", "1"), &["join"]),
    ];
    for (home, words) in &unasked {
        let joined = home.run(&[words, &[link.as_str()][..]].concat());
        assert_eq!(joined.code, 0, "{joined:?}");
        assert!(joined.stdout.contains("claudemesh daemon up"), "{joined:?}");
        assert!(!home.file("daemon/daemon.pid").exists(), "{words:?}");
        assert!(!joined.stderr.contains("warning"), "{joined:?}");
    }
    // One that cannot start is told of, and nothing is lost by it.
    let broken = Home::new();
    std::fs::create_dir_all(broken.file("daemon")).unwrap();
    for dir in ["", "daemon"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(broken.file(dir), mode).unwrap();
    }
    std::fs::write(broken.file("daemon/config.toml"), "ipc = 7").unwrap();
    let joined = broken.run(&["join", &link]);
    assert_eq!(joined.code, 0, "{joined:?}");
    assert!(joined.stdout.contains("claudemesh daemon up"), "{joined:?}");
    assert!(!joined.stderr.is_empty(), "{joined:?}");
}

/// Ruling 51: a name belongs to one member; whoever asks for it as well is told the one it got.
#[test]
fn a_taken_name_comes_with_a_number() {
    let ana = Home::new();
    ana.up();
    let link = ana.invite(2);
    let (first, second) = (Home::new(), Home::new());
    assert_eq!(first.json_ok(&["join", &link, "--name", "Bob"])["displayName"], "Bob");
    let told = second.ok(&["join", &link, "--name", "bob"]);
    assert!(told.contains("you are bob-2 on home"), "{told}");
}

#[test]
fn words_for_people() {
    let (ana, _bob) = two_people();
    let carol = Home::new();
    let link = ana.invite(1);
    let preview = carol.ok(&["join", &link, "--dry-run"]);
    assert!(!carol.file("config.json").exists(), "a dry run changes nothing");
    let joined = carol.ok(&["join", &link, "--name", "Carol"]);
    let again = carol.ok(&["join", &link]);
    let left = carol.ok(&["leave", "home", "-y"]);
    let refused = carol.run(&["join", &link]);
    snapshot("join", &[preview, joined, again, left, refused.stderr].join("\n$\n"));
}

/// CLI spec §5.3: every form of one invite.
#[test]
fn every_form_of_an_invite_works() {
    let ana = Home::new();
    let up = ana.up();
    let host = up["broker"]["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let code = ana.json_ok(&["share", "--uses", "9"])["code"].as_str().unwrap().to_owned();
    let forms = [
        format!("http://{host}/i/{code}"),
        format!("<http://{host}/i/{code}>."),
        format!("http://{host}/es/i/{code}?from=chat)"),
        format!("{host}/i/{code}"),
    ];
    for form in &forms {
        let bob = Home::new();
        assert_eq!(bob.json_ok(&["join", form])["slug"], "home", "{form}");
    }
    let bob = Home::new().with("CLAUDEMESH_BROKER_URL", up["broker"]["ws_url"].as_str().unwrap());
    assert_eq!(bob.json_ok(&["join", &code])["slug"], "home");
    let carol = Home::new().with("CLAUDEMESH_API_URL", up["broker"]["url"].as_str().unwrap());
    assert_eq!(carol.json_ok(&["join", &format!("claudemesh://i/{code}")])["slug"], "home");
    // As the first word it joins, too.
    assert_eq!(Home::new().run(&[&forms[0]]).code, 0);
}

/// CLI spec §5.3: expired, revoked, exhausted, unknown.
#[test]
fn invites_that_do_not_work_say_why() {
    let ana = Home::new();
    let up = ana.up();
    let url = up["broker"]["url"].as_str().unwrap();
    let bob = Home::new();
    let (code, refused) = bob.json(&["join", &format!("{url}/i/ZZZZ9999")]);
    assert_eq!((code, refused["error"].as_str()), (5, Some("not_found")), "{refused}");
    assert!(
        !refused["message"].as_str().unwrap().contains("ZZZZ9999"),
        "the code is masked: {refused}"
    );
    let (code, refused) = bob.json(&["join", "nothing like it"]);
    assert_eq!((code, refused["error"].as_str()), (3, Some("invalid_invite")), "{refused}");
    let (code, _) = bob.json(&["join", "ABCD2345"]);
    assert_eq!(code, 3, "no server is compiled in");
}

/// CLI spec §5.3: another broker needs consent.
#[test]
fn a_foreign_broker_needs_consent() {
    let (ana, bob) = two_people();
    let carol = Home::new();
    carol.up();
    let link = carol.invite(1);
    let host = link.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let ran = bob.run(&["join", &link, "--slug", "carols"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains(&host) && ran.stderr.contains("pass -y"), "{ran:?}");
    assert_eq!(bob.json_ok(&["join", &link, "--slug", "carols", "-y"])["slug"], "carols");
    assert_eq!(bob.json_ok(&["list"]).as_array().unwrap().len(), 2);
    drop(ana);
}

/// CLI spec §5.3 step 7: two meshes of one name.
#[test]
fn a_taken_name_is_refused_before_the_invite_is_used() {
    let (_ana, bob) = two_people();
    let carol = Home::new();
    carol.up();
    let link = carol.invite(1);
    let (code, refused) = bob.json(&["join", &link, "-y"]);
    assert_eq!((code, refused["error"].as_str()), (6, Some("slug_taken")), "{refused}");
    carol.has_members(1);
    assert_eq!(bob.json_ok(&["join", &link, "-y", "--slug", "other"])["slug"], "other");
}

/// CLI spec §2.4: concurrent joins of different meshes.
#[test]
fn concurrent_joins_are_all_kept() {
    let ana = Home::new();
    ana.up();
    let links: Vec<String> = ["One", "Two", "Three"]
        .iter()
        .map(|name| {
            let slug = ana.json_ok(&["create", &format!("{name} Mesh")])["slug"]
                .as_str()
                .unwrap()
                .to_owned();
            ana.json_ok(&["share", "--mesh", &slug])["url"].as_str().unwrap().to_owned()
        })
        .collect();
    let bob = Home::new();
    let children: Vec<_> = links
        .iter()
        .map(|link| {
            bob.command(&["join", link, "-q"]).stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    let slugs = bob.json_ok(&["list", "--json=slug"]).as_array().unwrap().len();
    assert_eq!(slugs, 3);
}

/// CLI spec §5.3, §2.4: kill -9 at any point of a join; the repeat joins and uses up one.
#[test]
fn a_killed_join_is_repeated_without_another_use() {
    let ana = Home::new();
    ana.up();
    for (before, pause) in (1..).zip([0, 5, 20, 40, 80]) {
        let link = ana.invite(1);
        let bob = Home::new();
        let mut child = bob
            .command(&["join", &link])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if pause == 0 {
            until("keys are kept", || {
                bob.file("join-pending.json").exists() || child.try_wait().unwrap().is_some()
            });
        } else {
            // A different place of the join each time; every one of them must do.
            std::thread::sleep(std::time::Duration::from_millis(pause));
        }
        kill(child.id());
        child.wait().unwrap();
        if let Ok(bytes) = std::fs::read(bob.file("config.json")) {
            serde_json::from_slice::<Value>(&bytes).unwrap();
        }
        assert_eq!(bob.json_ok(&["join", &link])["slug"], "home");
        ana.has_members(before + 1);
        assert!(!bob.file("join-pending.json").exists());
    }
}

/// CLI spec §5.3: an answer that was tampered with changes nothing. The tampering sits between client and broker.
#[test]
fn a_tampered_answer_is_refused() {
    let ana = Home::new();
    let up = ana.up();
    let broker = up["broker"]["listen"].as_str().unwrap().to_owned();
    let link = ana.invite(5);
    let code = link.rsplit('/').next().unwrap().to_owned();
    for (what, from, to) in [("role", "|member|", "|admin|"), ("version", "v=2|", "v=3|")] {
        let proxy = tamper::between(&broker, from, to);
        let bob = Home::new().with("CLAUDEMESH_BROKER_HTTP", &format!("http://{proxy}"));
        let (exit, refused) = bob.json(&["join", &format!("http://{broker}/i/{code}")]);
        assert_eq!(
            (exit, refused["error"].as_str()),
            (2, Some("bad_signature")),
            "{what}: {refused}"
        );
        assert!(!bob.file("config.json").exists(), "{what}");
    }
}

/// CLI spec §3.1.
#[test]
fn leaving_forgets_the_mesh_and_its_keys() {
    let (ana, bob) = two_people();
    let (code, refused) = bob.json(&["leave", "nope"]);
    assert_eq!((code, refused["error"].as_str()), (5, Some("mesh_not_attached")), "{refused}");
    bob.ok(&["daemon", "up"]);
    let left = bob.json_ok(&["leave", "home", "-y"]);
    assert_eq!((&left["left"], &left["remaining"]), (&true.into(), &0.into()));
    let config = std::fs::read_to_string(bob.file("config.json")).unwrap();
    assert!(!config.contains("secretKey"), "{config}");
    assert!(bob.json_ok(&["daemon", "status"])["brokers"].as_object().unwrap().is_empty());
    assert_eq!(bob.run(&["peers"]).code, 5);
    ana.has_members(1);
}

/// CLI spec §3.1: create.
#[test]
fn create_slugs_names_and_refuses_taken_ones() {
    let ana = Home::new();
    assert_eq!(ana.json(&["create", "x y"]).0, 3, "no server configured");
    ana.up();
    assert_eq!(ana.json(&["create", ""]).0, 3);
    let made = ana.json_ok(&["create", "Platform Team"]);
    assert_eq!(
        (made["slug"].as_str(), made["role"].as_str()),
        (Some("platform-team"), Some("owner"))
    );
    let (code, refused) = ana.json(&["create", "platform team"]);
    assert_eq!((code, refused["error"].as_str()), (6, Some("slug_taken")), "{refused}");
    ana.ok(&["leave", "platform-team", "-y"]);
    let (code, refused) = ana.json(&["create", "platform team"]);
    assert_eq!((code, refused["suggestion"].as_str()), (6, Some("platform-team-2")), "{refused}");
    assert_eq!(ana.json_ok(&["create", "platform team", "-y"])["slug"], "platform-team-2");
}

/// Changes bytes of what a broker answers.
mod tamper {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    /// A proxy for as many connections as come; its address.
    pub fn between(broker: &str, from: &'static str, to: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let broker = broker.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let broker = broker.clone();
                std::thread::spawn(move || carry(client, &broker, from, to));
            }
        });
        address
    }

    fn carry(mut client: TcpStream, broker: &str, from: &str, to: &str) {
        let mut server = TcpStream::connect(broker).unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let read = client.read(&mut chunk).unwrap_or(0);
            request.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length:")
                        .map(|n| n.trim().parse().unwrap())
                })
                .unwrap_or(0_usize);
            if read == 0 || body.len() >= length {
                break;
            }
        }
        let request =
            String::from_utf8_lossy(&request).replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(request.as_bytes()).unwrap();
        let mut reply = Vec::new();
        let _ = server.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
        let body = body.replace(from, to);
        let head: Vec<String> = head
            .lines()
            .map(|line| {
                if line.to_ascii_lowercase().starts_with("content-length:") {
                    format!("content-length: {}", body.len())
                } else {
                    line.to_owned()
                }
            })
            .collect();
        let _ = client.write_all(format!("{}\r\n\r\n{body}", head.join("\r\n")).as_bytes());
    }
}
