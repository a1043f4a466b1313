//! The two engines behind one way of asking: a statement with numbered parameters, values, rows.
//!
//! Almost every statement is one text for both. Where they differ ([`Sql::per_engine`]) the texts stand in
//! `engine/sqlite.rs` and `engine/postgres.rs` (the message path) or side by side (a list parameter).

use std::borrow::Cow;

use claudemesh_protocol::{PublicKey, Timestamp};
use sqlx::postgres::{PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{Decode, Row as _, Type};

use crate::{Result, StoreError};

pub(crate) mod pool;
pub(crate) mod postgres;
pub(crate) mod sqlite;

/// A statement text, or one per engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sql {
    sqlite: &'static str,
    postgres: &'static str,
}

impl Sql {
    /// Where the engines differ.
    pub(crate) const fn per_engine(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres }
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// A parameter.
#[derive(Debug, Clone)]
pub(crate) enum Value<'v> {
    Text(Option<Cow<'v, str>>),
    Integer(Option<i64>),
    /// Bound as a JSON array for `json_each` on SQLite, as `bigint[]` on PostgreSQL.
    Integers(&'v [i64]),
    /// Bound as a JSON array for `json_each` on SQLite, as `text[]` on PostgreSQL.
    Texts(&'v [String]),
    /// See [`Bulk`]; the first parameter of its statement.
    Bulk(&'v Bulk<'v>),
    /// A parameter for each cell, for a statement with so many of them; SQLite only.
    Cells(&'v [Cell<'v>]),
}

impl<'v> From<&'v str> for Value<'v> {
    fn from(text: &'v str) -> Self {
        Self::Text(Some(Cow::Borrowed(text)))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(Cow::Owned(text)))
    }
}

impl<'v> From<Option<&'v str>> for Value<'v> {
    fn from(text: Option<&'v str>) -> Self {
        Self::Text(text.map(Cow::Borrowed))
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(Cow::Owned))
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Integer(Some(i64::from(number)))
    }
}

impl From<Option<u32>> for Value<'_> {
    fn from(number: Option<u32>) -> Self {
        Self::Integer(number.map(i64::from))
    }
}

impl From<bool> for Value<'_> {
    fn from(is_true: bool) -> Self {
        Self::Integer(Some(i64::from(is_true)))
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Integer(Some(time.as_millis()))
    }
}

impl From<Option<Timestamp>> for Value<'_> {
    fn from(time: Option<Timestamp>) -> Self {
        Self::Integer(time.map(Timestamp::as_millis))
    }
}

impl From<&PublicKey> for Value<'_> {
    fn from(key: &PublicKey) -> Self {
        Self::from(key.to_hex())
    }
}

impl From<Option<&PublicKey>> for Value<'_> {
    fn from(key: Option<&PublicKey>) -> Self {
        Self::from(key.map(|key| key.to_hex()))
    }
}

/// One cell of a [`Bulk`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cell<'v> {
    Text(Option<&'v str>),
    Integer(Option<i64>),
}

impl serde::Serialize for Cell<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Integer(number) => number.serialize(serializer),
        }
    }
}

/// Rows for a statement that inserts or looks up any number of them: one JSON parameter on SQLite, one array parameter
/// per column on PostgreSQL. Every row has the same cells.
#[derive(Debug, Clone)]
pub(crate) struct Bulk<'v> {
    width: usize,
    cells: Vec<Cell<'v>>,
}

impl<'v> Bulk<'v> {
    pub(crate) fn new(width: usize, rows: usize) -> Self {
        Self { width, cells: Vec::with_capacity(width * rows) }
    }

