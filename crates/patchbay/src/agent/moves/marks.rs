//! The marks that tell the engine in a pod where its machine is: see [`crate::vm::marks`].
//!
//! The folder is a volume of the pod, so whoever runs in it may have put anything there. No link is followed, nothing is opened
//! that was there before, and what is written is empty: a pod can only fool itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use patchbay_api::migration::run_folder;
use patchbay_core::names::Uid;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// The folder of a pod that its engine reads.
///
/// # Errors
/// It is not there.
fn open(pods: &Path, pod: &Uid) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(pods.join(pod.as_str()).join(run_folder()), flags, Mode::empty())?)
}

/// Whether a mark is there.
pub(super) fn is_there(pods: &Path, pod: &Uid, mark: &str) -> bool {
    let Ok(folder) = open(pods, pod) else { return false };
    rustix::fs::statat(&folder, mark, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Writes a mark; it is on the disk when this returns.
///
/// # Errors
/// In words.
pub(super) fn write(pods: &Path, pod: &Uid, mark: &str) -> Result<(), String> {
    let write = || {
        let folder = open(pods, pod)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder, mark, flags, Mode::from_raw_mode(0o644)) {
            Ok(file) => rustix::fs::fsync(file)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(rustix::fs::fsync(folder)?)
    };
    write().map_err(|error: io::Error| {
        format!("cannot tell the pod's engine that the virtual machine has {mark}: {error}")
    })
}

/// Takes a mark back.
///
/// # Errors
/// In words.
pub(super) fn remove(pods: &Path, pod: &Uid, mark: &str) -> Result<(), String> {
    let remove = || {
        let folder = open(pods, pod)?;
        match rustix::fs::unlinkat(&folder, mark, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(rustix::fs::fsync(folder)?),
            Err(errno) => Err(errno.into()),
        }
    };
    remove().map_err(|error: io::Error| format!("cannot tell the pod's engine that the virtual machine stays: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::marks::LEFT;

    #[test]
    fn marks_are_written_once_and_taken_back_and_never_follow_a_link() {
        let pods = tempfile::tempdir().unwrap();
        let uid = Uid::new("u1");
        assert!(!is_there(pods.path(), &uid, LEFT));
        assert!(write(pods.path(), &uid, LEFT).unwrap_err().contains("No such file"));
        let folder = pods.path().join("u1").join(run_folder());
        std::fs::create_dir_all(&folder).unwrap();
        write(pods.path(), &uid, LEFT).unwrap();
        write(pods.path(), &uid, LEFT).unwrap();
        assert!(is_there(pods.path(), &uid, LEFT) && folder.join("left").is_file());
        remove(pods.path(), &uid, LEFT).unwrap();
        remove(pods.path(), &uid, LEFT).unwrap();
        assert!(!is_there(pods.path(), &uid, LEFT));

        let victim = pods.path().join("victim");
        std::os::unix::fs::symlink(&victim, folder.join("left")).unwrap();
        write(pods.path(), &uid, LEFT).unwrap();
        assert!(is_there(pods.path(), &uid, LEFT) && !victim.exists());
        remove(pods.path(), &uid, LEFT).unwrap();
        assert!(!is_there(pods.path(), &uid, LEFT));

        let elsewhere = pods.path().join("u2").join("volumes/kubernetes.io~empty-dir");
        std::fs::create_dir_all(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&folder, elsewhere.join("run")).unwrap();
        assert!(write(pods.path(), &Uid::new("u2"), LEFT).is_err());
    }
}
