//! Writes items into an SQLite database, exactly once.
//!
//! ```
//! use highwater::prelude::*;
//! use highwater_sqlite::SqliteSink;
//! # let dir = tempfile::tempdir()?;
//! #[derive(Clone, serde::Serialize, serde::Deserialize)]
//! struct Order { user: String, total: f64 }
//!
//! let path = dir.path().join("orders.db");
//! let mut config = Config::new("orders");
//! config.recovery = Some(dir.path().join("state"));
//! # let target = path.clone();
//! highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
//!     let orders = [Order { user: "a".into(), total: 9.5 }, Order { user: "b".into(), total: 3.0 }];
//!     let sink = SqliteSink::to(&target, "INSERT INTO orders (user, total) VALUES (:user, :total)")
//!         .setup("CREATE TABLE IF NOT EXISTS orders (user TEXT, total REAL)");
//!     flow.source("in", list(orders)).sink("out", sink);
//! })?;
//! let orders: i64 = rusqlite::Connection::open(path)?.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))?;
//! assert_eq!(orders, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How
//! The rows of an epoch are kept in the recovery store (the outbox) until the epoch is committed everywhere. Then
//! they are inserted in one transaction, together with a marker in the table `highwater_markers`: flow, step, slot,
//! store, execution and epoch. After a crash the marker says what is in the database: what it has is not sent
//! again, what it lacks is. A start writes its execution into the marker first: an earlier execution that does not know
//! that it is over changes nothing any more.
//!
//! # What goes wrong
//! A database that is locked by others is tried again for half a minute ([`SqliteSink::patience`]), then the run ends
//! (exit code 74); nothing is lost, the next run goes on. So does a full disk. A row that the database does not take
//! (a constraint) ends the run with what SQLite says, and does so again until the table or the statement is changed: the
//! rows are in the store by then. A missing field, or a value that SQLite has no type for, is an error of its
//! item, before that.

#![forbid(unsafe_code)]

mod row;
mod statement;
mod writer;

pub use row::Rows;
pub use writer::SqliteWriter;

use highwater::StepError;
use highwater::sink::{PATIENCE, Sink, Slot};
use serde::Serialize;
use statement::Statement;
use std::path::PathBuf;
use std::time::Duration;

/// Writes every item as one execution of a statement, exactly once: see the [crate].
#[derive(Clone, Debug)]
pub struct SqliteSink {
    path: PathBuf,
    setup: Vec<String>,
    statement: Statement,
    patience: Duration,
}

impl SqliteSink {
    /// Executes `sql` for every item, in the database at `path`, which is made if it is not there.
    ///
    /// Parameters with a name (`:user`, `@user`, `$user`) take the field of that name of an item that is a struct or a
    /// map; parameters with a number (`?`, `?2`) those of an item that is a tuple or a list, and a plain item
    /// is the only one. Integers, floats, texts, booleans (0 and 1) and `None` (NULL) go as they are, everything nested
    /// as JSON.
    ///
    /// To make it one row a key, say so in SQL: `INSERT INTO carts … ON CONFLICT (user) DO UPDATE SET …`.
    pub fn to(path: impl Into<PathBuf>, sql: &str) -> SqliteSink {
        SqliteSink { path: path.into(), setup: Vec::new(), statement: Statement::new(sql), patience: PATIENCE }
    }

    /// Executes this at every start, before the statement is prepared: `CREATE TABLE IF NOT EXISTS …`.
    pub fn setup(mut self, sql: &str) -> Self {
        self.setup.push(sql.to_owned());
        self
    }

    /// How long a database that is locked is tried, instead of 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl<T: Serialize> Sink<T> for SqliteSink {
    type Block = Rows;
    type Writer = SqliteWriter;

    fn output(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn encode(&mut self, item: T, block: &mut Rows) -> Result<(), StepError> {
        block.0.push(self.statement.row(&item)?);
        Ok(())
    }

    fn writer(&self, of: &Slot) -> SqliteWriter {
        // A path that is not UTF-8 cannot be had from its name.
        let now = Sink::<T>::output(self) == of.output;
        let path = if now { self.path.clone() } else { PathBuf::from(&of.output) };
        SqliteWriter::new(of, path, self.setup.clone(), self.statement.clone())
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}
