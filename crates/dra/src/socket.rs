//! Unix sockets as a kubelet plugin needs them.
//!
//! A file left behind by a predecessor is replaced. On the way out a socket
//! file is removed only when it still is the one that was bound here: during a
//! rolling update the successor may have put its own in the same place.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use futures::{Stream, stream};
use tokio::net::{UnixListener, UnixStream};

use crate::authority::Readdressed;

/// Longest path of a Unix socket that the kernel takes (`sun_path` without its
/// terminating zero, unix(7)).
const MAX_PATH: usize = 107;

/// Pause after a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why a socket or its folder could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error("socket path {path} has more than {MAX_PATH} bytes: use a shorter kubelet root or driver name")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Adds action and path to an I/O error.
fn context(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { action, path, source }
}

/// Makes a folder with its parents; an existing one is left as it is.
pub(crate) fn make_folder(path: &Path) -> Result<(), SocketError> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(context("make folder", path))
}

/// Sets the permission bits of a file or folder.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), SocketError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(context("set permissions of", path))
}

/// The file of a bound socket, recognised by device and inode.
#[derive(Debug, Clone)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Whose the file at a socket's path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The socket that was bound here.
    Us,
    /// Something else.
    Other,
    /// There is none.
    Nobody,
}

impl SocketFile {
    /// Where the socket was bound.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whose the file at the path is now. A socket that is still listened on keeps
    /// its inode, so no other file is ever taken for it.
    pub(crate) fn owner(&self) -> io::Result<Owner> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(Owner::Us),
            Ok(_) => Ok(Owner::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Owner::Nobody),
            Err(error) => Err(error),
        }
    }

    /// Removes the file if it is still this socket's.
    pub(crate) fn remove(&self) {
        if !matches!(self.owner(), Ok(Owner::Us)) {
            tracing::debug!(path = %self.path.display(), "socket file is not ours any more");
        } else if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

/// Binds a socket for the file's owner only, in place of whatever is there.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), SocketError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::TooLong { path: path.to_owned() });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(context("remove stale socket", path)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(context("bind socket", path))?;
    set_mode(path, 0o600)?;
    let found = fs::symlink_metadata(path).map_err(context("look at socket", path))?;
    let file = SocketFile { path: path.to_owned(), identity: (found.dev(), found.ino()) };
    Ok((listener, file))
}

/// The connections of a listener. Never ends and never fails: a failed accept
/// is logged and tried again after a pause.
pub(crate) fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<Readdressed<UnixStream>>> + Send {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(Readdressed::new(connection)), listener)),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_file_is_replaced_by_a_socket_only_its_owner_can_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dra.sock");
        fs::write(&path, "left behind").unwrap();
        let (_listener, _file) = bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reg.sock");
        let (_old_listener, old) = bind(&path).unwrap();
        assert_eq!(old.owner().unwrap(), Owner::Us);
        let (_new_listener, new) = bind(&path).unwrap();
        assert_eq!((old.owner().unwrap(), new.owner().unwrap()), (Owner::Other, Owner::Us));
        old.remove();
        UnixStream::connect(&path).await.unwrap();
        new.remove();
        assert!(!path.exists());
        assert_eq!(new.owner().unwrap(), Owner::Nobody);
    }

    #[tokio::test]
    async fn a_path_that_does_not_fit_says_what_to_do() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = bind(&path).unwrap_err().to_string();
        assert!(error.contains("shorter kubelet root"), "{error}");
    }
}
