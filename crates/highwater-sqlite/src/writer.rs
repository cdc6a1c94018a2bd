//! Writes to one database: the rows of committed epochs and a marker, in one transaction.

use crate::row::Rows;
use crate::statement::Statement;
use highwater::error::SinkError;
use highwater::sink::{Flushed, Resume, Slot, Start, Writer};
use highwater::{Epoch, Execution, StepError};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What SQLite itself waits for others; the engine waits between the calls.
const BUSY: Duration = Duration::from_millis(100);

const MARKERS: &str = "CREATE TABLE IF NOT EXISTS highwater_markers (flow TEXT NOT NULL, sink TEXT NOT NULL, \
     slot INTEGER NOT NULL, store INTEGER NOT NULL, execution INTEGER NOT NULL, epoch INTEGER NOT NULL, \
     PRIMARY KEY (flow, sink, slot))";

/// Writes to one database.
#[derive(Debug)]
pub struct SqliteWriter {
    of: Slot,
    path: PathBuf,
    setup: Vec<String>,
    statement: Statement,
    /// Made by `restore`.
    connection: Option<Connection>,
    /// What `open` was told.
    resume: Resume<()>,
    store: i64,
    execution: i64,
    rows: Rows,
}

/// What the database has of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marker {
    store: i64,
    execution: i64,
    epoch: i64,
}

/// Numbers of ours as SQLite has them: the same 64 bits.
fn signed(number: u64) -> i64 {
    i64::from_ne_bytes(number.to_ne_bytes())
}

fn unsigned(number: i64) -> u64 {
    u64::from_ne_bytes(number.to_ne_bytes())
}

impl SqliteWriter {
    pub(crate) fn new(of: &Slot, path: PathBuf, setup: Vec<String>, statement: Statement) -> SqliteWriter {
        SqliteWriter {
            of: of.clone(),
            path,
            setup,
            statement,
            connection: None,
            resume: Resume::Fresh,
            store: 0,
            execution: 0,
            rows: Rows::default(),
        }
    }

    fn name(&self) -> String {
        self.of.output.clone()
    }

