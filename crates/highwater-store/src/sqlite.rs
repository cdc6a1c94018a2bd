//! A log in a SQLite database: one table, one row a chunk, for those who want to look at it with tools that they have.
//!
//! `sqlite3 chunks.sqlite 'select seq, n, epoch, kind, length(bytes) from chunk'` shows what lies there. WAL with
//! `synchronous=FULL`: a commit is durable when it returns. The bytes are what counts; the columns beside them are
//! for people and are never read. SQLite gives damaged bytes back without a word (88 of 100 flipped bits): checksums and
//! acknowledgements above find them. A database that has anything but our table in it is refused.

use crate::chunk::Chunk;
use crate::files::{create_private_dir, settle};
use crate::media::{Log, Visit};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};
use std::fs::{self, File, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name of the database.
pub(crate) const FILE: &str = "chunks.sqlite";
/// What is written before a commit lies in the log of the database, which is to stay small.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;
/// "hwat", so that tools know whose database it is.
const APPLICATION_ID: i64 = 0x6877_6174;
/// Format of the table.
const VERSION: i64 = 1;
const TABLE: &str = "CREATE TABLE chunk (seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, epoch INTEGER NOT NULL, \
                     kind TEXT NOT NULL, bytes BLOB NOT NULL) STRICT";

/// A log that lies in a SQLite database.
pub(crate) struct SqliteLog {
    db: Connection,
    path: PathBuf,
    /// A transaction is open.
    began: bool,
}

impl SqliteLog {
    /// Makes an empty database in a directory that is not there yet.
    pub(crate) fn create(dir: &Path) -> io::Result<SqliteLog> {
        create_private_dir(dir)?;
        let path = dir.join(FILE);
        // Its log takes the mode of the database.
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        let log = SqliteLog::attach(path)?;
        let made = log.db.execute_batch(&format!(
            "{TABLE}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}"
        ));
        made.map_err(failure)?;
        settle(dir)?;
        Ok(log)
    }

    /// Opens a database that was made by `create`.
    pub(crate) fn open(dir: &Path) -> io::Result<SqliteLog> {
        let path = dir.join(FILE);
        // SQLite would make an empty one.
        if fs::metadata(&path).map_or(0, |found| found.len()) == 0 {
            return Err(damaged(format!("its file {FILE} is missing or empty")));
        }
        let log = SqliteLog::attach(path)?;
        let (id, version) = (log.number("application_id")?, log.number("user_version")?);
        if (id, version) != (APPLICATION_ID, VERSION) {
            return Err(damaged(format!("{FILE} is not a database of ours: application id {id}, version {version}")));
        }
        let mut schema = log.db.prepare("SELECT sql FROM sqlite_schema").map_err(failure)?;
        let found = schema.query_map([], |row| row.get::<_, String>(0)).map_err(failure)?;
        let found = found.collect::<rusqlite::Result<Vec<String>>>().map_err(failure)?;
        if found != [TABLE] {
            return Err(damaged(format!("{FILE} has other things than our table in it")));
        }
        drop(schema);
        Ok(log)
    }

    fn attach(path: PathBuf) -> io::Result<SqliteLog> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&path, flags).map_err(failure)?;
        let settings = || {
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            // The end of a run changes nothing: it is like a kill, also after a write that failed.
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            // Chunks of 4 KiB fill a page of 32 KiB well, and one of 4 KiB badly. Counts for a new database only.
            db.execute_batch("PRAGMA page_size = 32768; PRAGMA locking_mode = EXCLUSIVE")?;
            db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))?;
            db.execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 128; PRAGMA journal_size_limit = 16777216; \
                 PRAGMA cache_size = -8192; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY",
            )
        };
        settings().map_err(failure)?;
        Ok(SqliteLog { db, path, began: false })
    }

    fn number(&self, pragma: &str) -> io::Result<i64> {
        self.db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).map_err(failure)
    }

    fn run(&mut self, sql: &str, values: impl rusqlite::Params) -> io::Result<()> {
        let done = self.db.prepare_cached(sql).and_then(|mut statement| statement.execute(values));
        done.map(|_| ()).map_err(failure)
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.began {
            self.run("BEGIN IMMEDIATE", [])?;
            self.began = true;
        }
        Ok(())
    }
}

