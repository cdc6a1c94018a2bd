//! Values as they travel, wait in the recovery store, and are bound to a statement.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// A value of SQLite. Blobs do not come: serde's JSON has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Real(x) => ValueRef::Real(*x),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// Rows, each with the parameters of one execution of the statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rows(pub(crate) Vec<Vec<Value>>);

impl Value {
    /// The value of a field.
    pub(crate) fn of(json: serde_json::Value) -> Result<Value, String> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Value::Null,
            Json::Bool(truth) => Value::Integer(truth.into()),
            Json::String(text) => Value::Text(text),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(n), _) => Value::Integer(n),
                (None, _) if number.is_u64() => return Err(format!("{number} is more than SQLite's integers hold")),
                (None, Some(x)) => Value::Real(x),
                (None, None) => return Err(format!("{number} is no number that SQLite has")),
            },
            nested => Value::Text(nested.to_string()),
        })
    }
}
