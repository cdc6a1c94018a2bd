//! CSV: one record of fields a row, read into a type by the names of the header.
//!
//! Quoted fields may have commas, doubled quotes and newlines in them, as RFC 4180 says; a quote within a field that does
//! not begin with one is data. A row with more or fewer fields than the header is a bad record, as is a field that does
//! not fit its column. Empty lines are no records.

use crate::data::Data;
use crate::source::inputs::Inputs;
use crate::source::lines::{LineFormat, LineSource};
use csv::{ByteRecord, ErrorKind, StringRecord};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use std::fmt;
use std::marker::PhantomData;

/// CSV: `Csv::<T>::files` reads it, `Csv::to` and `Csv::to_dir` write it.
pub struct Csv<T = ()> {
    delimiter: u8,
    has_header: bool,
    /// The names of the columns, once the header has been read.
    columns: Option<StringRecord>,
    /// Fields of the row before, where there is no header.
    fields: Option<usize>,
    place: Place,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    of: PhantomData<fn() -> T>,
}

/// Where in a row a byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two.
    Closed,
}

impl<T> Csv<T> {
    fn new(delimiter: u8, has_header: bool) -> Self {
        Csv {
            delimiter,
            has_header,
            columns: None,
            fields: None,
            place: Place::FieldStart,
            reader: ReaderBuilder::new().delimiter(delimiter).terminator(Terminator::Any(b'\n')).build(),
            text: Vec::new(),
            ends: Vec::new(),
            of: PhantomData,
        }
    }

    /// The fields of one row.
    fn fields(&mut self, row: &[u8]) -> Result<StringRecord, String> {
        self.reader.reset();
        // A field is never longer than what it is made of, and there is at most one more than bytes.
        self.text.resize(row.len() + 1, 0);
        self.ends.resize(row.len() + 2, 0);
        let (mut rest, mut bytes, mut count) = (row, 0, 0);
        loop {
            let (result, _, written, ended) =
                self.reader.read_record(rest, &mut self.text[bytes..], &mut self.ends[count..]);
            (bytes, count) = (bytes + written, count + ended);
            match result {
                // Nothing more is the end of the row.
                ReadRecordResult::InputEmpty => rest = &[],
                ReadRecordResult::Record | ReadRecordResult::End => break,
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err("not a row that can be read".to_owned());
                }
            }
        }
        let mut record = ByteRecord::with_capacity(bytes, count);
        let mut start = 0;
        for end in &self.ends[..count] {
            record.push_field(&self.text[start..*end]);
            start = *end;
        }
        let not_text = |error: csv::FromUtf8Error| format!("field {} is not UTF-8", error.utf8_error().field() + 1);
        StringRecord::from_byte_record(record).map_err(not_text)
    }

    fn reason(&self, error: &csv::Error) -> String {
        let ErrorKind::Deserialize { err, .. } = error.kind() else { return error.to_string() };
        let index = err.field().and_then(|field| usize::try_from(field).ok());
        let name = index.and_then(|index| self.columns.as_ref()?.get(index));
        match (name, index) {
            (Some(name), _) => format!("column {name:?}: {}", err.kind()),
            (None, Some(index)) => format!("field {}: {}", index + 1, err.kind()),
            (None, None) => err.kind().to_string(),
        }
    }
}

impl<T: Data> Csv<T> {
    /// Reads rows as values of type `T` from files, patterns of files, or `-` (stdin; not with a recovery store). The
    /// first row of each file is its header; fields go to the fields of `T` that have the names of their columns, and
    /// columns that `T` does not name are passed over.
    ///
    /// A file is a partition, and its path its name in the recovery store.
    ///
    /// # Errors
    /// A row with a missing field, or one that does not fit, is a bad record, with its line and byte. A file whose
    /// header cannot be read ends the run.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// use highwater::source::Csv;
    /// # let dir = std::env::temp_dir().join(format!("highwater-doc-csv-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// let file = dir.join("cities.csv");
    /// std::fs::write(&file, "city,people\n\"Oslo,\nNorway\",700000\n")?;
    /// let cities = highwater::testing::run(move |flow| flow.source("cities", Csv::<(String, u64)>::files(&file)));
    /// assert_eq!(cities, [("Oslo,\nNorway".to_owned(), 700_000)]);
    /// # std::fs::remove_dir_all(dir)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn files(inputs: impl Into<Inputs>) -> LineSource<Csv<T>> {
        LineSource::new(Csv::new(b',', true), inputs)
    }
}

impl<T: Data> LineSource<Csv<T>> {
    /// Takes another byte between fields: `b';'`, `b'\t'`.
    #[must_use]
    pub fn delimiter(self, delimiter: u8) -> Self {
        self.map_format(|csv| Csv::new(delimiter, csv.has_header))
    }

