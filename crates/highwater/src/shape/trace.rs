//! Asks a type for its shape: deserialises it from nothing, again and again, and notes what it asks for.
//!
//! Whatever the type asks for it gets: 1 for a number, an empty string, one element of a list, and of an enum another variant
//! in each pass until all have been seen. Within a type that holds itself, options are empty and lists have no
//! elements. A type that asks what the data is (untagged enums, flattened fields), or that does not like what it got,
//! has no shape that can be found.

use super::give::{Choice, Elements, Fields, Pair};
use super::{Container, Field, Format, Variant};
use serde::de::{self, DeserializeOwned, Visitor};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Passes over one type: more than the variants of any enum that a person has written.
const PASSES_MAX: usize = 4096;
/// Types within types.
const DEPTH_MAX: usize = 64;
/// Elements of an array that are looked at.
const TUPLE_MAX: usize = 65_536;

type Types = BTreeMap<String, Container>;

/// Root and named types of `T`; or why they cannot be found.
pub(super) fn trace<T: DeserializeOwned>() -> Result<(Format, Types), String> {
    let mut tracer = Tracer::default();
    let mut root = Format::Unknown;
    for _ in 0..PASSES_MAX {
        let pass = || T::deserialize(Walk { tracer: &mut tracer, out: &mut root }).map(drop);
        // `Deserialize` of a type may be the user's own code.
        let passed = catch_unwind(AssertUnwindSafe(pass)).map_err(|_| "it panics".to_owned())?;
        if let Err(Failed(why)) = passed
            && !tracer.learns_alias(&why)
        {
            return Err(why);
        } else if tracer.is_complete() {
            return Ok((root, tracer.types()));
        }
        tracer.begin_pass();
    }
    Err("it has too many variants".to_owned())
}

/// What a type said that did not like what it got.
#[derive(Debug)]
pub(super) struct Failed(pub(super) String);

impl Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl de::Error for Failed {
    fn custom<T: Display>(what: T) -> Self {
        Failed(what.to_string())
    }
}

/// A named type that is being found out.
struct Known {
    /// Its identity within this program: one name may be several types.
    identity: &'static str,
    name: String,
    body: Body,
    /// How often it is open at the moment.
    open: usize,
}

enum Body {
    Struct(Vec<Field>),
    /// `ends` is the first variant that was given whole: it does not go on for ever.
    Enum {
        names: &'static [&'static str],
        variants: Vec<Option<Variant>>,
        ends: Option<usize>,
    },
}

/// A name of a field, and the name that was given before it: of the same field, if it is an alias.
#[derive(Clone, Copy)]
pub(super) struct Alias {
    pub(super) of: usize,
    pub(super) name: &'static str,
    pub(super) before: &'static str,
}

#[derive(Default)]
pub(super) struct Tracer {
    known: Vec<Known>,
    depth: usize,
    /// How many open types are open more than once.
    recursion: usize,
    /// The field that was given last: a second name of the one before it is refused there.
    pub(super) last_field: Option<Alias>,
    pub(super) aliases: Vec<Alias>,
}

impl Tracer {
    fn begin_pass(&mut self) {
        (self.depth, self.recursion, self.last_field) = (0, 0, None);
        self.known.iter_mut().for_each(|known| known.open = 0);
    }

    fn is_complete(&self) -> bool {
        self.known.iter().all(|known| match &known.body {
            Body::Struct(_) => true,
            Body::Enum { variants, .. } => variants.iter().all(Option::is_some),
        })
    }

    /// A field with two names cannot be given twice: notes that the last one given is such a name. Names of one field
    /// stand side by side.
    fn learns_alias(&mut self, why: &str) -> bool {
        let last = self.last_field.take().filter(|_| why.starts_with("duplicate field `"));
        if let Some(alias) = last
            && let Body::Struct(fields) = &mut self.known[alias.of].body
        {
            fields.retain(|field| field.names[0] != alias.name);
            self.aliases.push(alias);
        }
        last.is_some()
    }

