//! Opening a monitor socket that somebody else put there.
//!
//! The folder belongs to a pod, so its owner could replace the socket by a link to another one between looking and
//! connecting. Therefore the socket's inode is opened first (`O_PATH | O_NOFOLLOW`), checked, and then connected to
//! through `/proc/self/fd`, which names that inode and nothing else. The same trick lifts the limit of 107 bytes that
//! `sun_path` has (unix(7)); the path of a pod's emptyDir comes close to it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::UnixStream;

use crate::QmpError;

/// Opens the folder of `socket` and connects to the socket in it.
pub(crate) async fn connect(socket: &Path) -> Result<UnixStream, QmpError> {
    let open = |source: io::Error| QmpError::Open { path: socket.to_owned(), source: Arc::new(source) };
    let name = socket.file_name().ok_or_else(|| open(io::ErrorKind::InvalidInput.into()))?;
    let folder = socket.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(|errno| open(errno.into()))?;
    let inode = inode(rustix::fd::AsFd::as_fd(&folder), Path::new(name), socket)?;
    dial(&inode, socket).await
}

/// Connects to the socket `name` in an open folder.
pub(crate) async fn connect_at(folder: BorrowedFd<'_>, name: &str) -> Result<UnixStream, QmpError> {
    let shown = PathBuf::from(name);
    if name.contains('/') {
        return Err(QmpError::Open { path: shown, source: Arc::new(io::ErrorKind::InvalidInput.into()) });
    }
    let inode = inode(folder, Path::new(name), &shown)?;
    dial(&inode, &shown).await
}

/// The socket itself, never what a link of that name points to.
fn inode(folder: BorrowedFd<'_>, name: &Path, shown: &Path) -> Result<OwnedFd, QmpError> {
    let open = |errno: rustix::io::Errno| QmpError::Open { path: shown.to_owned(), source: Arc::new(errno.into()) };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inode = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(open)?;
    let stat = rustix::fs::fstat(&inode).map_err(open)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
        Ok(inode)
    } else {
        Err(QmpError::NotASocket { path: shown.to_owned() })
    }
}

/// Connects to an open socket inode. Never blocks: a full queue is an error (`EAGAIN`).
async fn dial(inode: &OwnedFd, shown: &Path) -> Result<UnixStream, QmpError> {
    UnixStream::connect(format!("/proc/self/fd/{}", inode.as_raw_fd()))
        .await
        .map_err(|source| QmpError::Connect { path: shown.to_owned(), source: Arc::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_link_in_the_place_of_the_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(folder.path().join("real.sock")).unwrap();
        std::os::unix::fs::symlink("real.sock", folder.path().join("qmp.sock")).unwrap();
        let refused = connect(&folder.path().join("qmp.sock")).await;
        assert!(matches!(refused, Err(QmpError::NotASocket { .. })), "{refused:?}");
        connect(&folder.path().join("real.sock")).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_or_nothing_in_the_place_of_the_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("qmp.sock"), "").unwrap();
        assert!(matches!(connect(&folder.path().join("qmp.sock")).await, Err(QmpError::NotASocket { .. })));
        assert!(matches!(connect(&folder.path().join("none")).await, Err(QmpError::Open { .. })));
    }

    #[tokio::test]
    async fn a_fifo_in_the_place_of_the_socket_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        // Whoever opened it like a file would wait for the other end for ever.
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("qmp.sock"), Mode::RUSR | Mode::WUSR).unwrap();
        let socket = folder.path().join("qmp.sock");
        let refused = tokio::time::timeout(std::time::Duration::from_secs(5), connect(&socket)).await.unwrap();
        assert!(matches!(refused, Err(QmpError::NotASocket { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("theirs")).unwrap();
        let _listener = UnixListener::bind(folder.path().join("theirs/qmp.sock")).unwrap();
        std::os::unix::fs::symlink("theirs", folder.path().join("run")).unwrap();
        assert!(matches!(connect(&folder.path().join("run/qmp.sock")).await, Err(QmpError::Open { .. })));
        connect(&folder.path().join("theirs/qmp.sock")).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_longer_than_sun_path_works_both_ways() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("x".repeat(90)).join("y".repeat(90));
        std::fs::create_dir_all(&deep).unwrap();
        let folder = rustix::fs::open(&deep, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let _listener = UnixListener::bind(format!("/proc/self/fd/{}/qmp.sock", folder.as_raw_fd())).unwrap();
        connect(&deep.join("qmp.sock")).await.unwrap();
        connect_at(folder.as_fd(), "qmp.sock").await.unwrap();
        assert!(matches!(connect_at(folder.as_fd(), "../qmp.sock").await, Err(QmpError::Open { .. })));
    }
}
