//! The reference pages and the TypeScript types, written from the tables; a test fails when they are stale.
//!
//! `make reference` writes them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use claudemesh_protocol::ErrorCode;
use claudemesh_protocol::ops::{Family, Field, FieldKind, Operation, OperationKind, Run, Shape};
use claudemesh_protocol::wire::{Access, ClientFrame, Effect, FrameKind, Rate, Right, ServerFrame};
use serde_json::Value;
use ts_rs::{Config, TS, TypeVisitor};

/// Set by `make reference`.
const WRITE: &str = "UPDATE_REFERENCE";

const NOTE: &str =
    "<!-- Written by `make reference` from the tables in crates/protocol; edit those. -->\n";

#[test]
fn the_reference_pages_and_types_are_current() {
    let mut stale = Vec::new();
    for (path, text) in pages() {
        let file = root().join(&path);
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
        } else if std::fs::read_to_string(&file).unwrap_or_default() != text {
            stale.push(path);
        }
    }
    assert!(stale.is_empty(), "run `make reference`: {stale:?} are stale");
}

#[test]
fn no_page_is_left_of_a_family_that_is_gone() {
    let known: Vec<String> = pages().into_keys().collect();
    for entry in std::fs::read_dir(root().join("docs/reference/operations")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!("docs/reference/operations/{name}");
        assert!(known.contains(&path), "{path} belongs to no family");
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().find(|dir| dir.join("Cargo.lock").exists()).unwrap().to_path_buf()
}

fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::from([
        ("docs/reference/operations.md".to_owned(), index()),
        ("docs/reference/frames.md".to_owned(), frames()),
        ("docs/reference/errors.md".to_owned(), errors()),
        ("sdk/typescript/src/wire.ts".to_owned(), typescript()),
    ]);
    for family in Family::ALL {
        let path = format!("docs/reference/operations/{}.md", family.as_str());
        pages.insert(path, family_page(*family));
    }
    pages
}

fn of_family(family: Family) -> impl Iterator<Item = (OperationKind, Operation)> {
    OperationKind::ALL
        .iter()
        .map(|kind| (*kind, kind.spec()))
        .filter(move |(_, spec)| spec.family == family)
}

fn index() -> String {
    let mut page = format!(
        "{NOTE}# Operations\n\n\
         Everything a person, a script or an agent can ask for.\n\
         Each is reachable as `POST /v1/ops/<name>` of the local API; most are a verb of the command line, many an MCP tool.\n"
    );
    for family in Family::ALL {
        let name = family.as_str();
        let _ = write!(page, "\n## [{name}](operations/{name}.md)\n\n{}\n\n", family.summary());
        page.push_str("| operation | does | command | tool | kind |\n|---|---|---|---|---|\n");
        for (_, spec) in of_family(*family) {
            let verb = spec.verb.map_or("–".to_owned(), |verb| format!("`{}`", verb.words));
            let tool = spec.tool.map_or("–".to_owned(), |tool| format!("`{tool}`"));
            let class = spec.class.as_str();
            let _ = writeln!(
                page,
                "| `{}` | {} | {verb} | {tool} | {class} |",
                spec.name, spec.summary
            );
        }
    }
    page
}

fn family_page(family: Family) -> String {
    let mut page = format!("{NOTE}# {}\n\n{}\n", family.as_str(), family.summary());
    for (kind, spec) in of_family(family) {
        let _ = write!(page, "\n## `{}`\n\n{}\n\n", spec.name, spec.summary);
        facts(&mut page, &spec);
        command_line(&mut page, kind, &spec);
        inputs(&mut page, kind);
        result(&mut page, kind, &spec);
    }
    page
}

fn facts(page: &mut String, spec: &Operation) {
    let mut facts = vec![format!("kind {}", spec.class.as_str())];
    facts.push(match spec.access {
        Access::Needs(capability) => format!("a session needs `{capability}`"),
        Access::ByTarget => "a session needs `dm` for one peer, `broadcast` for more".to_owned(),
        Access::Upkeep | Access::Handshake => "a session needs no capability".to_owned(),
    });
    if let Run::Forward(frame) = spec.run {
        let frame = frame.spec();
        facts.push(format!("frame `{}`", frame.word));
        match frame.right {
            Right::Member => {}
            Right::Holds(permission) => facts.push(format!("permission `{permission}`")),
            Right::Admin => facts.push("owner or admin".to_owned()),
        }
        if let Some(event) = frame.audit {
            facts.push(format!("leaves `{event}` in the audit log"));
        }
    }
    if let Some(tool) = spec.tool {
        facts.push(format!("tool `{tool}`"));
    }
    facts.push(format!("answers within {} s", spec.timeout.as_secs()));
    let _ = writeln!(page, "{}.", facts.join(" · "));
}