    fn types(self) -> Types {
        let Tracer { known, aliases, .. } = self;
        let finished = known.into_iter().enumerate().map(|(at, known)| {
            let container = match known.body {
                Body::Struct(mut fields) => {
                    for alias in aliases.iter().filter(|alias| alias.of == at) {
                        if let Some(field) = fields.iter_mut().find(|field| field.names[0] == alias.before) {
                            field.names.push(alias.name.to_owned());
                        }
                    }
                    Container::Struct(fields)
                }
                Body::Enum { names, variants, .. } => {
                    let variants =
                        names.iter().zip(variants).filter_map(|(name, variant)| Some(((*name).to_owned(), variant?)));
                    Container::Enum(variants.collect())
                }
            };
            (known.name, container)
        });
        finished.collect()
    }

    /// The type with this identity, made known if it is new.
    fn enter(&mut self, identity: &'static str, name: &str, body: impl FnOnce() -> Body) -> Result<usize, Failed> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Failed("it holds itself, without end".to_owned()));
        }
        let at = self.known.iter().position(|known| known.identity == identity).unwrap_or_else(|| {
            let taken = self.known.iter().filter(|known| known.name.split('#').next() == Some(name)).count();
            let name = if taken == 0 { name.to_owned() } else { format!("{name}#{}", taken + 1) };
            self.known.push(Known { identity, name, body: body(), open: 0 });
            self.known.len() - 1
        });
        self.known[at].open += 1;
        self.recursion += usize::from(self.known[at].open > 1);
        Ok(at)
    }

    fn leave(&mut self, at: usize) {
        self.depth -= 1;
        self.recursion -= usize::from(self.known[at].open > 1);
        self.known[at].open -= 1;
    }
}

/// Notes what was found where something may be known already.
fn merge(known: &mut Format, found: Format) {
    match (known, found) {
        (_, Format::Unknown) => {}
        (known @ Format::Unknown, found) => *known = found,
        (Format::Option(known), Format::Option(found)) | (Format::Seq(known), Format::Seq(found)) => {
            merge(known, *found)
        }
        (Format::Map(key, value), Format::Map(key_found, value_found)) => {
            merge(key, *key_found);
            merge(value, *value_found);
        }
        (Format::Tuple(known), Format::Tuple(found)) if known.len() == found.len() => {
            known.iter_mut().zip(found).for_each(|(known, found)| merge(known, found));
        }
        (known, found) => *known = found,
    }
}

/// Gives a type what it asks for, and notes it in `out`.
pub(super) struct Walk<'a> {
    pub(super) tracer: &'a mut Tracer,
    pub(super) out: &'a mut Format,
}

impl Walk<'_> {
    fn plain(&mut self, name: &str) {
        merge(self.out, Format::Plain(name.to_owned()));
    }
}

