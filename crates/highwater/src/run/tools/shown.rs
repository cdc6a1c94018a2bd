//! Keys and states as JSON, without the types of the program: MessagePack says itself what it holds.
//!
//! What does not (postcard, or bytes of a raw step) is shown as `{"hex": ".."}`.

use crate::codec::{Codec, decode};
use crate::evolution::{Layout, Schema};
use highwater_store::{Epoch, Store, StoreError};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// How the rows of each step are written that has a schema in the store.
pub(super) fn layouts(store: &Store, epoch: Epoch) -> Result<BTreeMap<String, Layout>, StoreError> {
    let mut found = BTreeMap::new();
    store.rows_at(epoch, &mut |row| {
        if let Some(step) = row.step.strip_suffix("#schema") {
            found.extend(Schema::layout_of(row.value).map(|layout| (step.to_owned(), layout)));
        }
    })?;
    Ok(found)
}

/// A key or a state, for people and tools.
pub(super) fn show(codec: Codec, bytes: &[u8]) -> Value {
    let mut rest = bytes;
    let read = match codec {
        Codec::MessagePack => Shown::deserialize(&mut rmp_serde::Deserializer::new(&mut rest)).ok(),
        Codec::Postcard => None,
    };
    match read {
        Some(Shown(value)) if rest.is_empty() => value,
        _ => json!({ "hex": hex(bytes) }),
    }
}

/// The records in a row of many, and their copies; none if it is no such row.
pub(super) fn records(bytes: &[u8]) -> Option<Vec<(Value, i64)>> {
    let records: Vec<(Shown, i64)> = decode(bytes).ok()?;
    Some(records.into_iter().map(|(Shown(record), copies)| (record, copies)).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Shown(Value);

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Shown)
    }
}

struct Any;

macro_rules! visits {
    ($($visit:ident: $kind:ty;)*) => {$(
        fn $visit<E>(self, value: $kind) -> Result<Value, E> {
            Ok(json!(value))
        }
    )*};
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    visits! { visit_bool: bool; visit_i64: i64; visit_u64: u64; visit_f64: f64; visit_str: &str; }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(json!({ "hex": hex(value) }))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Shown(value)) = seq.next_element()? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((Shown(key), Shown(value))) = map.next_entry()? {
            let key = if let Value::String(key) = key { key } else { key.to_string() };
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{encode_state, encode_value};

    /// Structs keep the names of their fields, maps any keys, and what has no names is shown as it is.
    #[test]
    fn states_are_shown_as_json() {
        #[derive(serde::Serialize)]
        struct State {
            paid: Vec<u64>,
            by_day: BTreeMap<i32, f64>,
            note: Option<&'static str>,
        }
        let state = State { paid: vec![1, u64::MAX], by_day: BTreeMap::from([(-3, 0.5)]), note: None };
        let mut bytes = Vec::new();
        encode_value(&state, &mut bytes).unwrap();
        let shown = json!({ "paid": [1, u64::MAX], "by_day": { "-3": 0.5 }, "note": null });
        assert_eq!(show(Codec::MessagePack, &bytes), shown);
        let (mut short, mut more) = (Vec::new(), bytes.clone());
        encode_state(Codec::Postcard, &7u8, &mut short).unwrap();
        more.push(0);
        assert_eq!(show(Codec::Postcard, &short), json!({ "hex": "07" }));
        assert!(show(Codec::MessagePack, &more).get("hex").is_some(), "a byte is left");
    }
}
