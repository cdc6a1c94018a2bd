//! What is given to a type that asks for the inside of a list, a map, a struct or an enum.

use super::trace::{Alias, Failed, Tracer, Walk, inner};
use super::{Field, Format, Variant};
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Visitor};

/// Elements of a list or tuple: `left` of them, noted in turn.
pub(super) struct Elements<'a> {
    pub(super) tracer: &'a mut Tracer,
    pub(super) formats: &'a mut [Format],
    pub(super) at: usize,
    pub(super) left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let out = &mut self.formats[self.at];
        self.at += 1;
        inner(self.tracer, out, |walk| seed.deserialize(walk)).map(Some)
    }
}

/// One pair of a map.
pub(super) struct Pair<'a> {
    pub(super) tracer: &'a mut Tracer,
    pub(super) key: &'a mut Format,
    pub(super) value: &'a mut Format,
    pub(super) left: bool,
}

impl<'de> de::MapAccess<'de> for Pair<'_> {
    type Error = Failed;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        if !std::mem::take(&mut self.left) {
            return Ok(None);
        }
        inner(self.tracer, self.key, |walk| seed.deserialize(walk)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failed> {
        inner(self.tracer, self.value, |walk| seed.deserialize(walk))
    }
}

/// Every field of a struct, under its name.
pub(super) struct Fields<'a> {
    pub(super) tracer: &'a mut Tracer,
    /// The struct; none: a variant of an enum.
    of: Option<usize>,
    names: &'static [&'static str],
    next: usize,
    /// The name that was given last.
    given: &'static str,
    pub(super) found: &'a mut Vec<Field>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        tracer: &'a mut Tracer,
        of: Option<usize>,
        names: &'static [&'static str],
        found: &'a mut Vec<Field>,
    ) -> Self {
        Fields { tracer, of, names, next: 0, given: "", found }
    }
}

impl<'de> de::MapAccess<'de> for Fields<'_> {
    type Error = Failed;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        let is_alias =
            |name: &str| self.tracer.aliases.iter().any(|alias| Some(alias.of) == self.of && alias.name == name);
        while self.names.get(self.next).is_some_and(|name| is_alias(name)) {
            self.next += 1;
        }
        let Some(name) = self.names.get(self.next) else { return Ok(None) };
        self.next += 1;
        let before = std::mem::replace(&mut self.given, name);
        self.tracer.last_field = self.of.map(|of| Alias { of, name, before });
        self.found.push(Field { names: vec![(*name).to_owned()], format: Format::Unknown });
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failed> {
        let field = self.found.last_mut().ok_or_else(|| Failed("it wants a value without a key".to_owned()))?;
        inner(self.tracer, &mut field.format, |walk| seed.deserialize(walk))
    }
}

/// One variant of an enum.
pub(super) struct Choice<'a> {
    pub(super) tracer: &'a mut Tracer,
    pub(super) name: &'static str,
    pub(super) found: &'a mut Variant,
}

impl<'de> de::EnumAccess<'de> for Choice<'_> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Failed> {
        Ok((seed.deserialize(StrDeserializer::new(self.name))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Choice<'_> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        *self.found = Variant::Unit;
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failed> {
        let mut inside = Format::Unknown;
        let value = seed.deserialize(Walk { tracer: self.tracer, out: &mut inside });
        *self.found = Variant::Newtype(inside);
        value
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failed> {
        let mut inside = vec![Format::Unknown; len];
        let value = visitor.visit_seq(Elements { tracer: self.tracer, formats: &mut inside, at: 0, left: len });
        *self.found = Variant::Tuple(inside);
        value
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Failed> {
        let mut found = Vec::new();
        let value = visitor.visit_map(Fields::new(self.tracer, None, fields, &mut found));
        *self.found = Variant::Struct(found);
        value
    }
}