    /// Takes the first row for one like all others. Then `T` is a tuple or a list, or a struct whose fields stand in
    /// the order of the columns; all rows of a file must have the same number of fields.
    #[must_use]
    pub fn without_header(self) -> Self {
        self.map_format(|csv| Csv::new(csv.delimiter, false))
    }
}

impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Csv { columns: self.columns.clone(), fields: self.fields, ..Csv::new(self.delimiter, self.has_header) }
    }
}

impl<T> fmt::Debug for Csv<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csv").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl<T: Data> LineFormat for Csv<T> {
    type Item = T;
    const MULTILINE: bool = true;

    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            self.place = match (self.place, byte) {
                (Place::Quoted, b'"') => Place::Closed,
                (Place::Quoted, _) | (Place::FieldStart | Place::Closed, b'"') => Place::Quoted,
                (_, b'\n') => {
                    self.place = Place::FieldStart;
                    return Some(at);
                }
                (_, byte) if *byte == self.delimiter => Place::FieldStart,
                _ => Place::Unquoted,
            };
        }
        None
    }

    fn begin(&mut self) {
        self.place = Place::FieldStart;
    }

    fn has_header(&self) -> bool {
        self.has_header
    }

    fn header(&mut self, line: &[u8]) -> Result<(), String> {
        let columns = self.fields(line)?;
        for (at, name) in columns.iter().enumerate() {
            if columns.iter().take(at).any(|other| other == name) {
                return Err(format!("two columns are named {name:?}"));
            }
        }
        self.columns = Some(columns);
        Ok(())
    }

    fn parse(&mut self, line: &[u8]) -> Result<T, String> {
        if self.place == Place::Quoted {
            return Err("a quoted field is not closed".to_owned());
        }
        let row = self.fields(line)?;
        let expected = self.columns.as_ref().map(StringRecord::len).or(self.fields);
        if let Some(expected) = expected.filter(|expected| *expected != row.len()) {
            let than = if self.has_header { "the header" } else { "the row before it" };
            return Err(format!("{} fields, and {than} has {expected}", row.len()));
        }
        let value = row.deserialize(self.columns.as_ref()).map_err(|error| self.reason(&error))?;
        self.fields = Some(row.len());
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct City {
        people: u32,
        name: String,
    }

    fn csv(header: &str) -> Csv<City> {
        let mut csv = Csv::new(b',', true);
        csv.header(header.as_bytes()).unwrap();
        csv
    }

    #[test]
    fn a_row_goes_to_the_fields_that_its_header_names() {
        let mut cities = csv("name,unread,people");
        let oslo = City { name: "Oslo, \"the\"\nTiger".into(), people: 7 };
        assert_eq!(cities.parse(b"\"Oslo, \"\"the\"\"\nTiger\",x,7"), Ok(oslo));
        assert_eq!(cities.parse(b"a 5\" pipe,,1"), Ok(City { name: "a 5\" pipe".into(), people: 1 }));
        assert_eq!(cities.parse(b"Oslo,7").unwrap_err(), "2 fields, and the header has 3");
        assert_eq!(cities.parse(b"Oslo,x,7,8").unwrap_err(), "4 fields, and the header has 3");
        let wrong = cities.parse(b"Oslo,x,-7").unwrap_err();
        assert!(wrong.starts_with("column \"people\": "), "{wrong}");
        assert_eq!(cities.parse(b"\xff,x,7").unwrap_err(), "field 1 is not UTF-8");
        let missing = csv("name,unread").parse(b"a,b").unwrap_err();
        assert!(missing.contains("missing field `people`"), "{missing}");
        assert_eq!(Csv::<City>::new(b',', true).header(b"a,b,a").unwrap_err(), "two columns are named \"a\"");
    }

    #[test]
    fn newlines_within_quotes_end_no_row_wherever_the_bytes_are_cut() {
        let text = b"a,\"b\nc\"\"\n\",5\" x\n\"\"\n,\"\"\"\n\"\"\"x\"\n";
        let ends = [15, 18, 29];
        for piece in 1..text.len() {
            let mut csv = Csv::<City>::new(b',', false);
            let (mut found, mut at) = (Vec::new(), 0);
            while at < text.len() {
                let stop = text.len().min(at - at % piece + piece);
                match csv.end_in(&text[at..stop]) {
                    Some(end) => {
                        found.push(at + end);
                        at += end + 1;
                    }
                    None => at = stop,
                }
            }
            assert_eq!(found, ends, "in pieces of {piece}");
        }
    }

    #[test]
    fn without_a_header_rows_are_alike() {
        let mut csv = Csv::<(String, u8)>::new(b';', false);
        assert_eq!(csv.parse(b"a;1"), Ok(("a".to_owned(), 1)));
        assert_eq!(csv.parse(b"a").unwrap_err(), "1 fields, and the row before it has 2");
        let wrong = csv.parse(b"a;x").unwrap_err();
        assert!(wrong.starts_with("field 2: "), "{wrong}");
    }
}
