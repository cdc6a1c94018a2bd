//! Which files a pattern stands for.
//!
//! Names are matched by the crate `glob`. Its own walk holds a path for each file of a directory, of which there may be
//! a million, and panics at names that are not UTF-8.

use super::files::no_input;
use crate::error::SourceError;
use glob::{MatchOptions, Pattern};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What makes a pattern of a path.
pub(super) const SPECIAL: [char; 3] = ['*', '?', '['];

const AS_IN_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// A part of a pattern, between slashes.
enum Part<'a> {
    Plain(&'a str),
    Names(Pattern),
    /// `**`: any directories, or none.
    Dirs,
}

/// Is told what matches.
type Visit<'v> = dyn FnMut(&Path) -> Result<(), SourceError> + 'v;

/// Visits all that matches a pattern, directories too, each directory's in the order of their names.
pub(super) fn each_match(pattern: &str, visit: &mut Visit<'_>) -> Result<(), SourceError> {
    let part = |part| {
        Ok(match part {
            "**" => Part::Dirs,
            part if part.contains(SPECIAL) => Part::Names(Pattern::new(part)?),
            part => Part::Plain(part),
        })
    };
    let parts = pattern.split('/').filter(|part| !part.is_empty()).map(part);
    let wrong = |error: glob::PatternError| no_input(pattern, io::Error::new(ErrorKind::InvalidInput, error));
    let parts = parts.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let visit: &mut Visit<'_> = match pattern.ends_with('/') {
        true => &mut |path| if path.is_dir() { visit(path) } else { Ok(()) },
        false => visit,
    };
    step(Path::new(if pattern.starts_with('/') { "/" } else { "" }), &parts, visit)
}

/// Visits what the parts match from `path` on.
fn step(path: &Path, parts: &[Part<'_>], visit: &mut Visit<'_>) -> Result<(), SourceError> {
    match parts {
        [] => visit(path),
        [Part::Plain(name), rest @ ..] => {
            let path = path.join(name);
            if path.exists() { step(&path, rest, visit) } else { Ok(()) }
        }
        [Part::Names(names), rest @ ..] => each_in(path, names, &mut |path| match rest.is_empty() || path.is_dir() {
            true => step(path, rest, visit),
            false => Ok(()),
        }),
        [Part::Dirs, Part::Dirs, ..] => step(path, &parts[1..], visit),
        [Part::Dirs, rest @ ..] => {
            let all = Pattern::new("*").expect("it is a pattern");
            each_in(path, &all, &mut |path| {
                let is_dir = path.is_dir();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                match rest {
                    [] if is_dir => visit(path)?,
                    [] => {}
                    [next, rest @ ..] => {
                        let matches = match next {
                            Part::Names(names) => names.matches_with(name, AS_IN_A_SHELL),
                            Part::Plain(plain) => name == *plain,
                            Part::Dirs => unreachable!("two of them are one"),
                        };
                        if matches && (rest.is_empty() || is_dir) {
                            step(path, rest, visit)?;
                        }
                    }
                }
                if is_dir { step(path, parts, visit) } else { Ok(()) }
            })
        }
    }
}

/// Visits what matches in one directory; where there is none, nothing does.
fn each_in(dir: &Path, names: &Pattern, visit: &mut Visit<'_>) -> Result<(), SourceError> {
    let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let entries = match fs::read_dir(here) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(|error| no_input(here, error))?,
    };
    // Each name with the slash that no name has behind it, and where each begins.
    let (mut text, mut found) = (String::new(), Vec::new());
    for entry in entries {
        let name = entry.map_err(|error| no_input(here, error))?.file_name();
        // What is not UTF-8 matches nothing.
        if let Some(name) = name.to_str().filter(|name| names.matches_with(name, AS_IN_A_SHELL)) {
            found.push(text.len());
            text.extend([name, "/"]);
        }
    }
    let name = |start: &usize| text[*start..].split('/').next().expect("a part before the slash");
    found.sort_unstable_by_key(name);
    found.iter().try_for_each(|start| visit(&dir.join(name(start))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn found(pattern: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut take = |path: &Path| {
            found.push(path.to_owned());
            Ok(())
        };
        each_match(pattern, &mut take).unwrap();
        found
    }

    /// The same, in the same order, as the library finds by its own walk.
    #[test]
    fn patterns_match_what_they_match_in_a_shell() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{}/{name}", dir.path().display());
        for name in [
            "b/2.json",
            "b/1.json",
            "b/.3.json",
            "a/x.json",
            "a/y.csv",
            "a/c/z.json",
            "a/c/.d/h.json",
            "top.json",
            "ä.json",
        ] {
            fs::create_dir_all(Path::new(&path(name)).parent().unwrap()).unwrap();
            fs::write(path(name), "").unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("l")).unwrap();
        let mut matched = 0;
        for pattern in [
            "*.json",
            "?.json",
            "[ab]/*",
            "*/*.json",
            "*/?/*",
            "**/*.json",
            "*/",
            "b/*.csv",
            "none/*",
            "top.json/*",
            "l/*",
            "./*.json",
            "b//*.json",
            "*/../*.json",
            "[!a]*/*.json",
            "**",
            "**/c/*",
            "a/**/**/z.json",
            "**/c/**/*",
            "*/c",
            "a/**/",
            "b/**",
            "b/**/x",
        ] {
            let pattern = path(pattern);
            let theirs: Vec<_> = glob::glob_with(&pattern, AS_IN_A_SHELL).unwrap().map(Result::unwrap).collect();
            assert_eq!(found(&pattern), theirs, "{pattern}");
            matched += theirs.len();
        }
        assert!(matched > 50, "{matched}");
        // Here it is the shell that is right.
        assert_eq!(found(&path("b/.*")), [dir.path().join("b/.3.json")]);
        let refused = |pattern: &str| each_match(&path(pattern), &mut |_| Ok(())).is_err();
        assert!(refused("[") && refused("[/a*") && refused("a/***") && refused("a**") && !refused("[a]"));
    }

    /// Names that are not UTF-8 lie in the way of others.
    #[test]
    fn names_that_are_no_text_match_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let foreign: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"\xff.json".to_vec());
        fs::create_dir_all(dir.path().join("a").join(&foreign)).unwrap();
        fs::write(dir.path().join(&foreign), "").unwrap();
        fs::write(dir.path().join("a/b.json"), "").unwrap();
        for pattern in ["*/*.json", "**/*.json", "a/*"] {
            let pattern = format!("{}/{pattern}", dir.path().display());
            assert_eq!(found(&pattern), [dir.path().join("a/b.json")], "{pattern}");
        }
    }
}
