//! The key that the processes of a cluster share, and the codes made with it.
//!
//! Refuses a file that others may read. The key is never logged and never on a command line.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Shortest key: less is guessed.
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 4096;

/// A shared key; empty where none is needed.
#[derive(Clone, Default)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// Reads a key file.
    pub(crate) fn read(path: &Path) -> Result<Key, String> {
        let shown = path.display();
        let file = File::open(path).map_err(|error| format!("cannot read the key {shown}: {error}"))?;
        let meta = file.metadata().map_err(|error| format!("cannot read the key {shown}: {error}"))?;
        if meta.mode() & 0o077 != 0 {
            let mode = meta.mode() & 0o777;
            return Err(format!("others may read the key {shown} (mode {mode:04o}): chmod 600 {shown}"));
        }
        let mut key = Vec::new();
        let read = file.take(KEY_BYTES_MAX as u64 + 1).read_to_end(&mut key);
        read.map_err(|error| format!("cannot read the key {shown}: {error}"))?;
        while key.last().is_some_and(u8::is_ascii_whitespace) {
            key.pop();
        }
        match key.len() {
            KEY_BYTES_MIN..=KEY_BYTES_MAX => Ok(Key(key)),
            bytes => Err(format!(
                "the key {shown} has {bytes} bytes: {KEY_BYTES_MIN} to {KEY_BYTES_MAX} are needed (openssl rand -hex 32)"
            )),
        }
    }

    pub(super) fn is_given(&self) -> bool {
        !self.0.is_empty()
    }

    /// The code of what both sides have said, for one role.
    pub(super) fn code(&self, role: &[u8], said: [&[u8]; 2]) -> Vec<u8> {
        self.mac(role, said).finalize().into_bytes().to_vec()
    }

    /// Whether `code` is right; takes the same time however wrong it is.
    pub(super) fn fits(&self, role: &[u8], said: [&[u8]; 2], code: &[u8]) -> bool {
        self.mac(role, said).verify_slice(code).is_ok()
    }

    /// Whether this is the key; takes the same time however wrong it is.
    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        self.fits(b"shown", [shown, b""], &self.code(b"shown", [&self.0, b""]))
    }

    fn mac(&self, role: &[u8], said: [&[u8]; 2]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key may have any length");
        for part in [role, said[0], said[1]] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_for_its_owner_alone_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "0123456789abcdef0123\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(Key::read(&path).err().unwrap().contains("0640"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let key = Key::read(&path).unwrap();
        let code = key.code(b"a", [b"x", b"y"]);
        assert!(key.fits(b"a", [b"x", b"y"], &code));
        for (role, said) in [(&b"b"[..], [&b"x"[..], b"y"]), (b"a", [b"xy", b""]), (b"a", [b"y", b"x"])] {
            assert!(!key.fits(role, said, &code));
        }
        assert!(!Key::default().fits(b"a", [b"x", b"y"], &code));
        fs::write(&path, "short\n").unwrap();
        assert!(Key::read(&path).err().unwrap().contains("5 bytes"));
        assert!(Key::read(&dir.path().join("none")).is_err());
    }
}
