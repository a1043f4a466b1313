//! The reckoning: what was accepted against what arrived, row by row, after everything has stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::engine::{Delivery, read_only};
use super::operator::AGAIN;
use super::system::{ABSENT, NAMES, Person, Session, System};
use super::traffic::{Sent, Spoken, Target};

/// State of a delivery that its receiver has taken.
const TAKEN: i64 = 2;
/// State of a delivery to an ended session whose member has the message by another one.
const MERGED: i64 = 3;
/// Characters of the shortest secret: 32 bytes as base64.
const SECRET_CHARS: usize = 43;

/// What went wrong, one line each.
#[derive(Debug, Default)]
pub struct Verdict {
    pub lost: Vec<String>,
    pub twice: Vec<String>,
    pub disorder: Vec<String>,
    /// Wrong texts, wrong receivers, answers nothing explains, texts where they must not be, leaks.
    pub wrong: Vec<String>,
    /// Messages stored without proof of who sent them.
    pub unproven: u64,
    /// Deliveries that waited for a session when it ended, and went to its member.
    pub moved: u64,
}

impl Verdict {
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        [
            ("lost", &self.lost),
            ("twice", &self.twice),
            ("out of order", &self.disorder),
            ("wrong", &self.wrong),
        ]
        .into_iter()
    }

    pub fn is_clean(&self) -> bool {
        self.all().all(|(_, faults)| faults.is_empty())
    }
}

/// One row of an inbox.
#[derive(Debug, Clone)]
struct Received {
    client_message_id: String,
    sender_pubkey: String,
    sender_member_pubkey: String,
    recipient_pubkey: String,
    addressed_to: Option<String>,
    body: Option<String>,
    decrypt: String,
}

/// One row of an outbox.
#[derive(Debug, Clone)]
struct Given {
    client_message_id: String,
    status: String,
    last_error: Option<String>,
    /// What the broker answered, as JSON.
    answer: Option<String>,
}

const RECEIVED: &str =
    "SELECT client_message_id, sender_pubkey, sender_member_pubkey, recipient_pubkey, addressed_to,
    body, decrypt FROM inbox ORDER BY seq";
const GIVEN: &str = "SELECT client_message_id, status, last_error, answer FROM outbox ORDER BY seq";

type ReceivedRow = (String, String, String, String, Option<String>, Option<String>, String);

async fn received(person: &Person) -> Vec<Received> {
    let mut connection = read_only(&person.paths.inbox_file()).await.unwrap();
    let rows: Vec<ReceivedRow> = sqlx::query_as(RECEIVED).fetch_all(&mut connection).await.unwrap();
    rows.into_iter()
        .map(|row| Received {
            client_message_id: row.0,
            sender_pubkey: row.1,
            sender_member_pubkey: row.2,
            recipient_pubkey: row.3,
            addressed_to: row.4,
            body: row.5,
            decrypt: row.6,
        })
        .collect()
}

async fn given(person: &Person) -> Vec<Given> {
    let mut connection = read_only(&person.paths.outbox_file()).await.unwrap();
    let rows: Vec<(String, String, Option<String>, Option<String>)> =
        sqlx::query_as(GIVEN).fetch_all(&mut connection).await.unwrap();
    rows.into_iter()
        .map(|(client_message_id, status, last_error, answer)| Given {
            client_message_id,
            status,
            last_error,
            answer,
        })
        .collect()
}

/// What has to arrive, once what was put back into the queue counts under its new id.
#[derive(Default)]
struct Expected {
    sent: Vec<Sent>,
    /// Messages another one took the place of. They were never tried when somebody chose them, and may still have gone
    /// out in the moment between.
    replaced: Vec<Sent>,
    /// Ids whose sender was told that they went to the member of an ended session.
    told_moved: BTreeSet<String>,
    /// Every id in an outbox.
    known: BTreeSet<String>,
}

impl Expected {
    /// By id, also those that need not arrive.
    fn by_id(&self) -> BTreeMap<&str, &Sent> {
        let all = self.sent.iter().chain(&self.replaced);
        all.map(|sent| (sent.id.as_str(), sent)).collect()
    }

    /// True when a message took the place of another one, or lost it: such a one is no part of its speaker's order.
    fn is_out_of_line(&self, id: &str) -> bool {
        id.ends_with(AGAIN) || self.replaced.iter().any(|sent| sent.id == id)
    }
}

