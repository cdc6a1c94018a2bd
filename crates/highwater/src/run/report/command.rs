//! The command line that goes on, as it can be pasted into a shell.
//!
//! What comes out has no character in it that a terminal would obey, and reads back as the very
//! bytes that went in.

use crate::error::{Kept, printable};
use highwater_store::Epoch;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// The command that goes on. What was to be done once is not done again: it would undo what is kept.
pub(super) fn command(argv: &[OsString], kept: Option<Kept>) -> String {
    let begun = matches!(kept, Some(Kept::Upto(epoch)) if epoch > Epoch(0));
    let mut words = argv.iter();
    let mut shown = Vec::new();
    let mut options = begun;
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => options = false,
            b"--fresh" if options => continue,
            b"--rewind-sink" | b"--drop-state" if options => {
                words.next();
                continue;
            }
            word if options && (word.starts_with(b"--rewind-sink=") || word.starts_with(b"--drop-state=")) => continue,
            _ => {}
        }
        shown.push(quoted(word));
    }
    shown.join(" ")
}

/// A word as a shell reads it back.
pub(super) fn quoted(word: &OsStr) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.bytes().all(|byte| plain(&byte)) => text.to_owned(),
        Some(text) if printable(text) == text => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let mut shown = "$'".to_owned();
            for byte in word.as_bytes() {
                let _ = match byte {
                    b'\'' | b'\\' => write!(shown, "\\{}", char::from(*byte)),
                    b' '..=b'~' => write!(shown, "{}", char::from(*byte)),
                    byte => write!(shown, "\\x{byte:02x}"),
                };
            }
            shown + "'"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_command_that_goes_on_can_be_pasted() {
        let words = ["cart join", "it's", "a\nb", "", "$HOME", "--output=out,1"].map(OsString::from);
        assert_eq!(command(&words, None), "'cart join' 'it'\\''s' $'a\\x0ab' '' '$HOME' --output=out,1");
        let foreign: OsString = std::os::unix::ffi::OsStringExt::from_vec(b"a\xff'".to_vec());
        assert_eq!(quoted(&foreign), "$'a\\xff\\''");
        let shell = |script: String| std::process::Command::new("bash").args(["-c", &script]).output().unwrap().stdout;
        assert_eq!(shell(format!("printf %s {}", quoted(&foreign))), foreign.as_bytes());
    }

    /// `--fresh` once more would throw away what is kept.
    #[test]
    fn what_was_to_be_done_once_is_not_done_again() {
        let line = "p in --fresh -r st --rewind-sink out --drop-state=old --drop-state older -w 2 -- --fresh";
        assert_eq!(command(&argv(line), Some(Kept::Upto(Epoch(3)))), "p in -r st -w 2 -- --fresh");
        assert_eq!(command(&argv(line), Some(Kept::Upto(Epoch(0)))), line, "nothing is kept that it could throw away");
    }
}
