//! The files of the repository.

use std::path::{Path, PathBuf};

/// Directories that hold nothing we wrote.
const FOREIGN: [&str; 6] =
    ["target", "node_modules", ".git", "corpus", "artifacts", "proptest-regressions"];

/// One file of ours.
pub struct File {
    /// Path below the root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl File {
    /// Number of lines.
    pub fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// True when it is only compiled for tests.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// The text before the unit tests at its end.
    pub fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    let here = option_env!("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    here.ancestors().find(|dir| dir.join("Cargo.lock").exists()).expect("a workspace").to_path_buf()
}

/// All files below the root whose name ends with one of these, in a fixed order.
pub fn files(endings: &[&str]) -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut |path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            found.push(File { path, text });
        }
    });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no files ending with {endings:?} below {}", root.display());
    found
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !FOREIGN.iter().any(|foreign| *foreign == name) {
            walk(&entry.path(), visit);
        } else if kind.is_file() {
            visit(&entry.path());
        }
    }
}