fn command_line(page: &mut String, kind: OperationKind, spec: &Operation) {
    let Some(verb) = spec.verb else { return };
    let fields = kind.fields();
    let field = |name: &&str| fields.iter().find(|field| field.name == **name);
    let positional: String = verb
        .positional
        .iter()
        .filter_map(field)
        .map(|field| {
            let name = kebab(&field.name);
            if field.is_required { format!(" <{name}>") } else { format!(" [{name}]") }
        })
        .collect();
    let tail = if verb.has_tail { "…" } else { "" };
    let _ = write!(page, "\n```console\n$ claudemesh {}{positional}{tail}\n", verb.words);
    for (line, meaning) in verb.examples {
        let _ = writeln!(page, "$ claudemesh {line}    # {meaning}");
    }
    page.push_str("```\n");
    if !verb.aliases.is_empty() {
        let aliases: Vec<String> = verb.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let _ = writeln!(page, "\nAlso: {}.", aliases.join(", "));
    }
}

fn inputs(page: &mut String, kind: OperationKind) {
    let fields = kind.fields();
    if fields.is_empty() {
        return;
    }
    page.push_str("\n| input | takes | |\n|---|---|---|\n");
    let flags = kind.spec().verb.map_or(&[][..], |verb| verb.flags);
    for field in fields {
        let mut name = format!("`{}`", field.name);
        if field.tool_name != field.name {
            let _ = write!(name, " (tool: `{}`)", field.tool_name);
        }
        if let Some((_, flag)) = flags.iter().find(|(wire, _)| *wire == field.name) {
            let _ = write!(name, " (flag: `--{flag}`)");
        }
        let required = if field.is_required { ", required" } else { "" };
        let _ = writeln!(page, "| {name} | {}{required} | {} |", takes(&field), field.description);
    }
}

fn takes(field: &Field) -> String {
    let quoted = |words: &[String]| {
        words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
    };
    let mut text = match &field.kind {
        FieldKind::Text => "text".to_owned(),
        FieldKind::Choice(words) => quoted(words),
        FieldKind::Flag => "true or false".to_owned(),
        FieldKind::Integer => "whole number".to_owned(),
        FieldKind::Duration => "milliseconds; `15m` at the command line".to_owned(),
        FieldKind::Number => "number".to_owned(),
        FieldKind::Words(words) if words.is_empty() => "list of texts".to_owned(),
        FieldKind::Words(words) => format!("list of {}", quoted(words)),
        FieldKind::Json => "any JSON".to_owned(),
        FieldKind::Structured => "see below".to_owned(),
    };
    match (field.min_chars, field.max_chars) {
        (Some(min), Some(max)) => _ = write!(text, " of {min} to {max} characters"),
        (None, Some(max)) => _ = write!(text, " of at most {max} characters"),
        (Some(1), None) => text.push_str(", not empty"),
        _ => {}
    }
    match (field.min, field.max) {
        (Some(min), Some(max)) => _ = write!(text, " from {min} to {max}"),
        (None, Some(max)) => _ = write!(text, " up to {max}"),
        _ => {}
    }
    if let Some(max) = field.max_items {
        let _ = write!(text, ", at most {max}");
    }
    text
}

fn result(page: &mut String, kind: OperationKind, spec: &Operation) {
    let schema = kind.output_schema();
    let (title, rows) = match spec.shape {
        Shape::List(list) => (
            format!("`{list}`: a list of"),
            schema.pointer(&format!("/properties/{list}/items/properties")),
        ),
        _ => ("A record of".to_owned(), schema.pointer("/properties")),
    };
    let Some(Value::Object(rows)) =
        rows.filter(|rows| rows.as_object().is_some_and(|rows| !rows.is_empty()))
    else {
        return;
    };
    let _ = write!(page, "\n{title}\n\n| result | |\n|---|---|\n");
    for (name, property) in rows {
        let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(page, "| `{name}` | {} |", description.replace('\n', " "));
    }
}

