//! The files of a node's certificate, in the agent's folder.
//!
//! | file | content |
//! |---|---|
//! | `identity.pem` | the private key and its certificate; one file, so that they always belong together |
//! | `ca.crt` | the authorities that are believed |
//! | `next.key` | a private key for which a certificate is being asked |
//!
//! Keys are made here and never leave the node; only root can read them. Each is used for one certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use patchbay_dra::atomic_file;
use patchbay_link::PrivateKey;

/// What is in the files. Others than the agent may have written them: nothing in them is taken for granted.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Key and certificate, PEM.
    pub(super) pair: Option<String>,
    /// The authorities, PEM.
    pub(super) authorities: Option<String>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pair = self.pair.as_ref().map(|_| "secret");
        f.debug_struct("Kept").field("pair", &pair).field("authorities", &self.authorities).finish()
    }
}

/// The files.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pair: PathBuf,
    authorities: PathBuf,
    next: PathBuf,
}

impl Files {
    /// The files in a folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self { pair: folder.join("identity.pem"), authorities: folder.join("ca.crt"), next: folder.join("next.key") }
    }

    /// What there is. A file that cannot be read is none: its content is asked for again.
    pub(super) fn read(&self) -> Kept {
        let read = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "file ignored");
                None
            }
        };
        Kept { pair: read(&self.pair), authorities: read(&self.authorities) }
    }

    /// The key to ask for a certificate for: the one that a former try has left, or another one. `present` is what is in use.
    ///
    /// # Errors
    /// It cannot be made, or not written.
    pub(super) fn next_key(&self, present: Option<&str>) -> Result<PrivateKey, String> {
        let left = fs::read_to_string(&self.next).ok().and_then(|pem| PrivateKey::parse(&pem).ok());
        if let Some(key) = left.filter(|key| !present.is_some_and(|pair| pair.contains(key.pem().trim()))) {
            return Ok(key);
        }
        let key = PrivateKey::make().map_err(|error| format!("no key can be made: {error}"))?;
        let written = atomic_file::replace(&self.next, key.pem().as_bytes(), 0o600);
        written.map_err(|error| format!("{}: {error}", self.next.display()))?;
        Ok(key)
    }

    /// Forgets the key that was asked for.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn discard(&self) -> io::Result<()> {
        atomic_file::remove(&self.next)
    }

    /// Keeps a key with its certificate: it is no longer one to ask for.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn accept(&self, pair: &str) -> io::Result<()> {
        atomic_file::replace(&self.pair, pair.as_bytes(), 0o600)?;
        self.discard()
    }

    /// Keeps the authorities.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn believe(&self, authorities: &str) -> io::Result<()> {
        atomic_file::replace(&self.authorities, authorities.as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_asked_for_until_it_has_a_certificate_and_never_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path());
        assert_eq!(files.read(), Kept::default());
        let key = files.next_key(None).unwrap();
        // An agent that dies meanwhile goes on with it.
        assert_eq!(files.next_key(None).unwrap().public(), key.public());
        let pair = format!("{}certificate", key.pem());
        // It dies after the certificate is kept, and before the key is forgotten.
        atomic_file::replace(&files.pair, pair.as_bytes(), 0o600).unwrap();
        let next = files.next_key(files.read().pair.as_deref()).unwrap();
        assert_ne!(next.public(), key.public());
        files.accept(&pair).unwrap();
        files.believe("authorities").unwrap();
        assert_eq!(files.read(), Kept { pair: Some(pair), authorities: Some("authorities".to_owned()) });
        assert!(!files.next.exists());
    }

    #[test]
    fn keys_are_for_root_alone_and_spoilt_ones_are_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path());
        fs::write(&files.next, "garbage").unwrap();
        let key = files.next_key(None).unwrap();
        files.accept(&key.pem()).unwrap();
        files.next_key(None).unwrap();
        for path in [&files.pair, &files.next] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }
}
