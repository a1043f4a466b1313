//! Text of peers made harmless: what hides, reorders, moves a cursor, or looks like a tag by which clients mark who speaks.

use std::fmt::Write as _;

use claudemesh_protocol::limits::MEMBER_NAME_MAX_CHARS;
use claudemesh_protocol::text::{folded_name, is_unprintable};

/// Tags by which clients mark what is not a person's word, in letters alone. What begins like one of them is broken.
const FRAME_WORDS: [&str; 24] = [
    "channel",
    "system",
    "tasknotification",
    "crosssessionmessage",
    "hookprompt",
    "userpromptsubmithook",
    "functioncalls",
    "functionresults",
    "invoke",
    "antml",
    "tooluse",
    "toolresult",
    "toolcall",
    "commandname",
    "commandmessage",
    "commandargs",
    "localcommand",
    "bashinput",
    "bashstd",
    "teammatemessage",
    "environmentcontext",
    "userinstructions",
    "permissionsinstructions",
    "claudemesh",
];
/// The same, but only as whole words: they are words of programs, too.
const WHOLE_WORDS: [&str; 6] = ["user", "human", "assistant", "developer", "parameter", "thinking"];
/// Letters of a tag looked at.
const WORD_MAX_LETTERS: usize = 24;
/// Characters after a `<` that are searched for letters.
const TAG_MAX_CHARS: usize = 96;
/// Names under which a peer must not speak.
const PRIVILEGED_NAMES: [&str; 6] =
    ["system", "user", "anthropic", "claude", "openai", "claudemesh"];
/// Longest escape sequence, in characters.
const ESCAPE_MAX_CHARS: usize = 256;

/// The text with plain line ends, without controls and escape sequences, with hidden characters shown, and with tags that
/// imitate a client's broken: `<system` becomes `‹system`.
pub fn neutral(text: &str) -> String {
    let text = plain(text);
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if is_angle(character) {
            out.push(if opens_frame(rest.clone(), before) { '‹' } else { character });
        } else if is_hidden(character) {
            let mut count = 1_usize;
            while rest.clone().next().is_some_and(is_hidden) {
                rest.next();
                count += 1;
            }
            match count {
                1 => {
                    let _ = write!(out, "⟨U+{:04X}⟩", u32::from(character));
                }
                count => {
                    let _ = write!(out, "⟨{count} hidden characters⟩");
                }
            }
        } else {
            out.push(character);
        }
        before = character;
    }
    out
}

/// [`neutral`] on one line: line feeds and tabs become spaces.
pub fn neutral_line(text: &str) -> String {
    neutral(text).replace(['\n', '\t'], " ")
}

/// [`neutral_line`] as the value of an attribute: nothing in it ends a quoted value or begins a tag.
pub fn attribute(text: &str) -> String {
    let line = neutral_line(text);
    let mut out = String::with_capacity(line.len());
    for character in line.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A name as it may stand in a frame: letters and digits of any alphabet and a few signs, one line, at most 64 characters,
/// with `peer:` before one that looks like a privileged speaker. Empty becomes `peer`.
pub fn name(text: &str) -> String {
    let shown: String = plain(text)
        .chars()
        .filter(|character| !is_hidden(*character))
        .map(|character| match character {
            '.' | '_' | '-' | '@' | '+' | '#' | '\'' => character,
            letter if letter.is_alphanumeric() => letter,
            blank if blank.is_whitespace() => ' ',
            _ => '_',
        })
        .collect();
    let shown: String = shown.trim().chars().take(MEMBER_NAME_MAX_CHARS).collect();
    let shown = shown.trim_end();
    if shown.is_empty() {
        return "peer".to_owned();
    }
    let letters: String = letters(shown.chars()).collect();
    if PRIVILEGED_NAMES.contains(&letters.as_str()) {
        return format!("peer:{shown}");
    }
    shown.to_owned()
}

/// Without escape sequences and controls; every way to end a line is a line feed.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\r' => {
                if rest.clone().next() != Some('\n') {
                    out.push('\n');
                }
            }
            '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\u{1b}' | '\u{9b}' | '\u{9d}' => skip_escape(character, &mut rest),
            '\n' | '\t' => out.push(character),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

