//! Bytes at rest: keys, states and positions.
//!
//! Keys are MessagePack with structs as arrays, values MessagePack with field names, so that a
//! field can be added and a tool without the user's types can print them; or postcard, where a step
//! chooses it. The key encoding is part of the store format: it routes, and it never changes.
//! Nothing may remain after decoding.

use crate::data::StepError;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// How the states of a step are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Codec {
    /// [MessagePack](https://msgpack.org) with the names of fields and variants: fields with a default
    /// can be added, fields can change places, and tools can read it without the type.
    #[default]
    MessagePack,
    /// [postcard](https://postcard.jamesmunns.com): smaller and faster, nothing but the values. Any change
    /// of the type needs a migration.
    Postcard,
}

/// Appends the frozen encoding of a key.
pub(crate) fn encode_key<K: Serialize + ?Sized>(key: &K, out: &mut Vec<u8>) -> Result<(), StepError> {
    Ok(key.serialize(&mut rmp_serde::Serializer::new(out))?)
}

/// Appends the encoding of a state or position.
pub(crate) fn encode_value<S: Serialize>(value: &S, out: &mut Vec<u8>) -> Result<(), StepError> {
    Ok(value.serialize(&mut rmp_serde::Serializer::new(out).with_struct_map())?)
}

/// Appends a state as its step wants it.
pub(crate) fn encode_state<S: Serialize>(codec: Codec, state: &S, out: &mut Vec<u8>) -> Result<(), StepError> {
    match codec {
        Codec::MessagePack => encode_value(state, out),
        Codec::Postcard => {
            *out = postcard::to_extend(state, std::mem::take(out))?;
            Ok(())
        }
    }
}

/// Decodes a state; refuses bytes that remain.
pub(crate) fn decode_state<S: DeserializeOwned>(codec: Codec, bytes: &[u8]) -> Result<S, StepError> {
    match codec {
        Codec::MessagePack => decode(bytes),
        Codec::Postcard => match postcard::take_from_bytes(bytes)? {
            (state, []) => Ok(state),
            (_, rest) => Err(format!("{} bytes remain after it", rest.len()).into()),
        },
    }
}

/// Decodes a key or a value; refuses bytes that remain.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StepError> {
    // Strings and bytes are taken from where they lie, without a buffer between.
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    let value = T::deserialize(&mut reader)?;
    match IgnoredAny::deserialize(&mut reader) {
        // Nothing begins here.
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(format!("{} bytes remain after it", decode_next::<IgnoredAny>(bytes)?.1.len()).into()),
    }
}

/// Decodes a key at the beginning of `bytes`; answers it and what follows.
pub(crate) fn decode_next<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), StepError> {
    let mut rest = bytes;
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest))?;
    Ok((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
        let mut out = Vec::new();
        encode_value(value, &mut out).unwrap();
        out
    }

    /// Vectors of the frozen key encoding.
    #[test]
    fn key_bytes_are_frozen() {
        let mut out = Vec::new();
        encode_key("ab", &mut out).unwrap();
        encode_key(&300u64, &mut out).unwrap();
        encode_key(&("x", 1u8), &mut out).unwrap();
        assert_eq!(out, [0xa2, b'a', b'b', 0xcd, 0x01, 0x2c, 0x92, 0xa1, b'x', 0x01]);
    }

    #[test]
    fn a_field_with_a_default_can_be_added() {
        #[derive(Serialize)]
        struct Before {
            n: u32,
        }
        #[derive(Deserialize, PartialEq, Debug)]
        struct After {
            n: u32,
            #[serde(default)]
            m: u32,
        }
        assert_eq!(decode::<After>(&bytes(&Before { n: 7 })).unwrap(), After { n: 7, m: 0 });
    }

    #[test]
    fn bytes_that_remain_are_refused() {
        let mut long = bytes(&1u8);
        // Whatever they look like: a number, nothing, the start of a long string, a byte that begins no value.
        for rest in [0, 0xc0, 0xdb, 0xc1] {
            long.push(rest);
            assert!(decode::<u8>(&long).unwrap_err().to_string().contains("1 bytes remain"), "{rest}");
            long.pop();
        }
        assert_eq!(decode::<u8>(&long).unwrap(), 1);
    }

    /// A state of every kind that serde knows.
    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    struct All {
        text: String,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        list: Vec<(u16, Option<i64>)>,
        map: std::collections::BTreeMap<String, f32>,
        kind: Kind,
        deep: Option<Box<All>>,
    }

    #[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
    enum Kind {
        Unit,
        New(char),
        Struct { on: bool, big: u128 },
    }

    fn example() -> All {
        let (list, map) = (vec![(1, None), (2, Some(-3))], [("k".to_owned(), 0.5)].into());
        let inner = All {
            text: "inner".into(),
            bytes: vec![1; 40],
            list: Vec::new(),
            map: Default::default(),
            kind: Kind::New('x'),
            deep: None,
        };
        let kind = Kind::Struct { on: true, big: 1 << 90 };
        All { text: "a text".into(), bytes: vec![0xff; 9], list, map, kind, deep: Some(Box::new(inner)) }
    }

    proptest::proptest! {
        /// A damaged state is decoded or refused, in no more memory than its bytes account for: no length is believed
        /// before its bytes are there. `PROPTEST_CASES=1000000` for so many.
        #[test]
        fn any_bytes_are_a_state_or_are_refused(
            changes in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 0..6),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
            cut in proptest::num::usize::ANY,
        ) {
            for codec in [Codec::MessagePack, Codec::Postcard] {
                let mut bytes = Vec::new();
                encode_state(codec, &example(), &mut bytes).unwrap();
                for (at, byte) in &changes {
                    let at = at % bytes.len();
                    // Marks and lengths of MessagePack, and the greatest numbers of postcard, come often.
                    bytes[at] = [*byte, 0xff, 0xdb, 0xdd, 0xdf, 0xc6][*byte as usize % 6];
                }
                if cut % 3 == 0 {
                    bytes.truncate(cut / 3 % bytes.len());
                }
                for bytes in [&bytes, &noise] {
                    if let Ok(state) = decode_state::<All>(codec, bytes) {
                        let mut again = Vec::new();
                        encode_state(codec, &state, &mut again).unwrap();
                    }
                    let _ = decode_state::<crate::shape::Shape>(codec, bytes);
                    let _ = decode::<Vec<String>>(bytes);
                    let _ = decode::<(u64, String)>(bytes);
                }
            }
        }
    }
}