/// Runs `give` on a fresh place, and merges what it found into `out`.
pub(super) fn inner<T>(
    tracer: &mut Tracer,
    out: &mut Format,
    give: impl FnOnce(Walk<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let mut found = Format::Unknown;
    let given = give(Walk { tracer, out: &mut found });
    merge(out, found);
    given
}

macro_rules! plain {
    ($($method:ident $name:literal $visit:ident $value:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
            self.plain($name);
            visitor.$visit($value)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Walk<'_> {
    type Error = Failed;

    // 1 rather than 0: there are numbers that are never 0.
    plain! {
        deserialize_bool "bool" visit_bool false;
        deserialize_i8 "i8" visit_i8 1;
        deserialize_i16 "i16" visit_i16 1;
        deserialize_i32 "i32" visit_i32 1;
        deserialize_i64 "i64" visit_i64 1;
        deserialize_i128 "i128" visit_i128 1;
        deserialize_u8 "u8" visit_u8 1;
        deserialize_u16 "u16" visit_u16 1;
        deserialize_u32 "u32" visit_u32 1;
        deserialize_u64 "u64" visit_u64 1;
        deserialize_u128 "u128" visit_u128 1;
        deserialize_f32 "f32" visit_f32 1.0;
        deserialize_f64 "f64" visit_f64 1.0;
        deserialize_char "char" visit_char 'a';
        deserialize_str "str" visit_borrowed_str "";
        deserialize_string "str" visit_borrowed_str "";
        deserialize_bytes "bytes" visit_borrowed_bytes &[];
        deserialize_byte_buf "bytes" visit_borrowed_bytes &[];
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
        Err(Failed("it asks the data what it is (an untagged or tagged enum, or a flattened field)".to_owned()))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_unit()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
        Err(Failed("it has a flattened field".to_owned()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let mut inside = Format::Unknown;
        let value = if self.tracer.recursion > 0 {
            visitor.visit_none()
        } else {
            visitor.visit_some(Walk { tracer: self.tracer, out: &mut inside })
        };
        merge(self.out, Format::Option(Box::new(inside)));
        value
    }

    fn deserialize_unit<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Failed> {
        self.plain("unit");
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let mut inside = vec![Format::Unknown];
        let left = usize::from(self.tracer.recursion == 0);
        let value = visitor.visit_seq(Elements { tracer: self.tracer, formats: &mut inside, at: 0, left });
        merge(self.out, Format::Seq(Box::new(inside.swap_remove(0))));
        value
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failed> {
        if len > TUPLE_MAX {
            return Err(Failed(format!("it has {len} elements")));
        }
        let mut inside = vec![Format::Unknown; len];
        let value = visitor.visit_seq(Elements { tracer: self.tracer, formats: &mut inside, at: 0, left: len });
        merge(self.out, Format::Tuple(inside));
        value
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Failed> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
        let (mut key, mut value) = (Format::Unknown, Format::Unknown);
        let left = self.tracer.recursion == 0;
        let given = visitor.visit_map(Pair { tracer: self.tracer, key: &mut key, value: &mut value, left });
        merge(self.out, Format::Map(Box::new(key), Box::new(value)));
        given
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let at = self.tracer.enter(std::any::type_name::<V>(), name, || Body::Struct(Vec::new()))?;
        merge(self.out, Format::Named(self.tracer.known[at].name.clone()));
        let mut found = Vec::new();
        let value = visitor.visit_map(Fields::new(self.tracer, Some(at), fields, &mut found));
        if let Body::Struct(known) = &mut self.tracer.known[at].body {
            merge_fields(known, found);
        }
        self.tracer.leave(at);
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failed> {
        let fresh = || Body::Enum { names, variants: vec![None; names.len()], ends: None };
        let at = self.tracer.enter(std::any::type_name::<V>(), name, fresh)?;
        merge(self.out, Format::Named(self.tracer.known[at].name.clone()));
        let chosen = self.tracer.choose(at)?;
        let mut found = Variant::Unit;
        let value = visitor.visit_enum(Choice { tracer: self.tracer, name: names[chosen], found: &mut found })?;
        if let Body::Enum { variants, ends, .. } = &mut self.tracer.known[at].body {
            merge_variant(&mut variants[chosen], found);
            ends.get_or_insert(chosen);
        }
        self.tracer.leave(at);
        Ok(value)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl Tracer {
    /// The variant to give: one that was not seen yet, or within itself one that is known to end.
    fn choose(&mut self, at: usize) -> Result<usize, Failed> {
        let open = self.known[at].open;
        let Body::Enum { variants, ends, .. } = &mut self.known[at].body else {
            return Err(Failed("it is a struct and an enum".to_owned()));
        };
        let unseen = variants.iter().position(Option::is_none);
        let chosen = if open > 1 { ends.or(unseen) } else { unseen.or(*ends) };
        let chosen = chosen.ok_or_else(|| Failed("it has no value".to_owned()))?;
        // Seen from here on, so that the same type within it is given another.
        variants[chosen].get_or_insert(Variant::Unit);
        Ok(chosen)
    }
}

fn merge_fields(known: &mut Vec<Field>, found: Vec<Field>) {
    for field in found {
        match known.iter_mut().find(|known| known.names == field.names) {
            Some(known) => merge(&mut known.format, field.format),
            None => known.push(field),
        }
    }
}

fn merge_variant(known: &mut Option<Variant>, found: Variant) {
    match (known, found) {
        (Some(Variant::Newtype(known)), Variant::Newtype(found)) => merge(known, found),
        (Some(Variant::Struct(known)), Variant::Struct(found)) => merge_fields(known, found),
        (Some(Variant::Tuple(known)), Variant::Tuple(found)) if known.len() == found.len() => {
            known.iter_mut().zip(found).for_each(|(known, found)| merge(known, found));
        }
        (known, found) => *known = Some(found),
    }
}
