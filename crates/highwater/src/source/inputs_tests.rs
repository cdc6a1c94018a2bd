//! Which inputs are found, under which names, and which are refused.

use super::*;
use crate::helpers::Helpers;
use crate::source::files::{Found, Input};
use std::io::Write;
use std::thread;

const OPTIONS: ReadOptions =
    ReadOptions { line_bytes_max: 100, accept_new_input: false, recoverable: false, helpers: Helpers::NONE };
const RECOVERABLE: ReadOptions = ReadOptions { recoverable: true, ..OPTIONS };

/// A directory with empty files of these names.
fn dir(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::write(dir.path().join(file), "").unwrap();
    }
    dir
}

fn names(inputs: impl Into<Inputs>, options: &ReadOptions) -> Result<Vec<String>, SourceError> {
    let mut names = Vec::new();
    inputs.into().names(options, Watch::Once, &mut |name| names.push(name.to_owned())).map(|()| names)
}

/// The names found, relative to the directory.
fn found(dir: &tempfile::TempDir, inputs: &[&str]) -> Vec<String> {
    let paths: Vec<PathBuf> = inputs.iter().map(|input| dir.path().join(input)).collect();
    let names = names(paths, &RECOVERABLE).unwrap();
    let prefix = format!("{}/", dir.path().display());
    names.iter().map(|name| name.strip_prefix(&prefix).unwrap().to_owned()).collect()
}

fn refused(input: impl Into<Inputs>, options: &ReadOptions) -> String {
    let error = names(input, options).unwrap_err();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[test]
fn inputs_are_made_of_all_that_names_files() {
    let path = PathBuf::from("a/b");
    let many = vec![path.clone(), path.clone()];
    assert_eq!(Inputs::from(&path).0.len(), 1, "one path is not a list of its parts");
    assert_eq!(Inputs::from(path.as_path()).0.len(), 1);
    assert_eq!((Inputs::from("a").0.len(), Inputs::from(&"a".to_owned()).0.len()), (1, 1));
    assert_eq!((Inputs::from(&many).0.len(), Inputs::from(&many[..]).0.len()), (2, 2));
    assert_eq!((Inputs::from(["a", "b"]).0.len(), Inputs::from(&["a", "b"]).0.len()), (2, 2));
}

#[test]
fn a_name_is_the_path_without_detours() {
    let name = |path: &str| path_name(Path::new(path)).unwrap();
    assert_eq!((name("./a"), name("a//b/./c/"), name("/a/../b")), ("a".into(), "a/b/c".into(), "/a/../b".into()));
    assert_eq!((name("-"), name("./-"), name("./.")), ("-".into(), "./-".into(), ".".into()));
    let foreign: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    assert!(path_name(Path::new(&foreign)).is_err());
}

#[test]
fn patterns_find_files_in_order_and_each_once() {
    let dir = dir(&["b.json", "a.json", "c.txt", ".hidden.json", "x[1].json"]);
    fs::create_dir(dir.path().join("d.json")).unwrap();
    assert_eq!(found(&dir, &["*.json"]), ["a.json", "b.json", "x[1].json"]);
    assert_eq!(found(&dir, &["c.txt", "*.json", "a.json", "./c.txt"]), ["c.txt", "a.json", "b.json", "x[1].json"]);
    assert_eq!(found(&dir, &["x[1].json"]), ["x[1].json"], "a file is itself, whatever its name looks like");
    assert_eq!(found(&dir, &["[ab].json"]), ["a.json", "b.json"]);
}

#[test]
fn what_is_not_there_or_cannot_be_read_is_named() {
    let dir = dir(&["a.json"]);
    let path = |name: &str| dir.path().join(name);
    assert!(refused(path("none.json"), &OPTIONS).contains("none.json: No such file"));
    assert!(refused(path("*.csv"), &OPTIONS).contains("*.csv: the pattern matches no file"));
    assert!(refused(path("[.csv"), &OPTIONS).contains("[.csv"));
    assert!(refused(dir.path(), &OPTIONS).contains("it is a directory; name its files"));
    assert!(refused(Vec::<PathBuf>::new(), &OPTIONS).contains("no file is named"));
}

/// A log that is being rotated when it is asked for, and is back when a pattern finds it, is one.
#[test]
fn a_log_that_comes_back_while_it_is_listed_is_one() {
    let dir = dir(&[]);
    let path = dir.path().join("a.log");
    let (watch, names) = (Watch::Follow, Names::default());
    let mut listed = Listed { options: &OPTIONS, watch, names, files: Vec::new(), devices: Vec::new() };
    listed.take(&path, false).unwrap();
    fs::write(&path, "").unwrap();
    listed.take(&path, true).unwrap();
    let mut names = Vec::new();
    listed.each_once(&mut |name| names.push(name.to_owned())).unwrap();
    assert_eq!(names, [path.to_str().unwrap()]);
}

#[test]
fn one_file_under_two_names_is_refused() {
    let dir = dir(&["a.json"]);
    std::os::unix::fs::symlink(dir.path().join("a.json"), dir.path().join("b.json")).unwrap();
    let text = refused(dir.path().join("*.json"), &OPTIONS);
    assert!(text.contains("a.json and ") && text.contains("b.json are one file"), "{text}");
}

#[test]
fn a_pipe_is_read_without_waiting_and_refused_with_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let text = refused(&path, &RECOVERABLE);
    assert!(text.contains("pipe cannot be read again after a crash") && text.contains("without -r"), "{text}");
    assert!(Inputs::from("-").unrecoverable().unwrap().starts_with("stdin cannot be read again"));
    assert!(Inputs::from(&path).unrecoverable().is_none(), "what a path is, is known when it is looked at");

    let names = names(&path, &OPTIONS).unwrap();
    let mut input = Input::open(&names[0], None).unwrap();
    let mut buffer = [0; 3];
    assert_eq!(input.read(&mut buffer).unwrap(), Found::Nothing, "there is no writer yet");
    let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"hello").unwrap();
    drop(writer);
    let mut all = Vec::new();
    loop {
        match input.read(&mut buffer).unwrap() {
            Found::Bytes(bytes) => all.extend_from_slice(&buffer[..bytes]),
            Found::Nothing => thread::yield_now(),
            Found::End => break,
        }
    }
    assert_eq!(all, b"hello");
}