impl Log for SqliteLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        self.begin()?;
        let (kind, execution, epoch) = Chunk::describe(value);
        let sql = "INSERT INTO chunk (seq, n, epoch, kind, bytes) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.run(sql, (signed(seq), signed(execution.0), signed(epoch.0), kind, value))
    }

    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        self.begin()?;
        self.run("DELETE FROM chunk WHERE seq >= ?1 AND seq < ?2", (signed(seqs.start), signed(seqs.end)))
    }

    fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.began) { self.run("COMMIT", []) } else { Ok(()) }
    }

    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        let sql = "SELECT seq, bytes FROM chunk WHERE seq >= ?1 ORDER BY seq";
        let mut statement = self.db.prepare_cached(sql).map_err(failure)?;
        let mut rows = statement.query([signed(from)]).map_err(failure)?;
        while let Some(row) = rows.next().map_err(failure)? {
            let (seq, bytes) = chunk(row)?;
            if visit(seq, bytes).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        let end = |sql: &str| -> io::Result<Option<u64>> {
            let mut statement = self.db.prepare_cached(sql).map_err(failure)?;
            let mut rows = statement.query([]).map_err(failure)?;
            let row = rows.next().map_err(failure)?;
            row.map(|row| chunk(row).map(|(seq, _)| seq)).transpose()
        };
        let first = end("SELECT seq, bytes FROM chunk ORDER BY seq LIMIT 1")?;
        Ok(first.zip(end("SELECT seq, bytes FROM chunk ORDER BY seq DESC LIMIT 1")?))
    }

    fn file_bytes(&self) -> u64 {
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        bytes(&self.path) + bytes(&self.path.with_file_name(format!("{FILE}-wal")))
    }

    fn unsynced_bytes_max(&self) -> u64 {
        UNSYNCED_BYTES_MAX
    }
}

fn chunk<'r>(row: &'r Row<'_>) -> io::Result<(u64, &'r [u8])> {
    let wrong = || damaged("it has a row that is no chunk".to_owned());
    let (ValueRef::Integer(seq), ValueRef::Blob(bytes)) =
        (row.get_ref(0).map_err(failure)?, row.get_ref(1).map_err(failure)?)
    else {
        return Err(wrong());
    };
    Ok((u64::try_from(seq).map_err(|_| wrong())?, bytes))
}

/// Numbers of chunks, executions and epochs are far below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What SQLite says, as the system would.
fn failure(error: rusqlite::Error) -> io::Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SchemaChanged) => {
            io::ErrorKind::InvalidData
        }
        Some(ErrorCode::ReadOnly) => io::ErrorKind::ReadOnlyFilesystem,
        Some(ErrorCode::PermissionDenied) => io::ErrorKind::PermissionDenied,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => io::ErrorKind::ResourceBusy,
        Some(_) => io::ErrorKind::Other,
        // Columns of another type than ours: nobody but damage writes these.
        None => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    /// What is committed is there, also for other tools; what another program put there is refused.
    #[test]
    fn the_table_is_readable_and_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SqliteLog::create(&path).unwrap();
        (1..=9).for_each(|seq| log.append(seq, &[seq as u8 + 10; 100]).unwrap());
        log.sync().unwrap();
        log.append(10, b"not committed").unwrap();
        log.remove(1..3).unwrap();
        drop(log);
        let other = Connection::open(path.join(FILE)).unwrap();
        let count = |sql| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT count(*) FROM chunk WHERE kind = 'unknown' AND n = 0"), 9);
        let log = SqliteLog::open(&path).err().unwrap();
        assert_eq!(log.kind(), io::ErrorKind::ResourceBusy, "{log}");
        other.execute_batch("CREATE TRIGGER t AFTER INSERT ON chunk BEGIN DELETE FROM chunk; END").unwrap();
        drop(other);
        let refused = SqliteLog::open(&path).err().unwrap();
        assert!(refused.to_string().contains("other things"), "{refused}");
        for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    /// Its log is cut when it has become large, and its pages are used again.
    #[test]
    fn files_stay_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SqliteLog::create(&path).unwrap();
        let mut largest = 0;
        for seq in 1..=20_000 {
            log.append(seq, &[seq as u8; 4000]).unwrap();
            if seq % 500 == 0 {
                log.remove(seq - 500..seq - 100).unwrap();
                log.sync().unwrap();
                largest = largest.max(log.file_bytes());
            }
        }
        let mut left = 0;
        let count = &mut |_, _: &[u8]| {
            left += 1;
            ControlFlow::Continue(())
        };
        log.scan(0, count).unwrap();
        assert!(largest < 40 << 20, "{largest} bytes");
    }
}