    pub(crate) fn push<const WIDTH: usize>(&mut self, row: [Cell<'v>; WIDTH]) {
        debug_assert_eq!(WIDTH, self.width, "every row has the same cells");
        self.cells.extend(row);
    }

    /// The cells of `rows` rows at a time, and what is left.
    pub(crate) fn chunks(&self, rows: usize) -> (std::slice::ChunksExact<'_, Cell<'v>>, Self) {
        let chunks = self.cells.chunks_exact(self.width * rows);
        let rest = Self { width: self.width, cells: chunks.remainder().to_vec() };
        (chunks, rest)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    fn json(&self) -> String {
        json_text(&self.cells.chunks(self.width).collect::<Vec<_>>())
    }

    /// The columns, typed by their first cell.
    fn columns(&self) -> impl Iterator<Item = ColumnValues> + '_ {
        (0..self.width).map(|column| {
            let cells = self.cells.iter().skip(column).step_by(self.width);
            match self.cells.get(column) {
                Some(Cell::Integer(_)) => ColumnValues::Integers(
                    cells.map(|cell| if let Cell::Integer(n) = cell { *n } else { None }).collect(),
                ),
                _ => ColumnValues::Texts(
                    cells
                        .map(|cell| match cell {
                            Cell::Text(text) => text.map(str::to_owned),
                            Cell::Integer(_) => None,
                        })
                        .collect(),
                ),
            }
        })
    }
}

enum ColumnValues {
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

/// A connection inside a transaction, or a read connection.
pub(crate) enum Conn<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut pool::Held),
}

/// Runs `$run` on a query with all values bound, for whichever engine the connection has.
macro_rules! on_connection {
    ($conn:expr, $sql:expr, $values:expr, |$query:ident, $c:ident| $run:expr, $sqlite_row:expr, $pg_row:expr) => {
        match $conn {
            Conn::Sqlite(connection) => {
                let $c = &mut **connection;
                let mut $query = sqlx::query::<Sqlite>($sql.sqlite);
                for value in $values {
                    $query = match value {
                        Value::Text(text) => $query.bind(text.as_deref().map(str::to_owned)),
                        Value::Integer(number) => $query.bind(*number),
                        Value::Integers(list) => $query.bind(json_text(list)),
                        Value::Texts(list) => $query.bind(json_text(list)),
                        Value::Bulk(bulk) => $query.bind(bulk.json()),
                        Value::Cells(cells) => {
                            cells.iter().fold($query, |query, cell| match cell {
                                Cell::Text(text) => query.bind(text.map(str::to_owned)),
                                Cell::Integer(number) => query.bind(*number),
                            })
                        }
                    };
                }
                claudemesh_sqlite::settle($run).await.map($sqlite_row).map_err(StoreError::from)
            }
            Conn::Postgres(held) => {
                let mut $query = sqlx::query::<Postgres>($sql.postgres);
                for value in $values {
                    $query = match value {
                        Value::Text(text) => $query.bind(text.as_deref().map(str::to_owned)),
                        Value::Integer(number) => $query.bind(*number),
                        Value::Integers(list) => $query.bind(list.to_vec()),
                        Value::Texts(list) => $query.bind(list.to_vec()),
                        Value::Bulk(bulk) => {
                            bulk.columns().fold($query, |query, column| match column {
                                ColumnValues::Integers(values) => query.bind(values),
                                ColumnValues::Texts(values) => query.bind(values),
                            })
                        }
                        Value::Cells(_) => {
                            return Err(StoreError::corrupt("PostgreSQL takes columns"));
                        }
                    };
                }
                let deadline = held.deadline();
                let $c = held.begin_statement()?;
                let outcome = tokio::time::timeout_at(deadline, $run).await;
                held.settle(outcome).map($pg_row)
            }
        }
    };
}