fn kebab(name: &str) -> String {
    name.chars().fold(String::new(), |mut text, letter| {
        if letter.is_ascii_uppercase() {
            text.push('-');
        }
        text.push(if letter == '_' { '-' } else { letter.to_ascii_lowercase() });
        text
    })
}

fn frames() -> String {
    let mut page = format!(
        "{NOTE}# Frames\n\n\
         Messages of a client on the WebSocket, one JSON object each; the types stand in [wire.ts](../../sdk/typescript/src/wire.ts).\n\
         A request with `_reqId` is always answered: with its reply, an `ack`, or an `error`.\n\n\
         | frame | answer | session capability | member | effect | audit event | rate |\n|---|---|---|---|---|---|---|\n"
    );
    for kind in FrameKind::ALL {
        let spec = kind.spec();
        let reply = spec.reply.map_or("–".to_owned(), |reply| format!("`{reply}`"));
        let access = match spec.access {
            Access::Needs(capability) => format!("`{capability}`"),
            Access::ByTarget => "`dm` or `broadcast`, by target".to_owned(),
            Access::Upkeep => "–".to_owned(),
            Access::Handshake => "before it".to_owned(),
        };
        let right = match spec.right {
            Right::Member => "every".to_owned(),
            Right::Holds(permission) => format!("with `{permission}`"),
            Right::Admin => "owner, admin".to_owned(),
        };
        let effect = match spec.effect {
            Effect::Upkeep => "upkeep",
            Effect::Read => "read",
            Effect::Set => "write, repeatable",
            Effect::Write => "write",
        };
        let audit = spec.audit.map_or("–".to_owned(), |event| format!("`{event}`"));
        let rate = match spec.rate {
            Rate::Free => "–",
            Rate::MemberSend => "sends of the member",
            Rate::MeshVerify => "once a minute and mesh",
        };
        let _ = writeln!(
            page,
            "| `{}` | {reply} | {access} | {right} | {effect} | {audit} | {rate} |",
            spec.word
        );
    }
    page
}

fn errors() -> String {
    let mut page = format!(
        "{NOTE}# Error codes\n\n\
         The same words on the WebSocket, over HTTP, in the local API, in MCP results and with `--json`.\n\n"
    );
    for code in ErrorCode::ALL {
        let _ = writeln!(page, "- `{}`", code.as_str());
    }
    page
}

/// Every type of the wire and of the operations, by name.
#[derive(Default)]
struct Declarations {
    by_name: BTreeMap<String, String>,
    seen: std::collections::HashSet<std::any::TypeId>,
}

fn config() -> Config {
    Config::new().with_large_int("number")
}

impl Declarations {
    fn add<T: TS + 'static + ?Sized>(&mut self) {
        if !self.seen.insert(std::any::TypeId::of::<T>()) {
            return;
        }
        let config = config();
        // Built-in types, lists and maps have no declaration; what they are made of is visited all the same.
        if T::output_path().is_some() {
            let name = T::ident(&config);
            let docs = T::docs().unwrap_or_default();
            self.by_name.insert(name, format!("{docs}export {}\n", T::decl(&config)));
        }
        T::visit_dependencies(&mut *self);
    }
}

impl TypeVisitor for Declarations {
    fn visit<T: TS + 'static + ?Sized>(&mut self) {
        self.add::<T>();
    }
}

fn typescript() -> String {
    let mut all = Declarations::default();
    all.add::<ClientFrame>();
    all.add::<ServerFrame>();
    let mut text = String::from(
        "// Written by `make reference` from the tables in crates/protocol; edit those.\n\
         // Times in milliseconds and sequence numbers are far below 2^53, so that they are numbers here.\n",
    );
    if all.by_name.values().any(|declaration| declaration.contains("JsonValue")) {
        let json = "\nexport type JsonValue = number | string | boolean | null | JsonValue[] | { [key in string]?: JsonValue };\n";
        if !all.by_name.contains_key("JsonValue") {
            text.push_str(json);
        }
    }
    for declaration in all.by_name.values() {
        let _ = write!(text, "\n{declaration}");
    }
    text
}
