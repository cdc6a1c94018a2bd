//! The shape of a type as its encoding shows it: what stands beside stored states, and what a change is told by.
//!
//! MessagePack takes an integer for a float, drops a field that it does not know, and fills one that has a default: a
//! decoder alone does not notice a changed type. So the shape of each key and state is found once per start
//! ([`Shape::of`]), kept in the store, and compared before a record is read. A type whose shape cannot be found (one that
//! asks the data what it is) is kept by its name, as unproven.

mod compare;
mod give;
mod trace;

pub(crate) use compare::Change;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// What a place in a value holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// Not looked into: the inside of a recursion.
    Unknown,
    /// `bool`, `u64`, `str`, `bytes`, `unit` and so on.
    Plain(String),
    /// A value or nothing.
    Option(Box<Format>),
    /// Any number of one thing.
    Seq(Box<Format>),
    /// Any number of pairs.
    Map(Box<Format>, Box<Format>),
    /// A fixed number of things.
    Tuple(Vec<Format>),
    /// A struct or an enum, by its name in [`Shape::Proven`].
    Named(String),
}

/// A field, under every name that it is read by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Field {
    pub(crate) names: Vec<String>,
    pub(crate) format: Format,
}

/// What a variant of an enum holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Variant {
    Unit,
    Newtype(Format),
    Tuple(Vec<Format>),
    Struct(Vec<Field>),
}

/// A type with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Container {
    Struct(Vec<Field>),
    Enum(Vec<(String, Variant)>),
}

/// The shape of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// Found by asking the type.
    Proven {
        /// The type itself.
        root: Format,
        /// The structs and enums in it.
        types: BTreeMap<String, Container>,
    },
    /// It could not be found.
    Unproven {
        /// The type, as the compiler names it.
        name: String,
        /// Why not.
        why: String,
    },
}

impl Shape {
    /// The shape of `T`.
    pub(crate) fn of<T: DeserializeOwned>() -> Shape {
        match trace::trace::<T>() {
            Ok((root, types)) => Shape::Proven { root, types },
            Err(why) => Shape::Unproven { name: std::any::type_name::<T>().to_owned(), why },
        }
    }
}

impl Shape {
    /// Whether it could not be found.
    pub(crate) fn is_unproven(&self) -> bool {
        matches!(self, Shape::Unproven { .. })
    }
}

/// As a person would write it: `{user: str, orders: [u64]}`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Proven { root, types } => f.write_str(&Printer { types, open: Vec::new() }.format(root)),
            Shape::Unproven { name, .. } => write!(f, "{name} (unproven)"),
        }
    }
}

struct Printer<'a> {
    types: &'a BTreeMap<String, Container>,
    /// Names that are being printed: within themselves they are printed as names.
    open: Vec<&'a str>,
}

impl<'a> Printer<'a> {
    fn format(&mut self, format: &'a Format) -> String {
        match format {
            Format::Unknown => "?".to_owned(),
            Format::Plain(name) => name.clone(),
            Format::Option(inner) => self.format(inner) + "?",
            Format::Seq(inner) => format!("[{}]", self.format(inner)),
            Format::Map(key, value) => format!("{{{} => {}}}", self.format(key), self.format(value)),
            Format::Tuple(parts) => format!("({})", self.list(parts)),
            Format::Named(name) => self.named(name),
        }
    }

    fn named(&mut self, name: &'a str) -> String {
        let Some(container) = self.types.get(name).filter(|_| !self.open.contains(&name)) else {
            return name.to_owned();
        };
        self.open.push(name);
        let text = match container {
            Container::Struct(fields) => self.fields(fields),
            Container::Enum(variants) => {
                let mut text = String::new();
                for (at, (name, variant)) in variants.iter().enumerate() {
                    let inside = match variant {
                        Variant::Unit => String::new(),
                        Variant::Newtype(format) => format!("({})", self.format(format)),
                        Variant::Tuple(parts) => format!("({})", self.list(parts)),
                        Variant::Struct(fields) => self.fields(fields),
                    };
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{}{name}{inside}", if at == 0 { "" } else { " | " });
                }
                text
            }
        };
        self.open.pop();
        text
    }

    fn list(&mut self, parts: &'a [Format]) -> String {
        let parts: Vec<String> = parts.iter().map(|part| self.format(part)).collect();
        match &parts[..] {
            [first, rest @ ..] if rest.len() > 3 && rest.iter().all(|part| part == first) => {
                format!("{first}; {}", parts.len())
            }
            _ => parts.join(", "),
        }
    }

    fn fields(&mut self, fields: &'a [Field]) -> String {
        let fields: Vec<String> =
            fields.iter().map(|field| format!("{}: {}", field.names.join("|"), self.format(&field.format))).collect();
        format!("{{{}}}", fields.join(", "))
    }
}

#[cfg(test)]
mod tests;
