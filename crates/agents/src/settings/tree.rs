//! A JSON document with comments, as far as it matters where things stand.

use std::ops::Range;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;
use jsonc_parser::tokens::Token;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};
use serde_json::Value;

use super::{SettingsError, line_and_column};

/// What Claude Code and other programs read: JSON, comments, trailing commas.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// A parsed document.
pub(super) struct Tree {
    /// `None` for a text without a value.
    pub(super) root: Option<Node>,
    /// End and kind of each token, comments among them.
    tokens: Vec<(Range<usize>, Kind)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Comma,
    Comment,
    Other,
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) range: Range<usize>,
    pub(super) value: Value,
    pub(super) children: Children,
}

/// One step on the way to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loc {
    /// Into the member of this name.
    Key(String),
    /// Into the element of this number.
    At(usize),
}

/// What is in a container.
#[derive(Clone)]
pub(super) enum Children {
    /// Of an object: key, where key and value stand together, the value.
    Members(Vec<(String, Range<usize>, Node)>),
    /// Of an array.
    Elements(Vec<Node>),
    /// It is no container.
    None,
}

impl Tree {
    pub(super) fn parse(text: &str) -> Result<Self, SettingsError> {
        let collect =
            CollectOptions { comments: CommentCollectionStrategy::AsTokens, tokens: true };
        let parsed = parse_to_ast(text, &collect, &OPTIONS).map_err(|error| {
            let (line, column) = line_and_column(text, error.range().start);
            SettingsError::Unreadable { line, column, reason: error.kind().to_string() }
        })?;
        let tokens = parsed.tokens.into_iter().flatten().map(|token| {
            let kind = match token.token {
                Token::Comma => Kind::Comma,
                Token::CommentLine(_) | Token::CommentBlock(_) => Kind::Comment,
                _ => Kind::Other,
            };
            (token.range.start..token.range.end, kind)
        });
        Ok(Self { tokens: tokens.collect(), root: parsed.value.map(Node::of) })
    }

    /// End of the last token or comment before a byte; 0 before the first.
    pub(super) fn end_before(&self, at: usize) -> usize {
        let earlier = self.tokens.partition_point(|(range, _)| range.end <= at);
        earlier
            .checked_sub(1)
            .and_then(|last| self.tokens.get(last))
            .map_or(0, |(range, _)| range.end)
    }

    /// The comma behind a value that ends at this byte.
    pub(super) fn comma_after(&self, at: usize) -> Option<Range<usize>> {
        let first = self.tokens.partition_point(|(range, _)| range.start < at);
        let next = self.tokens.iter().skip(first).find(|(_, kind)| *kind != Kind::Comment)?;
        (next.1 == Kind::Comma).then(|| next.0.clone())
    }

    /// The node at a path; of several members with one name the last, which is what programs read.
    pub(super) fn at(&self, path: &[Loc]) -> Option<&Node> {
        let mut node = self.root.as_ref()?;
        for step in path {
            node = match step {
                Loc::Key(key) => &node.member(key)?.2,
                Loc::At(number) => node.elements().get(*number)?,
            };
        }
        Some(node)
    }
}

impl Node {
    fn of(value: ast::Value<'_>) -> Self {
        let range = value.range();
        let range = range.start..range.end;
        let (value, children) = match value {
            ast::Value::StringLit(literal) => {
                (Value::from(literal.value.into_owned()), Children::None)
            }
            // Numbers too large for anybody's arithmetic are compared as they are written.
            ast::Value::NumberLit(literal) => (
                serde_json::from_str(literal.value)
                    .unwrap_or_else(|_| Value::from(format!("number {}", literal.value))),
                Children::None,
            ),
            ast::Value::BooleanLit(literal) => (Value::from(literal.value), Children::None),
            ast::Value::NullKeyword(_) => (Value::Null, Children::None),
            ast::Value::Array(array) => {
                let elements: Vec<Self> = array.elements.into_iter().map(Self::of).collect();
                let values = elements.iter().map(|element| element.value.clone()).collect();
                (Value::Array(values), Children::Elements(elements))
            }
            ast::Value::Object(object) => {
                let members: Vec<_> = object
                    .properties
                    .into_iter()
                    .map(|property| {
                        let range = property.range.start..property.range.end;
                        (property.name.into_string(), range, Self::of(property.value))
                    })
                    .collect();
                let values = members.iter().map(|(key, _, node)| (key.clone(), node.value.clone()));
                (Value::Object(values.collect()), Children::Members(members))
            }
        };
        Self { range, value, children }
    }

    pub(super) fn member(&self, key: &str) -> Option<&(String, Range<usize>, Self)> {
        match &self.children {
            Children::Members(members) => members.iter().rev().find(|(name, ..)| name == key),
            _ => None,
        }
    }

    /// Which of the children a step leads to.
    pub(super) fn number_of(&self, step: &Loc) -> Option<usize> {
        match (step, &self.children) {
            (Loc::Key(key), Children::Members(members)) => {
                members.iter().rposition(|(name, ..)| name == key)
            }
            (Loc::At(number), _) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn elements(&self) -> &[Self] {
        match &self.children {
            Children::Elements(elements) => elements,
            _ => &[],
        }
    }

    /// Where the children stand.
    pub(super) fn child_ranges(&self) -> Vec<Range<usize>> {
        match &self.children {
            Children::Members(members) => {
                members.iter().map(|(_, range, _)| range.clone()).collect()
            }
            Children::Elements(elements) => {
                elements.iter().map(|element| element.range.clone()).collect()
            }
            Children::None => Vec::new(),
        }
    }
}

/// What a value is called in an error.
pub(super) const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
