//! Where settings come from: a TOML file with lower-case keys, then the environment, each variable also by `_FILE`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

/// Environment prefix under which an unknown variable is certainly meant for this program.
const OWN_PREFIX: &str = "BROKER_";

/// The environment as read once; tests make their own.
#[derive(Clone, Default)]
pub struct Sources {
    variables: BTreeMap<String, String>,
}

impl Sources {
    /// The environment of this process; variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self { variables: variables.collect() }
    }

    /// Sets one variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A variable that is set and not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl Provider for Sources {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let values = self
            .variables
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name.to_ascii_lowercase(), Value::from(value.clone())));
        Ok(Map::from([(Profile::Default, values.collect())]))
    }
}

/// Where an effective value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// The environment.
    Environment,
    /// The TOML file.
    File(PathBuf),
    /// The file that the variable's `_FILE` form names.
    SecretFile(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) | Self::SecretFile(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One line of `check-config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The variable.
    pub name: String,
    /// Its value; `(set)` or `(not set)` for a secret.
    pub shown: String,
    /// Where it came from.
    pub origin: Origin,
}

/// One wrong variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable, or the file that cannot be read.
    pub variable: String,
    /// What it should have been.
    pub expected: String,
    /// Where the wrong value came from.
    pub origin: Origin,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}): expected {}", self.variable, self.origin, self.expected)
    }
}

/// Settings that cannot be used. The wrong values themselves are not shown: one of them may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// Every problem found, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid setting: ")?;
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// Whether a value may be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Plain,
    Hidden,
}

/// Reads variables one by one, remembering what it saw.
pub(super) struct Reader {
    figment: Figment,
    file: Option<PathBuf>,
    file_keys: BTreeSet<String>,
    own_variables: BTreeSet<String>,
    known: BTreeSet<String>,
    effective: Vec<Effective>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn open(sources: &Sources, file: Option<&Path>) -> Result<Self, SettingsError> {
        let mut figment = Figment::new();
        let mut file_keys = BTreeSet::new();
        if let Some(path) = file {
            let unreadable = |expected: String| SettingsError {
                problems: vec![Problem {
                    variable: super::CONFIG_VARIABLE.to_owned(),
                    expected,
                    origin: Origin::File(path.to_owned()),
                }],
            };
            let text = std::fs::read_to_string(path)
                .map_err(|error| unreadable(format!("a readable TOML file ({error})")))?;
            let toml = Figment::new().merge(Toml::string(&text));
            let dict: Dict = toml.extract().map_err(|_| {
                unreadable("a TOML file of lower-case keys and plain values".to_owned())
            })?;
            file_keys.extend(dict.into_keys());
            figment = figment.merge(Toml::string(&text));
        }
        let own_variables =
            sources.variables.keys().filter(|name| name.starts_with(OWN_PREFIX)).cloned().collect();
        Ok(Self {
            figment: figment.merge(sources),
            file: file.map(Path::to_owned),
            file_keys,
            own_variables,
            known: BTreeSet::from([super::CONFIG_VARIABLE.to_owned()]),
            effective: Vec::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// A value with a default, which stands in for a wrong one too, so that every problem is found in one go.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        default: (T, &str),
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.read(name, default.1, expected, Shown::Plain, parse).unwrap_or(default.0)
    }

    /// A value that may be absent.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(name, "", expected, Shown::Plain, parse)
    }

    /// A secret that may be absent; it is never printed.
    pub(super) fn secret<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(name, "", expected, Shown::Hidden, parse)
    }

    /// A switch: `1`, `true`, `on`, `yes` or their opposites.
    pub(super) fn switch(&mut self, name: &str, default: bool) -> bool {
        let shown = if default { "1" } else { "0" };
        self.parsed(name, (default, shown), "1 or 0", |text| match text {
            "1" | "true" | "on" | "yes" => Some(true),
            "0" | "false" | "off" | "no" => Some(false),
            _ => None,
        })
    }

    /// The general form: `None` when nothing is set, or when the value is wrong, which is recorded.
    fn read<T>(
        &mut self,
        name: &str,
        default: &str,
        expected: &str,
        shown: Shown,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.known.insert(name.to_owned());
        self.known.insert(format!("{name}_FILE"));
        let (text, origin) = self.raw(name)?;
        let is_set = text.is_some();
        let text = text.unwrap_or_else(|| default.to_owned());
        let visible = match shown {
            Shown::Plain => text.clone(),
            Shown::Hidden => if is_set { "(set)" } else { "(not set)" }.to_owned(),
        };
        self.effective.push(Effective {
            name: name.to_owned(),
            shown: visible,
            origin: origin.clone(),
        });
        if !is_set {
            return None;
        }
        let value = parse(text.trim());
        if value.is_none() {
            self.problem(name, expected, origin);
        }
        value
    }

    /// Records a problem when a variable that depends on another is missing.
    pub(super) fn require(&mut self, name: &str, is_present: bool, expected: &str) {
        let is_reported = self.problems.iter().any(|problem| problem.variable == name);
        if !is_present && !is_reported {
            self.problem(name, expected, Origin::Default);
        }
    }

    pub(super) fn warn(&mut self, sentence: &str) {
        self.warnings.push(sentence.to_owned());
    }

    /// The effective values and warnings.
    pub(super) fn finish(mut self) -> Result<(Vec<Effective>, Vec<String>), SettingsError> {
        if !self.problems.is_empty() {
            return Err(SettingsError { problems: self.problems });
        }
        for key in &self.file_keys {
            if !self.known.contains(&key.to_ascii_uppercase()) {
                self.warnings.push(format!("unknown key {key} in the configuration file"));
            }
        }
        for name in self.own_variables.difference(&self.known) {
            self.warnings.push(format!("unknown variable {name}"));
        }
        Ok((self.effective, self.warnings))
    }

    /// The text as set, directly or through its `_FILE` form; the outer `None` means a recorded problem.
    fn raw(&mut self, name: &str) -> Option<(Option<String>, Origin)> {
        let direct = self.find(name);
        let by_file = self.find(&format!("{name}_FILE"));
        match (direct, by_file) {
            (Some(_), Some((_, origin))) => {
                self.problem(name, &format!("either {name} or {name}_FILE, not both"), origin);
                None
            }
            (Some((text, origin)), None) => Some((Some(text), origin)),
            (None, None) => Some((None, Origin::Default)),
            (None, Some((path, _))) => {
                let path = PathBuf::from(path);
                match std::fs::read_to_string(&path) {
                    Ok(text) => Some((Some(text.trim().to_owned()), Origin::SecretFile(path))),
                    Err(error) => {
                        let expected = format!("a readable file ({error})");
                        self.problem(&format!("{name}_FILE"), &expected, Origin::SecretFile(path));
                        None
                    }
                }
            }
        }
    }

    fn find(&self, name: &str) -> Option<(String, Origin)> {
        let value = self.figment.find_value(&name.to_ascii_lowercase()).ok()?;
        let is_environment = self
            .figment
            .get_metadata(value.tag())
            .is_some_and(|source| source.name == "environment");
        let origin = match &self.file {
            Some(path) if !is_environment => Origin::File(path.clone()),
            _ => Origin::Environment,
        };
        Some((plain_text(&value)?, origin))
    }

    fn problem(&mut self, variable: &str, expected: &str, origin: Origin) {
        self.problems.push(Problem {
            variable: variable.to_owned(),
            expected: expected.to_owned(),
            origin,
        });
    }
}

/// The text of a plain TOML value; lists become comma lists.
fn plain_text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, switch) => Some(if *switch { "1" } else { "0" }.to_owned()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|whole| whole.to_string())
            .or_else(|| number.to_u128().map(|whole| whole.to_string())),
        Value::Array(_, items) => {
            items.iter().map(plain_text).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        _ => None,
    }
}
