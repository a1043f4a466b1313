//! Which tools are offered: the list that follows `--tools` (MCP spec §1).

use std::fmt;

use claudemesh_protocol::ops::{Family, OperationKind};
use claudemesh_protocol::text::sanitized_line;

/// The first catalogue: every tool that other sessions of a mesh could count on from the beginning.
const FIRST: &str = "v1";
/// Every tool there is.
const ALL: &str = "all";
/// No tool.
const NONE: &str = "none";
/// Tools of services that a mesh runs, which come and go; this version runs none, and says so rather than offer nothing.
const SERVICES: &str = "services";
/// Longest unknown word that is echoed, in characters.
const ECHO_MAX_CHARS: usize = 200;

/// The tools of one server, in the order of the catalogue: families as declared, and tools as declared in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toolset {
    kinds: Vec<OperationKind>,
}

/// A list of tools with words that name nothing; displayed with the words that do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownTools(Vec<String>);

impl fmt::Display for UnknownTools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let families: Vec<&str> = Family::ALL.iter().map(|family| family.as_str()).collect();
        let tools: Vec<&str> = catalogue().filter_map(|kind| kind.spec().tool).collect();
        if self.0.iter().any(|word| word.trim_start_matches('-') == SERVICES) {
            writeln!(
                f,
                "{SERVICES}: this version runs no services, so they have no tools; leave it out"
            )?;
        }
        write!(
            f,
            "unknown tools: {}\nhint: valid items of --tools: {NONE}, {FIRST}, {ALL}; families: {}; tools: {}; \
             a leading - removes",
            sanitized_line(&self.0.join(", "), ECHO_MAX_CHARS),
            families.join(", "),
            tools.join(", ")
        )
    }
}

/// Every operation that has a tool, in the order of the catalogue.
fn catalogue() -> impl Iterator<Item = OperationKind> {
    let of_family = |family: Family| {
        OperationKind::ALL.iter().copied().filter(move |kind| {
            let spec = kind.spec();
            spec.family == family && spec.tool.is_some()
        })
    };
    Family::ALL.iter().copied().flat_map(of_family)
}

impl Toolset {
    /// Whether this operation is offered.
    pub(crate) fn has(&self, kind: OperationKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Reads a comma list of `none`, `v1`, `all`, families and tools, from left to right; what has a leading `-` is taken
    /// out again. An empty list offers nothing.
    ///
    /// # Errors
    /// [`UnknownTools`] with every word that names nothing.
    pub fn parse(list: &str) -> Result<Self, UnknownTools> {
        let mut chosen: Vec<OperationKind> = Vec::new();
        let mut unknown = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (is_removal, name) = match word.strip_prefix('-') {
                Some(name) => (true, name),
                None => (false, word),
            };
            match named(name) {
                Some(kinds) if is_removal => chosen.retain(|kind| !kinds.contains(kind)),
                Some(kinds) => chosen.extend(kinds),
                None => unknown.push(word.to_owned()),
            }
        }
        if !unknown.is_empty() {
            return Err(UnknownTools(unknown));
        }
        Ok(Self { kinds: catalogue().filter(|kind| chosen.contains(kind)).collect() })
    }

    /// The operation behind a tool that is offered.
    pub fn operation(&self, tool: &str) -> Option<OperationKind> {
        OperationKind::of_tool(tool).filter(|kind| self.kinds.contains(kind))
    }

    /// The operations, in order.
    pub fn operations(&self) -> impl Iterator<Item = OperationKind> {
        self.kinds.iter().copied()
    }

    /// True when nothing is offered.
    pub const fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Families of which something is offered.
    pub fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = self.kinds.iter().map(|kind| kind.spec().family).collect();
        families.dedup();
        families
    }
}

/// What one word of the list stands for.
fn named(word: &str) -> Option<Vec<OperationKind>> {
    let kinds = match word {
        NONE => Vec::new(),
        ALL => catalogue().collect(),
        FIRST => catalogue().filter(|kind| kind.spec().family.is_in_v1()).collect(),
        _ => match Family::parse(word) {
            Some(family) => catalogue().filter(|kind| kind.spec().family == family).collect(),
            None => vec![OperationKind::of_tool(word)?],
        },
    };
    Some(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(list: &str) -> Vec<&'static str> {
        let set = Toolset::parse(list).unwrap();
        set.operations().filter_map(|kind| kind.spec().tool).collect()
    }

    #[test]
    fn families_come_in_their_own_order_however_they_are_written() {
        let expected = [
            "send_message",
            "list_peers",
            "message_status",
            "check_messages",
            "set_state",
            "get_state",
            "list_state",
        ];
        assert_eq!(tools("messaging,state"), expected);
        assert_eq!(tools(" state , messaging,messaging,get_state"), expected);
    }

    #[test]
    fn single_tools_are_added_and_removed() {
        assert_eq!(
            tools("state,-set_state,send_message"),
            ["send_message", "get_state", "list_state"]
        );
        assert_eq!(tools("messaging,-messaging,list_peers"), ["list_peers"]);
        assert_eq!(tools("none"), tools(""));
        assert!(tools("-all").is_empty() && tools("all,-all").is_empty());
    }

    #[test]
    fn all_holds_more_than_the_first_catalogue() {
        let (all, first) = (tools("all"), tools("v1"));
        assert!(first.iter().all(|tool| all.contains(tool)));
        assert!(all.contains(&"grant") && !first.contains(&"grant"), "{first:?}");
        assert!(!all.iter().any(|tool| tool.contains("kick") || tool.contains("ban")), "{all:?}");
        for family in Family::ALL {
            assert!(Toolset::parse(family.as_str()).is_ok(), "{family:?}");
        }
    }

    /// MCP spec §1, §8.3: nobody who asks for the tools of services is told that there are none of them by an empty list.
    #[test]
    fn services_are_refused_in_words_until_there_are_some() {
        for list in ["services", "state,services", "all,-services"] {
            let refusal = Toolset::parse(list).unwrap_err().to_string();
            assert!(refusal.starts_with("services: this version runs no services"), "{refusal}");
            assert!(refusal.contains("valid items of --tools"), "{refusal}");
        }
    }

    #[test]
    fn what_is_unknown_is_named_beside_what_is_valid() {
        let refusal = Toolset::parse("state,nope,-sql\u{1b}[2J").unwrap_err().to_string();
        assert!(refusal.starts_with("unknown tools: nope, -sql"), "{refusal}");
        assert!(!refusal.contains('\u{1b}'));
        for valid in ["none", "v1", "all", "messaging", "administration", "set_state", "grant"] {
            assert!(refusal.contains(valid), "{valid}: {refusal}");
        }
    }
}
