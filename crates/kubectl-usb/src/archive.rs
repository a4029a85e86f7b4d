//! A file `.tar.gz`, written as its parts come.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

/// Nobody but its owner reads it, nor what is unpacked from it.
const MODE: u32 = 0o600;

/// An archive. Unless it is closed, nothing is left of it.
pub(crate) struct Archive {
    path: PathBuf,
    folder: String,
    /// Seconds of the epoch: the time of all files in it.
    time: u64,
    tar: Option<Builder<GzEncoder<File>>>,
}

impl Archive {
    /// Begins a new file; all that is in it is in one folder.
    ///
    /// # Errors
    /// When there is such a file already, or it cannot be made.
    pub(crate) fn create(path: &Path, folder: &str, time: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
        let tar = Some(Builder::new(GzEncoder::new(file, Compression::default())));
        Ok(Self { path: path.to_owned(), folder: folder.to_owned(), time, tar })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let Some(tar) = &mut self.tar else { return Ok(()) };
        let mut header = Header::new_gnu();
        header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
        header.set_mode(MODE);
        header.set_mtime(self.time);
        tar.append_data(&mut header, format!("{}/{name}", self.folder), content)
    }

    /// Completes the file: how long it is, in bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn close(mut self) -> io::Result<u64> {
        let Some(tar) = self.tar.as_mut() else { return Ok(0) };
        tar.finish()?;
        tar.get_mut().try_finish()?;
        let file = tar.get_mut().get_mut();
        file.flush()?;
        let length = file.metadata()?.len();
        self.tar = None;
        Ok(length)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if self.tar.take().is_some() {
            // What cannot be removed is a file that cannot be read, and says so itself.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("kubectl-usb-{}-{name}.tar.gz", std::process::id()))
    }

    #[test]
    fn what_was_added_is_read_back() {
        let path = path("whole");
        let mut archive = Archive::create(&path, "dump", 7).unwrap();
        let long = format!("logs/{}/x.log", "a".repeat(150));
        archive.add("README.txt", b"hello").unwrap();
        archive.add(&long, b"world").unwrap();
        let length = archive.close().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&path).unwrap()));
        let files: Vec<_> = read
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect();
        let file = |name: &str, text: &str| (format!("dump/{name}"), text.to_owned());
        assert_eq!(files, [file("README.txt", "hello"), file(&long, "world")]);
        assert!(Archive::create(&path, "dump", 7).is_err(), "a file that is there is not written over");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn of_an_archive_that_was_not_completed_nothing_is_left() {
        let path = path("broken");
        let mut archive = Archive::create(&path, "dump", 7).unwrap();
        archive.add("README.txt", b"hello").unwrap();
        drop(archive);
        assert!(!path.exists());
    }
}