/// Compares everything with everything. The system has stopped.
pub async fn judge(system: &System, spoken: &Spoken) -> Verdict {
    let mut verdict = Verdict { wrong: spoken.faults.clone(), ..Verdict::default() };
    let deliveries = system.engine.deliveries().await;
    let mut inboxes = Vec::new();
    let mut expected = Expected::default();
    for person in &system.people {
        check_outbox(&mut verdict, person, &spoken.sent, &mut expected).await;
        inboxes.push(received(person).await);
    }
    for id in spoken.requeued.iter().filter(|id| !expected.known.contains(*id)) {
        verdict.lost.push(format!("{id} took the place of another one and is in no outbox"));
    }
    let sent = expected.by_id();
    check_deliveries(&mut verdict, system, &deliveries, &inboxes, &expected);
    let keys = Keys::of(&deliveries, &expected);
    for (index, inbox) in inboxes.iter().enumerate() {
        check_inbox(&mut verdict, system, index, inbox, &sent);
        check_order(&mut verdict, index, inbox, &expected, &keys);
    }
    check_arrival(&mut verdict, system, &inboxes, &expected);
    for shown in &spoken.shown {
        for ((_, _, id), count) in shown.counts.iter().filter(|(_, count)| **count > 1) {
            verdict.twice.push(format!("{id} was announced {count} times to {}", shown.session));
        }
    }
    verdict
}

/// Every accepted send is a row, and done; or another one took its place, and is done.
async fn check_outbox(
    verdict: &mut Verdict,
    person: &Person,
    sent: &[Sent],
    expected: &mut Expected,
) {
    let rows: BTreeMap<String, Given> =
        given(person).await.into_iter().map(|row| (row.client_message_id.clone(), row)).collect();
    for row in rows.values() {
        expected.known.insert(row.client_message_id.clone());
        let answer = row.answer.as_deref().unwrap_or_default();
        if answer.contains("\"rerouted_to\":\"") {
            expected.told_moved.insert(row.client_message_id.clone());
        }
    }
    for sent in sent.iter().filter(|sent| NAMES[sent.from] == person.name) {
        let Some(mut row) = rows.get(&sent.id) else {
            verdict.lost.push(format!("{} was accepted and is in no outbox", sent.id));
            continue;
        };
        let mut sent = sent.clone();
        if row.status == "aborted" {
            let again = format!("{}{AGAIN}", sent.id);
            let Some(next) = rows.get(&again) else {
                verdict.lost.push(format!("{} was put aside and nothing took its place", sent.id));
                continue;
            };
            row = next;
            expected.replaced.push(sent.clone());
            sent.id = again;
        }
        if row.status != "done" {
            let error = row.last_error.as_deref().unwrap_or_default();
            verdict.lost.push(format!("{} is {} in its outbox: {error}", sent.id, row.status));
        }
        expected.sent.push(sent);
    }
}

/// Every delivery of the broker was taken and lies in the inbox of the right person under the right key.
fn check_deliveries(
    verdict: &mut Verdict,
    system: &System,
    deliveries: &[Delivery],
    inboxes: &[Vec<Received>],
    expected: &Expected,
) {
    let mut keys: Vec<BTreeSet<(&str, &str)>> = Vec::new();
    for (person, inbox) in system.people.iter().zip(inboxes) {
        // A session that ended has left what nobody had read to its member, and a former key of the member its rows to
        // the one in force.
        let pairs = inbox.iter().flat_map(|row| {
            let is_members = person.is_member_key(&row.recipient_pubkey);
            let former = person.keys.iter().filter(move |_| is_members);
            let keys = std::iter::once(&row.recipient_pubkey).chain(&row.addressed_to);
            keys.chain(former).map(|key| (row.client_message_id.as_str(), key.as_str()))
        });
        keys.push(pairs.collect());
    }
    let taken: BTreeSet<(&str, &str)> = deliveries
        .iter()
        .filter(|delivery| delivery.state == TAKEN)
        .map(|row| (row.client_message_id.as_str(), row.recipient_member_id.as_str()))
        .collect();
    let mut known = BTreeSet::new();
    for delivery in deliveries {
        let id = delivery.client_message_id.as_str();
        known.insert(id);
        let is_moved = delivery.rerouted_from.is_some() && !expected.told_moved.contains(id);
        verdict.moved += u64::from(is_moved);
        let Some(person) =
            system.people.iter().position(|p| p.member_id == delivery.recipient_member_id)
        else {
            verdict.wrong.push(format!("{id} is for nobody we know"));
            continue;
        };
        let has = |key: &str| keys[person].contains(&(id, key));
        // A session that stands in for its daemon's own connection is handed the member's copy too, and has the message.
        let is_with_stand_in = system.people[person].is_member_key(&delivery.recipient_key)
            && system.people[person].sessions.iter().any(|session| has(&session.pubkey));
        let is_there = has(&delivery.recipient_key)
            || delivery.rerouted_from.as_deref().is_some_and(has)
            || is_with_stand_in;
        let whose = format!("{id} for {} ({:.8})", NAMES[person], delivery.recipient_key);
        if delivery.state == MERGED && taken.contains(&(id, delivery.recipient_member_id.as_str()))
        {
            continue;
        }
        if delivery.state != TAKEN {
            let (state, attempt) = (delivery.state, delivery.attempt);
            verdict.lost.push(format!("{whose} is in state {state} after {attempt} attempts"));
        } else if !is_there {
            verdict.lost.push(format!("{whose} was acknowledged and is in no inbox"));
        }
    }
    let ids = expected.sent.iter().map(|sent| sent.id.as_str());
    for id in ids.filter(|id| !known.contains(*id)) {
        verdict.lost.push(format!("{id} has no delivery at the broker"));
    }
}

