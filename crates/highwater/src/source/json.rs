//! JSON lines: one JSON value a line, read into a type.
//!
//! A line is a bad record if it is not UTF-8, not JSON, has something behind the value, is nested
//! deeper than 128 levels, or is JSON of another shape. Numbers never wrap: one that does not fit
//! its type is a bad record. Of doubled fields a derived type makes an error, a map takes the last.

use crate::data::Data;
use crate::source::inputs::Inputs;
use crate::source::lines::{LineFormat, LineParser, LineSource, text};
use serde_json::error::Category;
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

/// JSON lines: `JsonLines::<T>::files` reads them, `JsonLines::to` writes them.
pub struct JsonLines<T = ()>(PhantomData<fn() -> T>);

impl<T: Data> JsonLines<T> {
    /// Reads values of type `T` from the lines of files, patterns of files, or `-` (stdin; not with a
    /// recovery store). A file is a partition, and its path its name in the recovery store.
    ///
    /// Fields that `T` does not name are passed over, unless it says `deny_unknown_fields`.
    pub fn files(inputs: impl Into<Inputs>) -> LineSource<JsonLines<T>> {
        LineSource::new(JsonLines(PhantomData), inputs)
    }
}

impl<T> JsonLines<T> {
    /// The format by itself.
    pub(crate) fn new() -> Self {
        JsonLines(PhantomData)
    }
}

impl<T> Clone for JsonLines<T> {
    fn clone(&self) -> Self {
        JsonLines::new()
    }
}

impl<T> fmt::Debug for JsonLines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonLines")
    }
}

impl<T: Data> LineFormat for JsonLines<T> {
    type Item = T;

    fn parse(&mut self, line: &[u8]) -> Result<T, String> {
        // The whole line is checked, not only the strings that are read: a bad byte in a field that
        // is passed over makes a bad record too.
        let value = serde_json::from_str(text(line)?).map_err(|error| reason::<T>(&error))?;
        // A field that nobody reads is passed over without regard to its depth.
        if is_deep(line) { Err(TOO_DEEP.to_owned()) } else { Ok(value) }
    }

    fn is_blank(&self, line: &[u8]) -> bool {
        line.first().is_none_or(|first| *first <= b' ') && line.trim_ascii().is_empty()
    }

    fn parser(&self) -> Option<LineParser<T>> {
        let mut format = self.clone();
        Some(Box::new(move |line| if format.is_blank(line) { None } else { format.parse(line).ok() }))
    }
}

/// Levels of arrays and objects that a line may have, one in another.
const DEPTH_MAX: usize = 128;
const TOO_DEEP: &str = "not JSON that can be read: nested deeper than 128 levels";

/// Whether a line that is JSON is nested too deep.
fn is_deep(line: &[u8]) -> bool {
    // Every level has two brackets.
    if line.len() <= 2 * DEPTH_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// The error in a few words, with the column where that helps.
fn reason<T>(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (what, column) = match text.rsplit_once(" at line ") {
        Some((what, _)) => (what, error.column()),
        None => (text.as_str(), 0),
    };
    if what.starts_with("recursion limit exceeded") {
        return TOO_DEEP.to_owned();
    }
    match error.classify() {
        Category::Data => format!("not {}: {what}", a_value_of(type_name::<T>())),
        _ if column <= 1 => "not JSON".to_owned(),
        _ => format!("not JSON: {what} at column {column}"),
    }
}

/// `an Event` for `shop::Event`; types that have no plain name get none.
fn a_value_of(type_name: &str) -> String {
    let plain = type_name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':');
    let name = type_name.rsplit("::").next().filter(|name| plain && !name.is_empty());
    match name {
        None => "a value of the expected type".to_owned(),
        Some(name) if name.starts_with(['A', 'E', 'I', 'O', 'a', 'e', 'i', 'o']) => format!("an {name}"),
        Some(name) => format!("a {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Event {
        user: String,
        n: u32,
    }

    fn parse(line: &str) -> Result<Event, String> {
        JsonLines::new().parse(line.as_bytes())
    }

    fn refused(line: &str) -> String {
        parse(line).expect_err(line)
    }

    #[test]
    fn a_line_is_one_value() {
        assert_eq!(
            parse(r#" {"n": 7, "other": [1], "user": "a\u2028\u0000"} "#),
            Ok(Event { user: "a\u{2028}\0".into(), n: 7 })
        );
        assert_eq!(refused("FAIL HERE"), "not JSON");
        assert_eq!(refused(r#"{"user":"a","n":1} x"#), "not JSON: trailing characters at column 20");
        assert_eq!(refused(r#"{"user":"a","#), "not JSON: EOF while parsing a value at column 12");
    }

    #[test]
    fn the_shape_and_the_numbers_must_fit() {
        assert_eq!(refused(r#"{"n":1}"#), "not an Event: missing field `user`");
        for n in ["4294967296", "-1", "1.5", "1e999", "9223372036854775808", "\"1\"", "null"] {
            refused(&format!(r#"{{"user":"a","n":{n}}}"#));
        }
        assert_eq!(parse(r#"{"user":"","n":0}"#).map(|event| event.n), Ok(0));
        assert!(refused(r#"{"user":"a","user":"b","n":1}"#).contains("duplicate field"));
        assert_eq!(
            JsonLines::<Vec<u8>>::new().parse(b"{}").unwrap_err().split(':').next(),
            Some("not a value of the expected type")
        );
    }

    #[test]
    fn what_is_not_utf_8_is_bad_even_where_it_is_not_read() {
        let line = b"{\"user\":\"a\",\"n\":1,\"x\":\"\xff\"}";
        assert_eq!(JsonLines::<Event>::new().parse(line), Err("not UTF-8 at byte 23 of the line".to_owned()));
    }

    #[test]
    fn deep_nesting_is_bad_and_never_overflows_the_stack() {
        let deep = "[".repeat(100_000);
        let read = JsonLines::<serde_json::Value>::new().parse(deep.as_bytes());
        assert_eq!(read, Err("not JSON that can be read: nested deeper than 128 levels".to_owned()));
        refused(&deep);
        refused(&format!(r#"{{"user":"a","n":1,"x":{deep}"#));
        // A field that is not read counts too, and brackets in a string do not.
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        let unread = |levels: usize| format!(r#"{{"user":"a","n":1,"x":{}}}"#, nested(levels));
        assert!(parse(&unread(127)).is_ok());
        assert_eq!(refused(&unread(128)), TOO_DEEP);
        assert!(parse(&format!(r#"{{"user":"\"{}","n":1}}"#, "[".repeat(300))).is_ok());
    }

    #[test]
    fn only_white_space_is_blank() {
        let json = JsonLines::<Event>::new();
        assert!(json.is_blank(b"") && json.is_blank(b" \t\r") && !json.is_blank(b" {") && !json.is_blank(b"x"));
    }
}
