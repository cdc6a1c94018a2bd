//! CSV: fields of any serde type, quoted where they must be, under a header that a struct gives.
//!
//! A field may have commas, quotes and line breaks in it: it is quoted then, as RFC 4180 has it. Lines end
//! with a line feed. A struct gives the header; tuples and lists have none. An item that is nested, or has
//! another number of fields than the one before, is an error of that item.

use crate::data::StepError;
use crate::sink::content::Content;
use crate::sink::{DirSink, LineSink, Target};
use crate::source::Csv;
use csv::{Terminator, Writer, WriterBuilder};
use serde::Serialize;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

/// Rows of CSV, as `Csv::to` and `Csv::to_dir` write them.
#[derive(Default)]
pub struct CsvRows {
    rows: Option<Writer<Shared>>,
    written: Shared,
    header: Vec<u8>,
}

impl fmt::Debug for CsvRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CsvRows")
    }
}

impl Csv {
    /// Writes each item as one row of CSV, under a header if it is a struct.
    ///
    /// Into a file exactly once, as [`JsonLines::to`](crate::source::JsonLines::to). The header is written when the
    /// file is empty; a file that begins with another one is refused.
    ///
    /// ```
    /// use highwater::prelude::*;
    /// use highwater::source::Csv;
    /// # let dir = tempfile::tempdir()?;
    /// #[derive(Clone, serde::Serialize, serde::Deserialize)]
    /// struct Reading { room: String, celsius: f64 }
    ///
    /// let path = dir.path().join("readings.csv");
    /// let target = path.clone();
    /// highwater::run(Config::default(), (), move |flow: &Flow<'_>, _: &()| {
    ///     let attic = Reading { room: "attic, \"north\"".into(), celsius: 21.5 };
    ///     flow.source("in", list([attic])).sink("out", Csv::to(&target));
    /// })?;
    /// assert_eq!(std::fs::read_to_string(path)?, "room,celsius\n\"attic, \"\"north\"\"\",21.5\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to(target: impl Into<Target>) -> LineSink<CsvRows> {
        LineSink::new(CsvRows::default(), target)
    }

    /// Writes each item as one row of CSV, into parts of a directory: see [`DirSink`]. Every part has the header.
    pub fn to_dir(dir: impl Into<PathBuf>) -> DirSink<CsvRows> {
        DirSink::new(CsvRows::default(), dir)
    }
}

/// Where the rows of one worker are written before they go into a block.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rows(header: bool) -> WriterBuilder {
    let mut builder = WriterBuilder::new();
    builder.has_headers(header).terminator(Terminator::Any(b'\n')).buffer_capacity(1 << 12);
    builder
}

/// What a struct of this type has above its rows.
fn header_of(item: &impl Serialize) -> Result<Vec<u8>, StepError> {
    let written = |header| {
        let mut writer = rows(header).from_writer(Vec::new());
        writer.serialize(item)?;
        writer.into_inner().map_err(|error| StepError::from(error.to_string()))
    };
    let (mut with, without) = (written(true)?, written(false)?);
    with.truncate(with.len() - without.len());
    Ok(with)
}

impl<T: Serialize> Content<T> for CsvRows {
    fn encode(&mut self, item: T, line: &mut Vec<u8>) -> Result<(), StepError> {
        let new = self.rows.is_none();
        let writer = self.rows.get_or_insert_with(|| rows(false).from_writer(self.written.clone()));
        let serialized = writer.serialize(&item).map_err(StepError::from);
        let flushed = serialized.and_then(|()| Ok(writer.flush()?));
        let row = std::mem::take(&mut *self.written.0.borrow_mut());
        if let Err(error) = flushed {
            // It stands in the middle of a row.
            self.rows = None;
            self.written = Shared::default();
            return Err(error);
        }
        if new && self.header.is_empty() {
            self.header = header_of(&item)?;
        }
        line.extend_from_slice(row.strip_suffix(b"\n").unwrap_or(&row));
        Ok(())
    }

    fn header(&self) -> &[u8] {
        &self.header
    }

    fn spans_lines(&self) -> bool {
        true
    }

    fn extension(&self) -> &'static str {
        "csv"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of<T: Serialize>(items: Vec<T>) -> (String, Vec<Result<String, String>>) {
        let mut csv = CsvRows::default();
        let mut one = |item| {
            let mut line = Vec::new();
            let encoded = Content::<T>::encode(&mut csv, item, &mut line).map_err(|error| error.to_string());
            encoded.map(|()| String::from_utf8(line).unwrap())
        };
        let rows = items.into_iter().map(&mut one).collect();
        (String::from_utf8(csv.header.clone()).unwrap(), rows)
    }

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        note: Option<&'static str>,
        n: i64,
    }

    #[test]
    fn a_struct_has_a_header_and_fields_are_quoted_where_they_must_be() {
        let rows = vec![
            Row { name: "plain", note: None, n: -1 },
            Row { name: "a,b", note: Some("say \"hi\""), n: 2 },
            Row { name: "two\nlines", note: Some(""), n: i64::MAX },
        ];
        let (header, rows) = rows_of(rows);
        assert_eq!(header, "name,note,n\n");
        let expected = ["plain,,-1", "\"a,b\",\"say \"\"hi\"\"\",2", "\"two\nlines\",,9223372036854775807"];
        assert_eq!(rows, expected.map(|row| Ok(row.to_owned())));
    }

    #[test]
    fn tuples_have_no_header_and_an_item_of_another_width_costs_itself() {
        let (header, rows) = rows_of(vec![vec!["a", "b"], vec!["c"], vec!["d", "e"]]);
        assert_eq!(header, "");
        assert_eq!(rows[0], Ok("a,b".into()));
        assert!(rows[1].as_ref().is_err_and(|error| error.contains("1 fields")), "{:?}", rows[1]);
        assert_eq!(rows[2], Ok("d,e".into()), "nothing is left of what failed");
    }
}
