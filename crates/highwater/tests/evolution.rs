//! State types that change between builds: read, migrated, or refused before a record is read.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater::prelude::*;
use highwater::{Codec, RunError, Summary};
use serde::{Deserialize, Serialize};
use std::fs;

#[derive(Serialize, Deserialize, Default, Clone)]
struct V1 {
    sum: u32,
}

#[derive(Serialize, Deserialize, Default, Clone)]
struct Named {
    #[serde(default)]
    last: String,
    sum: u32,
}

#[derive(Serialize, Deserialize, Default, Clone)]
struct Float {
    sum: f64,
}

/// A bed with one growing input of lines `KEY NUMBER`.
struct Bed(tempfile::TempDir);

impl Bed {
    fn new() -> Bed {
        Bed(tempfile::tempdir().unwrap())
    }

    fn feed(&self, lines: &str) {
        use std::io::Write;
        let path = self.0.path().join("in");
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// The lines of the output, in the order of keys, which is the same at any number of workers.
    fn output(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path().join("out")).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_by_key(|line| line.split(' ').next().unwrap_or_default().to_owned());
        lines
    }

    fn config(&self, workers: usize) -> Config {
        let mut config = Config::new("evolution");
        config.workers = workers;
        config.recovery = Some(self.0.path().join("store"));
        config
    }

    /// Sums the numbers of each key with `fold` into states of type `S`.
    fn run<S: State + Clone + Default>(
        &self,
        config: Config,
        say: impl Fn(&Flow<'_>) + Send + Sync + 'static,
        fold: impl Fn(&mut S, u32) -> Result<String, String> + Clone + Send + Sync + 'static,
    ) -> Result<Summary, RunError> {
        let dir = self.0.path().to_owned();
        highwater::run(config, dir, move |flow: &Flow<'_>, dir: &std::path::PathBuf| {
            say(flow);
            flow.source("in", Lines::files(dir.join("in")))
                .key_into(|line| {
                    let (key, number) = line.split_once(' ').unwrap_or((&line, "0"));
                    (key.to_owned(), number.parse::<u32>().unwrap_or_default())
                })
                .try_stateful_map("sum", S::default, fold.clone())
                .map(|(key, sum)| format!("{key} {sum}"))
                .sink("out", Lines::to(dir.join("out")));
        })
    }

    fn v1(&self, workers: usize) -> Result<Summary, RunError> {
        self.run(self.config(workers), |_| (), add_v1)
    }

    fn float(&self, config: Config, migrated: bool) -> Result<Summary, RunError> {
        let say = move |flow: &Flow<'_>| {
            if migrated {
                flow.migrate("sum", |old: V1| Float { sum: f64::from(old.sum) + 0.5 });
            }
        };
        self.run(config, say, |state: &mut Float, n| {
            if n == 13 {
                return Err("as asked".to_owned());
            }
            state.sum += f64::from(n);
            Ok(state.sum.to_string())
        })
    }
}

fn add_v1(state: &mut V1, n: u32) -> Result<String, String> {
    state.sum += n;
    Ok(state.sum.to_string())
}

#[test]
fn a_field_with_a_default_can_be_added() {
    let bed = Bed::new();
    bed.feed("a 1\nb 2\nc 3\n");
    bed.v1(3).unwrap();
    bed.feed("a 10\n");
    let add = |state: &mut Named, n: u32| {
        state.last = format!("{n}");
        state.sum += n;
        Ok(state.sum.to_string())
    };
    bed.run(bed.config(2), |_| (), add).unwrap();
    assert_eq!(bed.output(), ["a 1", "a 11", "b 2", "c 3"]);
    // The way back would lose what is in the field.
    bed.feed("a 10\n");
    let refused = bed.v1(2).unwrap_err().to_string();
    assert!(refused.contains("last is gone") && refused.contains("{last: str, sum: u32}"), "{refused}");
}

#[test]
fn a_changed_type_is_refused_with_nothing_touched_and_migrated_when_declared() {
    for (before, then, after) in [(1, 1, 1), (3, 2, 1), (1, 4, 2)] {
        let bed = Bed::new();
        bed.feed("a 1\nb 2\nc 3\nd 4\n");
        bed.v1(before).unwrap();
        bed.feed("a 10\n");
        let manifest = || fs::read(bed.0.path().join("store").join("manifest")).unwrap();
        let stored = manifest();
        let refused = bed.float(bed.config(before), false).unwrap_err();
        assert!(matches!(&refused, RunError::ShapeChanged { step, what: "state", .. } if step == "sum"), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("sum was u32 and is f64") && text.contains("{sum: u32}, and is {sum: f64}"), "{text}");
        assert_eq!(manifest(), stored);
        assert_eq!(bed.output(), ["a 1", "b 2", "c 3", "d 4"]);

        bed.float(bed.config(then), true).unwrap();
        assert_eq!(bed.output(), ["a 1", "a 11.5", "b 2", "c 3", "d 4"]);
        // Migrated once, and for all keys: the migration may stay or go, and the old build is refused.
        bed.feed("b 1\n");
        assert!(bed.v1(then).unwrap_err().to_string().contains("sum was f64 and is u32"));
        bed.float(bed.config(after), false).unwrap();
        bed.feed("c 1\n");
        bed.float(bed.config(before), true).unwrap();
        assert_eq!(bed.output(), ["a 1", "a 11.5", "b 2", "b 3.5", "c 3", "c 4.5", "d 4"]);
    }
}