/// Every row is something that was said, to this person, in these words, once for each key.
fn check_inbox(
    verdict: &mut Verdict,
    system: &System,
    index: usize,
    inbox: &[Received],
    sent: &BTreeMap<&str, &Sent>,
) {
    let name = NAMES[index];
    let mut seen = BTreeSet::new();
    for row in inbox {
        let id = row.client_message_id.as_str();
        let Some(sent) = sent.get(id) else {
            verdict.wrong.push(format!("{name} has {id}, which nobody was told is accepted"));
            continue;
        };
        if !addressees(&sent.to, sent.from).contains(&index) {
            verdict.wrong.push(format!("{name} has {id}, which is for {:?}", sent.to));
        }
        if row.body.as_deref() != Some(sent.body.as_str()) {
            verdict.wrong.push(format!("{name} has {id} with another text ({})", row.decrypt));
        }
        let key = &row.sender_member_pubkey;
        // A message that came before the roster is shown as unverified, by its key only: allowed, counted.
        if key.is_empty() {
            verdict.unproven += 1;
        } else if !system.people[sent.from].is_member_key(key) {
            verdict.wrong.push(format!("{name} has {id} from member {key:.8}, not its sender"));
        }
        if !seen.insert((id, row.recipient_pubkey.as_str())) {
            verdict.twice.push(format!("{name} has {id} twice under one key"));
        }
    }
}

/// Every message is with everyone it is for: exactly once when it was for one.
fn check_arrival(
    verdict: &mut Verdict,
    system: &System,
    inboxes: &[Vec<Received>],
    expected: &Expected,
) {
    let counts: Vec<BTreeMap<&str, u32>> = inboxes
        .iter()
        .map(|inbox| {
            let mut counts = BTreeMap::new();
            for row in inbox {
                *counts.entry(row.client_message_id.as_str()).or_default() += 1;
            }
            counts
        })
        .collect();
    // Who was not in the group when the broker looked gets nothing, and the broker has no row that says otherwise. A daemon
    // that ends in order takes its sessions out.
    let has_left_group: Vec<bool> = system
        .people
        .iter()
        .map(|person| {
            let has_ended = |session: &Session| session.agent.lives() > 0;
            person.daemon.has_stopped() || person.sessions.first().is_some_and(has_ended)
        })
        .collect();
    let may_be_missing = expected.replaced.iter().map(|sent| (sent, true));
    let must_be_there = expected.sent.iter().map(|sent| (sent, false));
    for (sent, may_be_missing) in must_be_there.chain(may_be_missing) {
        for person in addressees(&sent.to, sent.from) {
            let count = counts[person].get(sent.id.as_str()).copied().unwrap_or(0);
            let is_for_one = matches!(sent.to, Target::Member(_) | Target::Session(..));
            let was_out = sent.to == Target::Group && has_left_group[person];
            if count == 0 && !may_be_missing && !was_out {
                let (id, to) = (&sent.id, &sent.to);
                verdict.lost.push(format!("{id} to {to:?} is not with {}", NAMES[person]));
            } else if is_for_one && count > 1 {
                verdict.twice.push(format!("{} is {count} times with {}", sent.id, NAMES[person]));
            }
        }
    }
}

/// Where the broker kept each message, by its id.
struct Keys<'a> {
    /// The keys it waited for last.
    last: BTreeSet<(&'a str, &'a str)>,
    /// Those that began in a session's queue and ended in its member's.
    moved: BTreeSet<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(deliveries: &'a [Delivery], expected: &Expected) -> Self {
        let (mut last, mut moved) = (BTreeSet::new(), BTreeSet::new());
        for row in deliveries {
            let id = row.client_message_id.as_str();
            last.insert((id, row.recipient_key.as_str()));
            if row.rerouted_from.is_some() && !expected.told_moved.contains(id) {
                moved.insert(id);
            }
        }
        Self { last, moved }
    }
}