    fn error(&self, error: rusqlite::Error) -> SinkError {
        let name = self.name();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SinkError::unavailable(name, error),
            Some(
                ErrorCode::CannotOpen | ErrorCode::NotADatabase | ErrorCode::PermissionDenied | ErrorCode::ReadOnly,
            ) => SinkError::Create { name, source: std::io::Error::other(error) },
            Some(ErrorCode::DiskFull) => {
                let source = std::io::Error::new(std::io::ErrorKind::StorageFull, error);
                SinkError::Io { name, free: None, source }
            }
            _ => SinkError::failed(name, error),
        }
    }

    fn check(&self, marker: Option<Marker>) -> Result<(), SinkError> {
        let name = self.name();
        let changed = |what: &str| Err(SinkError::Changed { name: name.clone(), what: what.to_owned() });
        match (&self.resume, marker) {
            (Resume::At { .. }, None) => changed("it has no marker of this flow and step"),
            (Resume::At { epoch, .. }, Some(marker)) if unsigned(marker.epoch) > epoch.0 => {
                Err(SinkError::Ahead { name, has: Epoch(unsigned(marker.epoch)), resume: *epoch })
            }
            (Resume::Unwritten { ours: false }, Some(_)) => {
                changed("it has a marker of this flow and step, of another recovery store")
            }
            _ => Ok(()),
        }
    }

    fn marker(&self, connection: &Connection) -> rusqlite::Result<Option<Marker>> {
        let known = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'highwater_markers'";
        if connection.query_row(known, [], |row| row.get::<_, i64>(0))? == 0 {
            return Ok(None);
        }
        let sql = "SELECT store, execution, epoch FROM highwater_markers WHERE flow = ?1 AND sink = ?2 AND slot = ?3";
        let marker =
            |row: &rusqlite::Row<'_>| Ok(Marker { store: row.get(0)?, execution: row.get(1)?, epoch: row.get(2)? });
        connection.query_row(sql, params![self.of.flow, self.of.step, self.of.slot], marker).optional()
    }

    /// Makes the tables, compares the marker once more, and sets the execution in it: from now on every earlier
    /// one is shut out.
    fn take_over(&self, connection: &mut Connection) -> Result<(), SinkError> {
        let failed = |error| self.error(error);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        transaction.execute_batch(MARKERS).map_err(failed)?;
        for setup in &self.setup {
            transaction.execute_batch(setup).map_err(failed)?;
        }
        let marker = self.marker(&transaction).map_err(failed)?;
        self.check(marker)?;
        if matches!((&self.resume, marker), (Resume::At { .. }, Some(marker)) if marker.store != self.store) {
            let what = "another recovery store has taken it over".to_owned();
            return Err(SinkError::Changed { name: self.name(), what });
        }
        // A store that starts over numbers its executions anew, so only those of one store compare.
        if let Some(marker) = marker.filter(|marker| marker.store == self.store && marker.execution > self.execution) {
            return Err(self.overtaken(marker));
        }
        let epoch = match (&self.resume, marker) {
            (Resume::At { .. }, Some(marker)) => marker.epoch,
            _ => 0,
        };
        let sql = "INSERT OR REPLACE INTO highwater_markers VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let Slot { flow, step, slot, .. } = &self.of;
        transaction.execute(sql, params![flow, step, slot, self.store, self.execution, epoch]).map_err(failed)?;
        let found = {
            let statement = transaction.prepare(&self.statement.sql).map_err(failed)?;
            let name = |at| {
                statement.parameter_name(at).filter(|name| !name.starts_with('?')).map(|name| name[1..].to_owned())
            };
            (1..=statement.parameter_count()).map(name).collect::<Vec<Option<String>>>()
        };
        if found != self.statement.parameters {
            let what =
                format!("the parameters of {:?} are not understood: name them :a or number them ?", self.statement.sql);
            return Err(SinkError::failed(self.name(), what));
        }
        transaction.commit().map_err(failed)
    }

    fn overtaken(&self, marker: Marker) -> SinkError {
        SinkError::Overtaken { name: self.name(), by: Execution(unsigned(marker.execution)) }
    }

    /// Executes the statement for what the database does not have yet, and moves the marker.
    fn apply(&self, transaction: &Transaction<'_>, epoch: Epoch, outbox: &[(Epoch, Rows)]) -> Result<(), SinkError> {
        let failed = |error| self.error(error);
        let Some(marker) = self.marker(transaction).map_err(failed)? else {
            let what = "its marker of this flow and step is gone".to_owned();
            return Err(SinkError::Changed { name: self.name(), what });
        };
        if (marker.store, marker.execution) != (self.store, self.execution) {
            return Err(self.overtaken(marker));
        }
        let has = unsigned(marker.epoch);
        let mut statement = transaction.prepare(&self.statement.sql).map_err(failed)?;
        for (epoch, Rows(rows)) in outbox.iter().filter(|(epoch, _)| epoch.0 > has) {
            for row in rows {
                statement.execute(rusqlite::params_from_iter(row)).map_err(|error| match self.error(error) {
                    SinkError::Io { name, free, source } => {
                        let what = StepError::from(format!("{source} (epoch {epoch}, row {row:?})"));
                        SinkError::Io { name, free, source: std::io::Error::new(source.kind(), what) }
                    }
                    other => other,
                })?;
            }
        }
        let sql = "UPDATE highwater_markers SET epoch = ?4 WHERE flow = ?1 AND sink = ?2 AND slot = ?3";
        let Slot { flow, step, slot, .. } = &self.of;
        let epoch = signed(epoch.0.max(has));
        transaction.execute(sql, params![flow, step, slot, epoch]).map(drop).map_err(failed)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

impl Writer for SqliteWriter {
    type Block = Rows;
    type Position = ();
    type Outbox = Rows;

    fn open(&mut self, resume: &Resume<()>) -> Result<(), SinkError> {
        self.resume = resume.clone();
        let marker = match self.path.exists() {
            true => {
                let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|e| self.error(e))?;
                self.marker(&connection).map_err(|error| self.error(error))?
            }
            false => None,
        };
        self.check(marker)
    }

    fn restore(&mut self, start: &Start) -> Result<(), SinkError> {
        (self.store, self.execution) = (signed(start.store), signed(start.execution.0));
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut connection = connect(&self.path, flags).map_err(|error| self.error(error))?;
        // What is committed must survive a power cut, whatever the default of the library is.
        connection.pragma_update(None, "synchronous", "FULL").map_err(|error| self.error(error))?;
        self.take_over(&mut connection)?;
        self.connection = Some(connection);
        Ok(())
    }

    fn write(&mut self, block: &mut Rows) -> Result<(), SinkError> {
        self.rows.0.append(&mut block.0);
        Ok(())
    }

    fn flush(&mut self, _epoch: Epoch, _durable: bool) -> Result<Flushed<(), Rows>, SinkError> {
        Ok(Flushed::at(()).with_outbox(std::mem::take(&mut self.rows)))
    }

    fn commit(&mut self, epoch: Epoch, outbox: &[(Epoch, Rows)]) -> Result<(), SinkError> {
        let mut connection = self.connection.take().expect("a writer is restored before it commits");
        let result = (|| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let transaction = transaction.map_err(|error| self.error(error))?;
            self.apply(&transaction, epoch, outbox)?;
            // Whether it happened is for the marker to say, should this answer an error.
            transaction.commit().map_err(|error| self.error(error))
        })();
        self.connection = Some(connection);
        result
    }
}
