//! What becomes of states that an earlier build stored.

use super::*;
use serde::de::DeserializeOwned;

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct V1 {
    count: u32,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct V2 {
    count: u32,
    #[serde(default)]
    name: String,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct V3 {
    total: f64,
}

/// What a step with these types leaves in the store: its schema, and one state.
fn left<S: State>(codec: Codec, state: &S) -> (Vec<u8>, Vec<u8>) {
    let evolution = Evolution { codec: Some(codec), migrations: Vec::new() };
    let plan = evolution.plan::<String, S>("step", None, false).unwrap();
    let mut bytes = Vec::new();
    encode_state(plan.codec, state, &mut bytes).unwrap();
    (plan.schema.unwrap(), bytes)
}

fn plan<S: State>(schema: &[u8], migrations: Vec<Migration>) -> Result<Plan<S>, RunError> {
    Evolution { codec: None, migrations }.plan::<String, S>("step", Some(schema), false)
}

fn read<S: State + DeserializeOwned>(plan: &Plan<S>, state: &[u8]) -> S {
    plan.reading.decode(state).unwrap()
}

#[test]
fn the_same_and_the_grown_are_read_as_they_are() {
    let (schema, state) = left(Codec::MessagePack, &V1 { count: 7 });
    let same = plan::<V1>(&schema, Vec::new()).unwrap();
    assert_eq!((read(&same, &state), same.rewrite, same.schema), (V1 { count: 7 }, false, None));
    let grown = plan::<V2>(&schema, Vec::new()).unwrap();
    assert_eq!((read(&grown, &state), grown.rewrite), (V2 { count: 7, name: String::new() }, false));
    assert!(grown.schema.is_some());
}

#[test]
fn another_shape_is_refused_or_migrated() {
    let (schema, state) = left(Codec::MessagePack, &V1 { count: 7 });
    let refused = plan::<V3>(&schema, Vec::new()).err().unwrap().to_string();
    for part in ["\"step\"", "count is gone", "{count: u32}", "{total: f64}"] {
        assert!(refused.contains(part), "{refused}");
    }
    let from_v1 = || Migration::new(|old: V1| V3 { total: f64::from(old.count) });
    let from_v2 = || Migration::new(|old: V2| V3 { total: f64::from(old.count) + 0.5 });
    for migrations in [vec![from_v1(), from_v2()], vec![from_v2(), from_v1()]] {
        let migrated = plan::<V3>(&schema, migrations).unwrap();
        assert_eq!((read(&migrated, &state), migrated.rewrite), (V3 { total: 7.0 }, true));
    }
    let wrong = plan::<V1>(&schema, vec![from_v1()]).err().unwrap().to_string();
    assert!(wrong.contains("its migration makes") && wrong.contains("V3"), "{wrong}");
}

#[test]
fn postcard_takes_the_same_type_only_and_a_change_of_codec_is_no_change_of_type() {
    let (schema, state) = left(Codec::Postcard, &V1 { count: 7 });
    assert_eq!(state, [7]);
    let to_messagepack = plan::<V1>(&schema, Vec::new()).unwrap();
    assert_eq!((read(&to_messagepack, &state), to_messagepack.rewrite), (V1 { count: 7 }, true));
    let refused = plan::<V2>(&schema, Vec::new()).err().unwrap().to_string();
    assert!(refused.contains("{count: u32, name: str}"), "{refused}");
    let migrated =
        plan::<V2>(&schema, vec![Migration::new(|old: V1| V2 { count: old.count, name: "n".into() })]).unwrap();
    assert_eq!(read(&migrated, &state), V2 { count: 7, name: "n".into() });
}

/// MessagePack would take the integer for a float, and drop what it does not know.
#[test]
fn what_the_decoder_does_not_notice_is_noticed() {
    #[derive(Serialize, Deserialize, Debug)]
    struct Float {
        count: f64,
    }
    let (schema, state) = left(Codec::MessagePack, &V1 { count: 7 });
    assert_eq!(decode::<Float>(&state).unwrap().count, 7.0, "the decoder is content");
    assert!(plan::<Float>(&schema, Vec::new()).err().unwrap().to_string().contains("count was u32 and is f64"));
}

/// Of an unproven type no more is known than that nothing may get lost.
#[test]
fn an_unproven_type_may_not_lose_bytes() {
    #[derive(Serialize, Deserialize)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        more: More,
    }
    #[derive(Serialize, Deserialize)]
    struct More {
        b: u8,
    }
    let (schema, state) = left(Codec::MessagePack, &Flat { a: 1, more: More { b: 2 } });
    let same = plan::<Flat>(&schema, Vec::new()).unwrap();
    assert_eq!(read(&same, &state).more.b, 2);
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Part {
        A { a: u8 },
    }
    let less = plan::<Part>(&schema, Vec::new()).unwrap();
    let lost = less.reading.decode(&state).err().unwrap().to_string();
    assert!(lost.contains("bytes would be lost"), "{lost}");
}

#[test]
fn keys_cannot_change() {
    let (schema, _) = left(Codec::MessagePack, &V1 { count: 7 });
    let evolution = Evolution { codec: None, migrations: Vec::new() };
    let refused = evolution.plan::<u64, V1>("step", Some(&schema), true).err().unwrap().to_string();
    assert!(refused.contains("its stored key has another shape") && refused.contains("str"), "{refused}");
}
