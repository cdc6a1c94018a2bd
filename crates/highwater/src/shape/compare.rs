//! Tells what a change of a type means for values that are stored already.
//!
//! Values are stored under the names of fields and variants, so that the names of types and the order of fields do not
//! matter. What was added is filled by its default, or refused by the decoder; all else is another shape.

use super::{Container, Field, Format, Shape, Variant};
use std::collections::BTreeSet;
use std::fmt;

/// What has become of a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing.
    Same,
    /// There are more fields or variants.
    Grown,
    /// It is another: where, and what.
    Other(String),
    /// One of the two is unproven, so nobody knows.
    Unknown,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Same => f.write_str("it is the same"),
            Change::Grown => f.write_str("there is more in it, which its codec has no room for"),
            Change::Other(what) => f.write_str(what),
            Change::Unknown => f.write_str("nobody can tell whether they are the same"),
        }
    }
}

impl Shape {
    /// What has become of this shape, which is stored, in `now`.
    pub(crate) fn change(&self, now: &Shape) -> Change {
        match (self, now) {
            (Shape::Proven { root: was, .. }, Shape::Proven { root: is, .. }) => {
                let mut pair = Pair { was: self, now, seen: BTreeSet::new(), grown: false };
                match pair.format("", was, is) {
                    Err(what) => Change::Other(what),
                    Ok(()) if pair.grown => Change::Grown,
                    Ok(()) => Change::Same,
                }
            }
            (Shape::Unproven { name: was, .. }, Shape::Unproven { name: is, .. }) if was == is => Change::Same,
            _ => Change::Unknown,
        }
    }

    fn container(&self, name: &str) -> Option<&Container> {
        match self {
            Shape::Proven { types, .. } => types.get(name),
            Shape::Unproven { .. } => None,
        }
    }
}

struct Pair<'a> {
    was: &'a Shape,
    now: &'a Shape,
    /// Pairs of types that are compared already.
    seen: BTreeSet<(&'a str, &'a str)>,
    grown: bool,
}

impl<'a> Pair<'a> {
    /// `path` leads to the place within the value.
    fn format(&mut self, path: &str, was: &'a Format, is: &'a Format) -> Result<(), String> {
        match (was, is) {
            (Format::Unknown, _) | (_, Format::Unknown) => Ok(()),
            (Format::Plain(was), Format::Plain(is)) if was == is => Ok(()),
            (Format::Option(was), Format::Option(is)) => self.format(path, was, is),
            (Format::Seq(was), Format::Seq(is)) => self.format(&format!("{path}[]"), was, is),
            (Format::Map(was_key, was), Format::Map(is_key, is)) => {
                self.format(&format!("{path}[key]"), was_key, is_key)?;
                self.format(&format!("{path}[]"), was, is)
            }
            (Format::Tuple(was), Format::Tuple(is)) if was.len() == is.len() => self.parts(path, was, is),
            (Format::Named(was_name), Format::Named(is_name)) => {
                if !self.seen.insert((was_name, is_name)) {
                    return Ok(());
                }
                match (self.was.container(was_name), self.now.container(is_name)) {
                    (Some(Container::Struct(was)), Some(Container::Struct(is))) => self.fields(path, was, is),
                    (Some(Container::Enum(was)), Some(Container::Enum(is))) => self.variants(path, was, is),
                    _ => Err(self.differs(path, was, is)),
                }
            }
            _ => Err(self.differs(path, was, is)),
        }
    }

    fn parts(&mut self, path: &str, was: &'a [Format], is: &'a [Format]) -> Result<(), String> {
        let mut parts = was.iter().zip(is).enumerate();
        parts.try_for_each(|(at, (was, is))| self.format(&format!("{path}.{at}"), was, is))
    }

    fn fields(&mut self, path: &str, was: &'a [Field], is: &'a [Field]) -> Result<(), String> {
        for field in was {
            let here = format!("{path}.{}", field.names[0]);
            let Some(same) = is.iter().find(|other| other.names.iter().any(|name| field.names.contains(name))) else {
                return Err(format!("{} is gone", at(&here)));
            };
            self.format(&here, &field.format, &same.format)?;
        }
        self.grown |= is.len() > was.len();
        Ok(())
    }

    fn variants(
        &mut self,
        path: &str,
        was: &'a [(String, Variant)],
        is: &'a [(String, Variant)],
    ) -> Result<(), String> {
        for (name, was) in was {
            let here = format!("{path}.{name}");
            let Some((_, is)) = is.iter().find(|(other, _)| other == name) else {
                return Err(format!("{} is gone", at(&here)));
            };
            match (was, is) {
                (Variant::Unit, Variant::Unit) => {}
                (Variant::Newtype(was), Variant::Newtype(is)) => self.format(&here, was, is)?,
                (Variant::Tuple(was), Variant::Tuple(is)) if was.len() == is.len() => self.parts(&here, was, is)?,
                (Variant::Struct(was), Variant::Struct(is)) => self.fields(&here, was, is)?,
                _ => return Err(format!("{} holds something else", at(&here))),
            }
        }
        self.grown |= is.len() > was.len();
        Ok(())
    }

    fn differs(&self, path: &str, was: &Format, is: &Format) -> String {
        let show = |shape: &Shape, root: &Format| match shape {
            Shape::Proven { types, .. } => Shape::Proven { root: root.clone(), types: types.clone() }.to_string(),
            Shape::Unproven { .. } => shape.to_string(),
        };
        format!("{} was {} and is {}", at(path), show(self.was, was), show(self.now, is))
    }
}

fn at(path: &str) -> &str {
    match path.strip_prefix('.').unwrap_or(path) {
        "" => "it",
        path => path,
    }
}