/// The first epoch fails, so nothing of the migration is committed: it happens again, on what was there.
#[test]
fn a_migration_is_committed_whole_or_not_at_all() {
    let bed = Bed::new();
    bed.feed("a 1\nb 2\n");
    bed.v1(2).unwrap();
    bed.feed("a 13\n");
    for workers in [2, 1, 3] {
        assert!(matches!(bed.float(bed.config(workers), true), Err(RunError::Step { .. })));
    }
    bed.feed("a 5\n");
    let mut config = bed.config(2);
    config.on_error = OnError::Skip;
    bed.float(config, true).unwrap();
    assert_eq!(bed.output(), ["a 1", "a 6.5", "b 2"]);
    // With nothing new to read a migration is committed all the same.
    let bed = Bed::new();
    bed.feed("a 1\nb 2\n");
    bed.v1(2).unwrap();
    bed.float(bed.config(2), true).unwrap();
    assert!(bed.v1(2).is_err());
    bed.feed("b 1\n");
    bed.float(bed.config(1), false).unwrap();
    assert_eq!(bed.output(), ["a 1", "b 2", "b 3.5"]);
}

#[test]
fn a_step_may_change_its_codec() {
    let bed = Bed::new();
    let mut expected = Vec::new();
    for (round, workers) in [1, 2, 3, 2, 1].into_iter().enumerate() {
        bed.feed("a 1\n");
        expected.push(format!("a {}", round + 1));
        let postcard = round % 2 == 1;
        let say = move |flow: &Flow<'_>| {
            flow.encode_states("sum", if postcard { Codec::Postcard } else { Codec::MessagePack })
        };
        bed.run(bed.config(workers), say, add_v1).unwrap();
        assert_eq!(bed.output(), expected);
    }
}

#[test]
fn what_is_accepted_is_read_as_it_decodes() {
    let bed = Bed::new();
    bed.feed("a 1\nb 2\n");
    bed.v1(2).unwrap();
    bed.feed("a 10\n");
    let mut config = bed.config(2);
    config.accept_shapes = vec!["sum".into()];
    bed.float(config, false).unwrap();
    bed.feed("b 10\n");
    bed.float(bed.config(1), false).unwrap();
    assert_eq!(bed.output(), ["a 1", "a 11", "b 2", "b 12"]);
}

#[test]
fn a_renamed_step_keeps_its_states() {
    let bed = Bed::new();
    let dir = bed.0.path().to_owned();
    let run = |names: [&'static str; 3], renames: &[(&str, &str)], workers: usize| {
        let mut config = bed.config(workers);
        config.rename_steps = renames.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect();
        highwater::run(config, dir.clone(), move |flow: &Flow<'_>, dir: &std::path::PathBuf| {
            flow.source(names[0], Lines::files(dir.join("in")))
                .key_into(|line| (line, ()))
                .try_stateful_map(
                    names[1],
                    || 0u32,
                    |n: &mut u32, ()| {
                        *n += 1;
                        Ok::<u32, String>(*n)
                    },
                )
                .map(|(key, n)| format!("{key} {n}"))
                .sink(names[2], Lines::to(dir.join("out")));
        })
    };
    bed.feed("a\n");
    run(["in", "count", "out"], &[], 2).unwrap();
    bed.feed("a\n");
    let orphans = run(["in", "n", "out"], &[], 2).unwrap_err().to_string();
    assert!(orphans.contains("\"count\"") && !orphans.contains('#'), "{orphans}");
    let renames = [("in", "lines"), ("count", "n"), ("out", "file")];
    run(["lines", "n", "file"], &renames, 3).unwrap();
    // The options may stay: what is renamed already is left alone.
    bed.feed("a\n");
    run(["lines", "n", "file"], &renames, 3).unwrap();
    assert_eq!(bed.output(), ["a 1", "a 2", "a 3"]);
    assert!(run(["lines", "n", "file"], &[("none", "n2")], 3).unwrap_err().to_string().contains("no step \"none\""));
}

#[test]
fn what_is_said_of_no_step_is_a_mistake() {
    let bed = Bed::new();
    bed.feed("a 1\n");
    let say = |flow: &Flow<'_>| {
        flow.migrate("summ", |old: V1| Float { sum: f64::from(old.sum) });
        flow.encode_states("other", Codec::Postcard);
        flow.migrate("sum", |old: V1| Float { sum: f64::from(old.sum) });
    };
    let refused = bed.run(bed.config(2), say, add_v1).unwrap_err().to_string();
    for part in ["\"summ\"", "\"other\"", "no stateful step of this name"] {
        assert!(refused.contains(part), "{refused}");
    }
    let say = |flow: &Flow<'_>| flow.migrate("sum", |old: V1| Float { sum: f64::from(old.sum) });
    let refused = bed.run(bed.config(2), say, add_v1).unwrap_err().to_string();
    assert!(refused.contains("its migration makes") && refused.contains("Float"), "{refused}");
}
