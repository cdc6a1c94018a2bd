//! A statement and its parameters: from an item to the values of one execution.
//!
//! Parameters are found in the text, without a database: items are encoded on every worker, before any is
//! written. The writer compares with what SQLite has found.

use crate::row::Value;
use highwater::StepError;
use serde::Serialize;
use serde_json::Value as Json;

/// A statement.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    /// By position, from 1 as SQLite has them; a numbered one has no name.
    pub(crate) parameters: Vec<Option<String>>,
}

impl Statement {
    pub(crate) fn new(sql: &str) -> Statement {
        Statement { sql: sql.to_owned(), parameters: parameters(sql) }
    }

    /// What an item binds.
    pub(crate) fn row(&self, item: &impl Serialize) -> Result<Vec<Value>, StepError> {
        let mut fields = match serde_json::to_value(item)? {
            Json::Object(fields) => Fields::Named(fields),
            Json::Array(fields) => Fields::Numbered(fields),
            single => Fields::Numbered(vec![single]),
        };
        let values = self.parameters.iter().enumerate().map(|(at, name)| {
            let value = fields.take(at, name.as_deref())?;
            Value::of(value).map_err(|why| StepError::from(format!("field {}: {why}", shown(at, name.as_deref()))))
        });
        values.collect()
    }
}

enum Fields {
    Named(serde_json::Map<String, Json>),
    Numbered(Vec<Json>),
}

impl Fields {
    fn take(&mut self, at: usize, name: Option<&str>) -> Result<Json, StepError> {
        let found = match (self, name) {
            (Fields::Named(fields), Some(name)) => fields.get_mut(name).map(Json::take),
            (Fields::Numbered(fields), None) => fields.get_mut(at).map(Json::take),
            (Fields::Named(_), None) => return Err("it has named fields, and the statement takes numbered ones".into()),
            (Fields::Numbered(_), Some(_)) => {
                return Err("it has no named fields, and the statement takes some".into());
            }
        };
        found.ok_or_else(|| format!("it lacks the field {}", shown(at, name)).into())
    }
}

fn shown(at: usize, name: Option<&str>) -> String {
    name.map_or_else(|| format!("number {}", at + 1), |name| format!("\"{name}\""))
}

/// The parameters of a statement, as SQLite numbers them.
fn parameters(sql: &str) -> Vec<Option<String>> {
    let mut found: Vec<Option<String>> = Vec::new();
    let bytes = sql.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &sql[at..];
        let skip_to = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |i| from + i + end.len());
        at += match bytes[at] {
            // A doubled quote ends one text and begins the next: the same to us.
            quote @ (b'\'' | b'"' | b'`') => skip_to(char::from(quote).encode_utf8(&mut [0; 4]), 1),
            b'[' => skip_to("]", 1),
            b'-' if rest.starts_with("--") => skip_to("\n", 2),
            b'/' if rest.starts_with("/*") => skip_to("*/", 2),
            b'?' => {
                let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
                let number = rest[1..1 + digits].parse().unwrap_or(found.len() + 1);
                // More than SQLite has is refused by it.
                found.resize(found.len().max(number.min(40_000)), None);
                1 + digits
            }
            b':' | b'@' | b'$' => {
                let length = rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - 1);
                let name = rest[1..1 + length].to_owned();
                if length > 0 && !found.contains(&Some(name.clone())) {
                    found.push(Some(name));
                }
                1 + length
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::collections::BTreeMap;

    #[test]
    fn parameters_are_those_that_sqlite_finds() {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch("CREATE TABLE t (a, b, \"c:d\")").unwrap();
        for sql in [
            "INSERT INTO t VALUES (?, ?, ?)",
            "INSERT INTO t VALUES (?3, ?1, ?)",
            "INSERT INTO t VALUES (:a, @b_2, $c)",
            "INSERT INTO t VALUES (:a, :b, :a)",
            "INSERT INTO t (a, \"c:d\") VALUES (':no', :täg) -- :nor this\n",
            "INSERT INTO t (a, [c:d]) VALUES ('it''s :no', /* ?5 */ ?2)",
            "INSERT INTO t (`c:d`) VALUES (1)",
        ] {
            let statement = database.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            let theirs: Vec<Option<String>> = (1..=statement.parameter_count())
                .map(|at| statement.parameter_name(at).filter(|name| !name.starts_with('?')).map(|n| n[1..].to_owned()))
                .collect();
            assert_eq!(parameters(sql), theirs, "{sql}");
        }
    }

    #[test]
    fn items_bind_their_fields_or_are_an_error() {
        let row = |sql: &str, item: &dyn Fn(&Statement) -> Result<Vec<Value>, StepError>| {
            item(&Statement::new(sql)).map_err(|error| error.to_string())
        };
        let map = BTreeMap::from([("n", 7), ("m", -1)]);
        assert_eq!(row(":m, :n", &|s| s.row(&map)), Ok(vec![Value::Integer(-1), Value::Integer(7)]));
        assert_eq!(row(":x", &|s| s.row(&map)), Err("it lacks the field \"x\"".into()));
        let mixed = ("a", 1.5, None::<u8>, true, vec![1, 2]);
        let values =
            [Value::Text("a".into()), Value::Real(1.5), Value::Null, Value::Integer(1), Value::Text("[1,2]".into())];
        assert_eq!(row("?, ?, ?, ?, ?", &|s| s.row(&mixed)), Ok(values.to_vec()));
        assert_eq!(row("?", &|s| s.row(&"alone")), Ok(vec![Value::Text("alone".into())]));
        assert_eq!(row("?1, ?2", &|s| s.row(&"alone")), Err("it lacks the field number 2".into()));
        let large = row("?", &|s| s.row(&u64::MAX));
        assert!(large.as_ref().is_err_and(|why| why.contains("more than SQLite's integers hold")), "{large:?}");
        assert!(row(":n", &|s| s.row(&mixed)).is_err() && row("?", &|s| s.row(&map)).is_err());
    }
}