impl Conn<'_> {
    /// Runs a statement; answers the number of rows it changed.
    pub(crate) async fn execute(
        &mut self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
    ) -> Result<u64> {
        let sql = sql.into();
        on_connection!(
            self,
            sql,
            values,
            |query, c| query.execute(c),
            |done| done.rows_affected(),
            |done| done.rows_affected()
        )
    }

    /// Runs a statement and reads all its rows.
    pub(crate) async fn all(
        &mut self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>> {
        let sql = sql.into();
        on_connection!(
            self,
            sql,
            values,
            |query, c| query.fetch_all(c),
            |rows| rows.into_iter().map(Row::Sqlite).collect(),
            |rows| rows.into_iter().map(Row::Postgres).collect()
        )
    }

    /// Runs a statement and reads its first row, when it has one.
    pub(crate) async fn first(
        &mut self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
    ) -> Result<Option<Row>> {
        let sql = sql.into();
        on_connection!(
            self,
            sql,
            values,
            |query, c| query.fetch_optional(c),
            |row| row.map(Row::Sqlite),
            |row| row.map(Row::Postgres)
        )
    }

    /// Runs a statement that always answers one row with one number.
    pub(crate) async fn number(
        &mut self,
        sql: impl Into<Sql>,
        values: &[Value<'_>],
    ) -> Result<i64> {
        match self.first(sql, values).await? {
            Some(row) => row.at(0),
            None => Err(StoreError::corrupt("a number was expected")),
        }
    }
}

fn json_text<T: serde::Serialize>(list: &[T]) -> String {
    // Numbers and texts always serialise.
    serde_json::to_string(list).unwrap_or_else(|_| "[]".to_owned())
}

/// A row of either engine.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A type both engines can read.
pub(crate) trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl Row {
    /// The column at a place, counted from 0.
    pub(crate) fn at<T: Column>(&self, index: usize) -> Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
        .map_err(|_| StoreError::corrupt(format!("column {index}")))
    }

    /// The column of a name.
    pub(crate) fn get<T: Column>(&self, name: &str) -> Result<T> {
        match self {
            Self::Sqlite(row) => row.try_get(name),
            Self::Postgres(row) => row.try_get(name),
        }
        .map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A text column as the type its text stands for.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        self.get::<String>(name)?.parse().map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A nullable text column as the type its text stands for.
    pub(crate) fn parsed_option<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.get::<Option<String>>(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A text column that holds JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_str(&self.get::<String>(name)?)
            .map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A number column; PostgreSQL keeps small vocabularies in two bytes.
    pub(crate) fn integer(&self, name: &str) -> Result<i64> {
        self.integer_option(name)?.ok_or_else(|| StoreError::corrupt(name.to_owned()))
    }

    /// A nullable number column.
    pub(crate) fn integer_option(&self, name: &str) -> Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => row.try_get(name),
            Self::Postgres(row) => row.try_get(name).or_else(|_| {
                row.try_get::<Option<i16>, _>(name).map(|number| number.map(i64::from))
            }),
        }
        .map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A time column.
    pub(crate) fn time(&self, name: &str) -> Result<Timestamp> {
        self.integer(name).map(Timestamp::from_millis)
    }

    /// A nullable time column.
    pub(crate) fn time_option(&self, name: &str) -> Result<Option<Timestamp>> {
        Ok(self.integer_option(name)?.map(Timestamp::from_millis))
    }

    /// A column that holds 0 or 1.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        self.integer(name).map(|number| number != 0)
    }

    /// A number that cannot be negative.
    pub(crate) fn count(&self, name: &str) -> Result<u64> {
        u64::try_from(self.integer(name)?).map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A number of 32 bits that cannot be negative.
    pub(crate) fn small(&self, name: &str) -> Result<u32> {
        u32::try_from(self.integer(name)?).map_err(|_| StoreError::corrupt(name.to_owned()))
    }

    /// A nullable number of 32 bits that cannot be negative.
    pub(crate) fn small_option(&self, name: &str) -> Result<Option<u32>> {
        let Some(number) = self.integer_option(name)? else { return Ok(None) };
        u32::try_from(number).map(Some).map_err(|_| StoreError::corrupt(name.to_owned()))
    }
}

/// JSON text of a value of ours.
pub(crate) fn to_json<T: serde::Serialize>(value: &T, what: &'static str) -> Result<String> {
    serde_json::to_string(value).map_err(|_| StoreError::corrupt(what))
}

/// Declares the small numbers that stand for a closed vocabulary in the tables of the message path.
macro_rules! stored_number {
    ($name:ty, $column:literal { $($variant:ident = $number:literal,)+ }) => {
        impl $name {
            pub(crate) const fn stored(self) -> i64 {
                match self { $(Self::$variant => $number,)+ }
            }

            pub(crate) fn from_stored(number: i64) -> $crate::Result<Self> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err($crate::StoreError::corrupt($column)),
                }
            }
        }
    };
}
pub(crate) use stored_number;

/// Declares the words that stand for a closed vocabulary elsewhere.
macro_rules! stored_word {
    ($name:ty, $column:literal { $($variant:ident = $word:literal,)+ }) => {
        impl $name {
            pub(crate) const fn stored(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            pub(crate) fn from_stored(word: &str) -> $crate::Result<Self> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::StoreError::corrupt($column)),
                }
            }
        }
    };
}
pub(crate) use stored_word;
