//! The property list of launchd.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{Plan, Unwritable, WORDS, one_line, path_text};

/// Name of the job.
pub const LABEL: &str = "com.claudemesh.daemon";
/// Where programs are looked for.
const PATH: &str = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin";

/// Where the list of a user's job lies.
pub fn agent(home: &Path) -> PathBuf {
    home.join("Library/LaunchAgents").join(format!("{LABEL}.plist"))
}

/// The text of the list: the daemon starts with the login and comes back when it failed.
///
/// # Errors
/// [`Unwritable`] for a path with a line break, or one that is not UTF-8.
pub fn plist(plan: &Plan) -> Result<String, Unwritable> {
    let words = std::iter::once(path_text(&plan.program)?).chain(WORDS);
    let mut arguments = String::new();
    for word in words {
        arguments.push_str("    ");
        arguments.push_str(&string(word));
        arguments.push('\n');
    }
    let mut variables = String::new();
    let own = [("HOME", path_text(&plan.home)?), ("PATH", PATH)];
    let more = plan.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.into_iter().chain(more) {
        let (name, value) = (escaped(one_line(name)?), string(one_line(value)?));
        // Writing into a text cannot fail.
        let _ = writeln!(variables, "    <key>{name}</key>\n    {value}");
    }
    let (home, log) = (string(path_text(&plan.home)?), string(path_text(&plan.log)?));
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>10</integer>
  <key>WorkingDirectory</key>
  {home}
  <key>EnvironmentVariables</key>
  <dict>
{variables}  </dict>
  <key>SoftResourceLimits</key>
  <dict>
    <key>NumberOfFiles</key>
    <integer>4096</integer>
  </dict>
  <key>StandardOutPath</key>
  {log}
  <key>StandardErrorPath</key>
  {log}
</dict>
</plist>
"#
    ))
}

fn string(text: &str) -> String {
    format!("<string>{}</string>", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::super::odd_plan;
    use super::*;

    #[test]
    fn signs_of_the_format_are_escaped() {
        let text = plist(&odd_plan()).unwrap();
        assert!(text.contains("<string>/home/O'Neil &amp; \"Söhne\" &lt;1&gt;</string>"), "{text}");
        assert!(!text.contains("<1>") && !text.contains("& "));
        let broken = Plan { home: "/a\u{1b}b".into(), ..odd_plan() };
        assert!(plist(&broken).is_err());
    }

    /// What another reader of the format finds in it, where there is one.
    #[test]
    fn another_reader_finds_the_same() {
        let script = "import json, plistlib, sys; print(json.dumps(plistlib.loads(sys.stdin.buffer.read())))";
        let reader = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        // Without it only the text above is looked at.
        let Ok(mut reader) = reader else { return };
        let plan = odd_plan();
        let text = plist(&plan).unwrap();
        reader.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let read = reader.wait_with_output().unwrap();
        let read: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        assert_eq!(
            read["ProgramArguments"],
            serde_json::json!([path(&plan.program), "daemon", "up", "--foreground"])
        );
        assert_eq!(read["EnvironmentVariables"]["HOME"], path(&plan.home));
        assert_eq!(read["EnvironmentVariables"]["CLAUDEMESH_DAEMON_DIR"], plan.variables[0].1);
        assert_eq!(read["StandardErrorPath"], path(&plan.log));
        assert_eq!(read["WorkingDirectory"], path(&plan.home));
        assert_eq!(read["KeepAlive"], serde_json::json!({ "SuccessfulExit": false }));
        assert_eq!(read["RunAtLoad"], true);
        assert_eq!((&read["Label"], &read["ThrottleInterval"]), (&LABEL.into(), &10.into()));
    }
}
