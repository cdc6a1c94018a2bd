//! Names in their order, one behind the other: there may be a million.

/// A list of names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// With a newline between two.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Names {
    pub(crate) fn push(&mut self, name: &str) {
        if !self.ends.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, at: usize) -> Option<&str> {
        let start = if at == 0 { 0 } else { self.ends.get(at - 1)? + 1 };
        Some(&self.text[start..*self.ends.get(at)?])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// All of them, with a newline between two.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl<N: AsRef<str>> FromIterator<N> for Names {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Names {
        let mut list = Names::default();
        names.into_iter().for_each(|name| list.push(name.as_ref()));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_as_they_went() {
        for names in [&[][..], &[""], &["", ""], &["a", "", "bc"]] {
            let list = Names::from_iter(names);
            assert_eq!((list.len(), list.iter().collect::<Vec<_>>()), (names.len(), names.to_vec()));
            assert_eq!((list.get(names.len()), list.text()), (None, &*names.join("\n")));
        }
    }
}
