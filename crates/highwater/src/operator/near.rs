//! Asks for the memory of values that are about to be written.
//!
//! With many keys, what the writing of a state waits for is memory: its slot, its key, the pieces of the heap that it
//! owns. A processor waits for many at once if they are asked for close together, which writing, hundreds of
//! instructions for each state, does not do. So the states that come next are read first, by a serializer that keeps
//! nothing and stops early. Not before an item is worked off: `Serialize` of a user may do much before it gives anything,
//! which is borne once more for a snapshot, and would not be for every item.

use serde::ser::{self, Serialize};
use std::fmt;
use std::hint::black_box;

/// Numbers and texts of one value that are read ahead. A large state is written piece by piece in memory that lies
/// together, which the processor asks for itself.
const MOST: u32 = 24;

/// Reads the first parts of a value.
pub(super) fn ask<T: Serialize + ?Sized>(value: &T) {
    let mut reader = Reader { read: 0, sum: 0 };
    // It ends with an error when it has read enough; a value that cannot be serialised says so when it is written.
    let _ = value.serialize(&mut reader);
    black_box(reader.sum);
}

/// Reads, and keeps only what makes the reading needed.
struct Reader {
    read: u32,
    sum: u64,
}

impl Reader {
    fn take(&mut self, number: u64) -> fmt::Result {
        self.sum ^= number;
        self.read += 1;
        if self.read < MOST { Ok(()) } else { Err(fmt::Error) }
    }

    fn take_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.take(bytes.first().copied().unwrap_or_default().into())
    }
}

macro_rules! numbers {
    ($($method:ident: $number:ty),*) => {
        $(fn $method(self, number: $number) -> fmt::Result {
            self.take(number as u64)
        })*
    };
}

impl ser::Serializer for &mut Reader {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    numbers! {
        serialize_bool: bool, serialize_char: char,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64
    }

    fn serialize_str(self, text: &str) -> fmt::Result {
        self.take_bytes(text.as_bytes())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> fmt::Result {
        self.take_bytes(bytes)
    }

    fn serialize_none(self) -> fmt::Result {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> fmt::Result {
        value.serialize(self)
    }

    fn serialize_unit(self) -> fmt::Result {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> fmt::Result {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> fmt::Result {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> fmt::Result {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> fmt::Result {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    // As the codecs: some types have another form for people.
    fn is_human_readable(&self) -> bool {
        false
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> fmt::Result {
        Ok(())
    }
}

/// The parts of a compound are read like values of their own.
macro_rules! compounds {
    ($($compound:ident: $($method:ident($($name:ty)?)),+;)*) => {
        $(impl ser::$compound for &mut Reader {
            type Ok = ();
            type Error = fmt::Error;

            $(fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> fmt::Result {
                value.serialize(&mut **self)
            })+

            fn end(self) -> fmt::Result {
                Ok(())
            }
        })*
    };
}

compounds! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(&'static str);
    SerializeStructVariant: serialize_field(&'static str);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    /// Counts how often it is read.
    struct Counted<'a>(&'a Cell<u32>);

    impl Serialize for Counted<'_> {
        fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.set(self.0.get() + 1);
            serializer.serialize_u32(self.0.get())
        }
    }

    #[derive(serde::Serialize)]
    enum Kind {
        Unit,
        New(char),
        Tuple(i8, i128),
        Struct { on: bool },
    }

    #[derive(serde::Serialize)]
    struct All<'a> {
        kinds: [Kind; 4],
        unit: (),
        option: (Option<f32>, Option<u8>),
        text: &'a str,
        map: BTreeMap<String, f64>,
        last: Counted<'a>,
    }

    /// Nothing that serde knows ends the reading before its time.
    #[test]
    fn all_parts_of_a_small_value_are_read() {
        let count = Cell::new(0);
        let kinds = [Kind::Unit, Kind::New('x'), Kind::Tuple(-1, 1 << 90), Kind::Struct { on: true }];
        let map = [("k".to_owned(), 0.5)].into();
        ask(&All { kinds, unit: (), option: (Some(0.5), None), text: "", map, last: Counted(&count) });
        assert_eq!(count.get(), 1);
    }

    #[test]
    fn a_large_value_is_not_read_to_its_end() {
        let count = Cell::new(0);
        let large: Vec<_> = (0..1000).map(|_| Counted(&count)).collect();
        ask(&large);
        assert_eq!(count.get(), MOST);
    }
}
