//! Shapes of the types that people write, and what becomes of them.

use super::{Change, Shape};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;

fn shown<T: DeserializeOwned>() -> String {
    let shape = Shape::of::<T>();
    let stored = serde_json::to_string(&shape).unwrap();
    assert_eq!(serde_json::from_str::<Shape>(&stored).unwrap(), shape, "it can be stored");
    assert_eq!(shape.change(&shape), Change::Same);
    shape.to_string()
}

fn change<Was: DeserializeOwned, Is: DeserializeOwned>() -> Change {
    Shape::of::<Was>().change(&Shape::of::<Is>())
}

#[derive(Serialize, Deserialize)]
struct Cart {
    paid: Vec<u64>,
    unpaid: HashSet<u64>,
    note: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    Empty,
    One(u32),
    Two(u32, String),
    Named { cart: Cart, score: f64 },
}

#[derive(Serialize, Deserialize)]
struct Tree {
    value: Wrapped<u8>,
    kids: Vec<Tree>,
    mother: Option<Box<Tree>>,
    other: Wrapped<String>,
}

#[derive(Serialize, Deserialize)]
struct Wrapped<T> {
    inside: T,
}

#[derive(Serialize, Deserialize)]
enum Expression {
    Add(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Number(i64),
}

#[test]
fn shapes_read_like_types() {
    assert_eq!(shown::<u64>(), "u64");
    assert_eq!(shown::<(String, NonZeroU32)>(), "(str, u32)");
    assert_eq!(shown::<[u8; 32]>(), "(u8; 32)");
    assert_eq!(shown::<HashMap<String, Vec<bool>>>(), "{str => [bool]}");
    assert_eq!(shown::<Cart>(), "{paid: [u64], unpaid: [u64], note: str?}");
    let cart = "{paid: [u64], unpaid: [u64], note: str?}";
    assert_eq!(shown::<Kind>(), format!("Empty | One(u32) | Two(u32, str) | Named{{cart: {cart}, score: f64}}"));
    assert_eq!(shown::<Tree>(), "{value: {inside: u8}, kids: [Tree], mother: Tree?, other: {inside: str}}");
    assert_eq!(shown::<Expression>(), "Add(Expression, Expression) | Not(Expression) | Number(i64)");
    assert_eq!(shown::<std::time::Duration>(), "{secs: u64, nanos: u32}");
    assert_eq!(shown::<BTreeMap<Kind2, std::net::IpAddr>>(), "{A | B => V4((u8, u8, u8, u8)) | V6((u8; 16))}");
}

#[derive(Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
enum Kind2 {
    A,
    B,
}

#[test]
fn what_asks_the_data_is_unproven() {
    #[derive(Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Either {
        A(u8),
        B(String),
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Flat {
        a: u8,
        #[serde(flatten)]
        rest: HashMap<String, u8>,
    }
    struct Panics;
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("as asked")
        }
    }
    assert!(shown::<Either>().ends_with("Either (unproven)"));
    assert!(shown::<Flat>().ends_with("Flat (unproven)"));
    assert!(shown::<Panics>().ends_with("Panics (unproven)"));
    assert!(shown::<serde_json::Value>().ends_with("Value (unproven)"));
    assert_eq!(change::<Either, u8>(), Change::Unknown);
}

#[test]
fn what_was_added_is_told_from_what_was_changed() {
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct V1 {
        count: u32,
        kind: Kind2,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    enum Kind3 {
        C,
        B,
        A,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Grown {
        kind: Kind3,
        #[serde(default)]
        more: Vec<u8>,
        count: u32,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Alias {
        kind: Kind2,
        #[serde(alias = "count", alias = "zahl")]
        number: u32,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Renamed {
        kind: Kind2,
        #[serde(default)]
        number: u32,
    }
    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Float {
        kind: Kind2,
        count: f64,
    }
    assert_eq!(change::<V1, Grown>(), Change::Grown);
    assert_eq!(change::<V1, Alias>(), Change::Same);
    assert_eq!(shown::<Alias>(), "{kind: A | B, count|number|zahl: u32}");
    assert_eq!(change::<V1, Renamed>(), Change::Other("count is gone".into()));
    assert_eq!(change::<V1, Float>(), Change::Other("count was u32 and is f64".into()));
    assert_eq!(change::<Grown, V1>(), Change::Other("kind.C is gone".into()));
    assert_eq!(change::<(u8, V1), (u8, Float)>(), Change::Other("1.count was u32 and is f64".into()));
    assert_eq!(change::<Vec<u64>, u64>(), Change::Other("it was [u64] and is u64".into()));
    assert_eq!(change::<Tree, Tree>(), Change::Same);
    assert_eq!(change::<Option<u8>, u8>(), Change::Other("it was u8? and is u8".into()));
}