/// What one speaker said to one address at one priority is received in that order, by each key: one queue keeps its order,
/// two promise none, also when they are a former key of a member and the next one. A session that is back gets what is sent
/// to it now by its own queue, while what was sent in its absence waits in its member's; which of them brought a message that
/// was moved cannot be told afterwards.
fn check_order(
    verdict: &mut Verdict,
    index: usize,
    inbox: &[Received],
    expected: &Expected,
    keys: &Keys<'_>,
) {
    let by_id = expected.by_id();
    let mut last: BTreeMap<_, &Sent> = BTreeMap::new();
    for row in inbox {
        let id = row.client_message_id.as_str();
        let is_out_of_line = expected.is_out_of_line(id) || keys.moved.contains(id);
        let Some(sent) = by_id.get(id).filter(|_| !is_out_of_line) else { continue };
        // Under the key it came by, also when its session has ended since and left it to the member.
        let session =
            row.addressed_to.as_deref().filter(|session| keys.last.contains(&(id, session)));
        let recipient = session.unwrap_or(&row.recipient_pubkey);
        let addressed_to = row.addressed_to.as_deref().filter(|_| session.is_none());
        let line = (
            &sent.speaker,
            &row.sender_pubkey,
            &sent.to,
            &sent.address,
            sent.priority.as_str(),
            recipient,
            addressed_to,
        );
        if let Some(before) = last.insert(line, sent)
            && before.number > sent.number
        {
            verdict.disorder.push(format!(
                "{} got {} after {} ({:?}, {:?})",
                NAMES[index], sent.id, before.id, sent.to, sent.priority
            ));
        }
    }
}

/// Who must have a message.
fn addressees(to: &Target, from: usize) -> Vec<usize> {
    match to {
        Target::Member(person) | Target::Session(person, _) => vec![*person],
        Target::Group => (0..ABSENT).filter(|person| *person != from).collect(),
        Target::Everyone => (0..=ABSENT).filter(|person| *person != from).collect(),
    }
}

/// Places where a text of ours must not be found, in clear or as base64.
pub fn find_text(system: &System, marker: &str) -> Vec<String> {
    let mut files = logs(system);
    collect(&system.engine.directory(), &mut files);
    let found = holding(files, &needles(marker)).into_iter();
    found.map(|file| format!("{} holds a message in clear", file.display())).collect()
}

/// Logs that hold the key of a member or of a session, or a token (daemon spec §22).
pub fn find_secrets(system: &System) -> Vec<String> {
    let mut secrets = Vec::new();
    for person in &system.people {
        let mut files = vec![person.paths.membership_file()];
        collect(person.paths.sessions_dir(), &mut files);
        collect(person.paths.daemon_dir(), &mut files);
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "json")) {
            let bytes = std::fs::read(file).unwrap_or_default();
            collect_secrets(&serde_json::from_slice(&bytes).unwrap_or_default(), &mut secrets);
        }
        secrets.extend(person.sessions.iter().map(|session| session.token.reveal().to_owned()));
        let token = std::fs::read_to_string(person.paths.local_token_file()).unwrap_or_default();
        secrets.extend(token.split_whitespace().map(str::to_owned));
    }
    // What is shorter than a key is a number or a word.
    secrets.retain(|secret| secret.len() >= SECRET_CHARS);
    let needles: Vec<Vec<u8>> = secrets.into_iter().map(String::into_bytes).collect();
    assert!(needles.len() > system.people.len(), "the secrets are not found where they belong");
    let found = holding(logs(system), &needles).into_iter();
    found.map(|file| format!("{} holds a secret", file.display())).collect()
}

/// Texts under names that speak of secrets.
fn collect_secrets(value: &serde_json::Value, secrets: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                let is_secret = name.to_ascii_lowercase().contains("secret");
                secrets.extend(field.as_str().filter(|_| is_secret).map(str::to_owned));
                collect_secrets(field, secrets);
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                collect_secrets(item, secrets);
            }
        }
        _ => {}
    }
}

/// What the processes wrote for people.
fn logs(system: &System) -> Vec<PathBuf> {
    let mut files = vec![system.broker.log().to_owned()];
    files.extend(system.people.iter().map(|person| person.daemon.log().to_owned()));
    files.extend(system.people.iter().map(|person| person.paths.log_file()));
    files
}

/// Those of the files in which one of the texts stands.
fn holding(files: Vec<PathBuf>, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut found = files;
    found.retain(|file| {
        let bytes = std::fs::read(file).unwrap_or_default();
        needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == needle))
    });
    found
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}

/// The text itself, and what base64 makes of it at each of three positions.
fn needles(marker: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let mut needles = vec![marker.as_bytes().to_vec()];
    for offset in 0..3 {
        let text = format!("{}{marker}", &"..."[..offset]);
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(text);
        // The first and last characters also depend on the neighbours.
        needles.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
    }
    needles
}