/// Passes over the rest of an escape sequence; where it has no end, over nothing.
fn skip_escape(first: char, rest: &mut std::str::Chars<'_>) {
    let mut ahead = rest.clone();
    let kind = match first {
        '\u{9b}' => Some('['),
        '\u{9d}' => Some(']'),
        _ => ahead.next(),
    };
    for _ in 0..ESCAPE_MAX_CHARS {
        let Some(next) = ahead.next() else { return };
        let is_end = match kind {
            Some('[') => ('@'..='~').contains(&next),
            Some(']') => matches!(next, '\u{7}' | '\u{9c}'),
            _ => return,
        };
        if is_end {
            *rest = ahead;
            return;
        }
        // The string of a title ends with an escape and a backslash, too; text is never part of a sequence.
        if next == '\n' || (kind == Some('[') && !(' '..='?').contains(&next)) {
            return;
        }
        if next == '\u{1b}' && ahead.clone().next() == Some('\\') {
            ahead.next();
            *rest = ahead;
            return;
        }
    }
}

/// Neither seen nor a line end: what [`is_unprintable`] names, and a few more that show as nothing.
fn is_hidden(character: char) -> bool {
    let is_blank_to_the_eye = matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180e}'
        | '\u{206a}'..='\u{206f}' | '\u{3164}' | '\u{ffa0}' | '\u{e0080}'..='\u{e0fff}');
    (is_unprintable(character) && !matches!(character, '\n' | '\t')) || is_blank_to_the_eye
}

/// A sign that begins a tag, to the eye.
fn is_angle(character: char) -> bool {
    matches!(character, '<' | '＜' | '﹤' | '〈' | '⟨' | '❮' | 'ᐸ' | '˂')
}

/// True when a `<` begins what looks like a client's tag, blanks and signs before the word allowed.
fn opens_frame(after: std::str::Chars<'_>, before: char) -> bool {
    if after.clone().find(|character| !is_hidden(*character)) == Some('|') {
        return true;
    }
    let seen = after.filter(|character| !is_hidden(*character)).take(TAG_MAX_CHARS);
    let word = seen.skip_while(|character| !character.is_alphanumeric());
    let word: Vec<char> = word.collect();
    let whole: String =
        letters(word.iter().copied().take_while(|character| character.is_alphanumeric())).collect();
    // Such as `Vec<User>`.
    let is_of_a_program = before.is_alphanumeric() || before == ':';
    if WHOLE_WORDS.contains(&whole.as_str()) && !is_of_a_program {
        return true;
    }
    let letters: String = letters(word.into_iter()).take(WORD_MAX_LETTERS).collect();
    FRAME_WORDS.iter().any(|frame| letters.starts_with(frame))
}

/// Letters as a hurried reader sees them: folded, look-alikes mapped, everything else left out.
fn letters(characters: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    let text: String = characters.collect();
    let folded: Vec<char> = folded_name(&text).chars().collect();
    folded.into_iter().filter_map(|character| {
        let letter = latin(character);
        letter.is_alphanumeric().then_some(letter)
    })
}

/// The Latin letter that a lower-case letter of another alphabet, or a sign, looks like.
const fn latin(character: char) -> char {
    match character {
        'а' | 'α' | 'ɑ' | '@' | 'à' | 'á' | 'â' | 'ä' | 'å' | 'ã' => 'a',
        'с' | 'ϲ' | 'ç' | '¢' => 'c',
        'ԁ' | 'ď' => 'd',
        'е' | 'ε' | 'ё' | 'é' | 'è' | 'ê' | 'ë' | '3' => 'e',
        'һ' | 'н' | 'η' => 'h',
        'і' | 'ι' | 'ı' | 'í' | 'ì' | 'î' | 'ï' => 'i',
        '1' | '|' | 'ӏ' => 'l',
        'м' | 'μ' => 'm',
        'ո' | 'ν' | 'ñ' | 'п' => 'n',
        'о' | 'ο' | 'օ' | '0' | 'ö' | 'ó' | 'ò' | 'ô' => 'o',
        'р' | 'ρ' => 'p',
        'г' | 'ɾ' => 'r',
        'ѕ' | '5' | '$' | 'ß' => 's',
        'т' | 'τ' => 't',
        'υ' | 'ս' | 'ü' | 'ú' | 'ù' | 'û' => 'u',
        'у' | 'γ' | 'ý' => 'y',
        other => other,
    }
}
