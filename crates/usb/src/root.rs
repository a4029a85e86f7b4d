//! Where sysfs is, and typed readers of its attributes.
//!
//! Everything that reads or writes sysfs, procfs or device nodes starts from a [`SysRoot`]: `/` on a node, a folder of plain
//! files in a test. An error names the file it is about.
//!
//! A write is one `write(2)` on a file that is there already: the kernel takes each write to an attribute as one command.
//! It may take 100 ms and more (drivers bind and unbind in it), so callers in async code use `spawn_blocking`.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use patchbay_core::device::BusAddress;
use rustix::io::Errno;

/// The folder below which `sys/`, `proc/` and `dev/` are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysRoot(PathBuf);

/// A folder of sysfs: a device, a driver, a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysDir(PathBuf);

/// What went wrong with a file of sysfs or procfs.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    /// It could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else than it should.
    #[error("{} holds {text:?}, which is not understood", .path.display())]
    Odd {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// It could not be written.
    #[error("cannot write {text:?} to {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        text: String,
        /// Why.
        source: io::Error,
    },
}

impl SysError {
    /// The kernel's error number, when there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => Errno::from_io_error(source),
            Self::Odd { .. } => None,
        }
    }

    /// Whether the file, or the device behind it, is not there (any more).
    pub fn is_gone(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR))
    }
}

impl SysRoot {
    /// A root other than `/`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// A path below the root, written without a leading slash: `proc/swaps`.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.join(relative)
    }

    /// A folder below the root.
    pub fn dir(&self, relative: impl AsRef<Path>) -> SysDir {
        SysDir(self.path(relative))
    }

    /// The folder of a USB device, by the kernel's name for its place.
    pub fn usb_device(&self, name: &str) -> SysDir {
        self.dir("sys/bus/usb/devices").join(name)
    }

    /// The folder of a driver of the USB bus.
    pub fn usb_driver(&self, name: &str) -> SysDir {
        self.dir("sys/bus/usb/drivers").join(name)
    }

    /// The device node of a USB device, as usbfs names it: `dev/bus/usb/001/004`.
    pub fn device_node(&self, address: BusAddress) -> PathBuf {
        self.path(format!("dev/bus/usb/{address}"))
    }
}

impl Default for SysRoot {
    /// The machine this process runs on.
    fn default() -> Self {
        Self::new("/")
    }
}

impl SysDir {
    /// A folder whose path is known.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A folder in it.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        Self(self.0.join(name))
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Its path without symbolic links: where the device really is in the tree of devices.
    ///
    /// # Errors
    /// The folder is not there.
    pub fn real(&self) -> Result<PathBuf, SysError> {
        fs::canonicalize(&self.0).map_err(|source| SysError::Read { path: self.0.clone(), source })
    }

    /// Which folder it is: of two that are made under one name, each has its own.
    ///
    /// # Errors
    /// The folder is not there.
    pub(crate) fn inode(&self) -> Result<u64, SysError> {
        let found = fs::metadata(&self.0).map_err(|source| SysError::Read { path: self.0.clone(), source })?;
        Ok(found.ino())
    }

    /// Whether it has an attribute or folder of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// The names in it, without order. Bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, SysError> {
        let failed = |source| SysError::Read { path: self.0.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// The last part of what a symbolic link points to (`driver` -> `usbip-host`); None when there is no such link.
    pub fn link(&self, name: &str) -> Option<String> {
        let target = fs::read_link(self.0.join(name)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// An attribute as text, without the white space around it. Bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// The attribute cannot be read.
    pub fn text(&self, attribute: &str) -> Result<String, SysError> {
        let path = self.0.join(attribute);
        match fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(source) => Err(SysError::Read { path, source }),
        }
    }

    /// An attribute as a value.
    ///
    /// # Errors
    /// The attribute cannot be read, or is no such value.
    pub fn parse<T: FromStr>(&self, attribute: &str) -> Result<T, SysError> {
        let text = self.text(attribute)?;
        text.parse().map_err(|_| SysError::Odd { path: self.0.join(attribute), text })
    }

    /// Gives an attribute a command.
    ///
    /// # Errors
    /// The attribute is not there, or the kernel refused; [`SysError::errno`] says which.
    pub fn write(&self, attribute: &str, text: &str) -> Result<(), SysError> {
        let path = self.0.join(attribute);
        let write = || fs::OpenOptions::new().write(true).truncate(true).open(&path)?.write_all(text.as_bytes());
        let done = write();
        done.map_err(|source| SysError::Write { path, text: text.to_owned(), source })
    }
}

/// An error and what caused it, on one line.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, SysDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = SysRoot::new(folder.path()).dir("");
        (folder, dir)
    }

    #[test]
    fn errors_name_the_file_and_say_whether_it_is_gone() {
        let (_folder, dir) = folder();
        let error = dir.text("speed").unwrap_err();
        assert!(explain(&error).contains("/speed: No such file"), "{}", explain(&error));
        assert!(error.is_gone());
        fs::write(dir.path().join("speed"), "fast\n").unwrap();
        let error = dir.parse::<u16>("speed").unwrap_err();
        assert!(error.to_string().ends_with("speed holds \"fast\", which is not understood"), "{error}");
        assert!(!error.is_gone());
    }

    #[test]
    fn a_write_makes_no_file_that_the_kernel_has_not_made() {
        let (_folder, dir) = folder();
        assert_eq!(dir.write("bind", "1-1").unwrap_err().errno(), Some(Errno::NOENT));
        fs::write(dir.path().join("bind"), "something longer").unwrap();
        dir.write("bind", "1-1").unwrap();
        assert_eq!(dir.text("bind").unwrap(), "1-1");
    }

    #[test]
    fn device_nodes_have_three_digits() {
        let node = SysRoot::default().device_node(BusAddress { bus: 2, device: 17 });
        assert_eq!(node, Path::new("/dev/bus/usb/002/017"));
    }
}
