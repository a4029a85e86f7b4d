//! A tree of files that exists only as a description: what goes into an initial ramdisk, an image layer or a disk.
//!
//! Paths are relative (`usr/bin/runc`), the folders above a path are there by themselves, everything belongs to root
//! and has no time, and the order is that of the paths: the same tree always gives the same bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::command::Command;

/// The tree.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// One thing in a tree.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a thing in a tree is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file with this content.
    Bytes(Vec<u8>),
    /// A file with the content of a file of the host.
    Copy(PathBuf),
    /// A symbolic link to this target.
    Link(String),
    /// A character device.
    Device {
        /// Its driver.
        major: u32,
        /// Its number there.
        minor: u32,
    },
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A folder.
    pub fn folder(&mut self, path: &str, mode: u32) -> &mut Self {
        self.insert(path, mode, Kind::Folder)
    }

    /// A file with the given content.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> &mut Self {
        self.insert(path, mode, Kind::Bytes(content.into()))
    }

    /// A file with the content of a file of the host.
    pub fn copy(&mut self, path: &str, mode: u32, source: &Path) -> &mut Self {
        self.insert(path, mode, Kind::Copy(source.to_owned()))
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(path, 0o777, Kind::Link(target.to_owned()))
    }

    /// A character device.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> &mut Self {
        self.insert(path, mode, Kind::Device { major, minor })
    }

    /// A program of the host and the shared libraries it needs, as the host's loader finds them.
    ///
    /// # Errors
    /// If the libraries cannot be listed or one is not installed.
    pub fn program(&mut self, path: &str, source: &Path, log: &Path) -> Result<&mut Self> {
        self.copy(path, 0o755, source);
        // A static program makes ldd fail with a message instead of an empty list.
        let script = "ldd -- \"$1\" 2>&1 || true";
        let list = Command::new("sh", log).args(["-c", script, "sh"]).args([source]).text()?;
        for library in libraries(&list).with_context(|| format!("libraries of {}", source.display()))? {
            self.copy(library.trim_start_matches('/'), 0o755, Path::new(library));
        }
        Ok(self)
    }

    /// The static busybox of the host at `bin/busybox`, and a link for each of its programs there.
    ///
    /// # Errors
    /// If busybox cannot be run.
    pub fn busybox(&mut self, busybox: &Path, log: &Path) -> Result<&mut Self> {
        let programs = Command::new(busybox, log).args(["--list"]).text()?;
        for program in programs.lines().filter(|name| *name != "busybox") {
            self.link(&format!("bin/{program}"), "busybox");
        }
        Ok(self.copy("bin/busybox", 0o755, busybox))
    }

    /// Everything in the tree: a folder comes before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// A text that is the same only for the same tree. Files of the host count by size and time, not by content:
    /// that is quick, and they come from a package manager or a compiler.
    ///
    /// # Errors
    /// If a file of the host cannot be seen.
    pub fn describe(&self) -> Result<String> {
        let mut text = String::new();
        for (path, entry) in self.entries() {
            let content = match &entry.kind {
                Kind::Copy(source) => {
                    let file = fs::metadata(source).with_context(|| format!("cannot see {}", source.display()))?;
                    format!("{} {} {}.{}", source.display(), file.len(), file.mtime(), file.mtime_nsec())
                }
                Kind::Bytes(bytes) => format!("sha256 {}", hex(&Sha256::digest(bytes))),
                other => format!("{other:?}"),
            };
            let _ = writeln!(text, "{path} {:o} {content}", entry.mode);
        }
        Ok(text)
    }

    /// Makes the tree in an existing folder. Owners are whoever does it.
    ///
    /// # Errors
    /// If something cannot be read or made; devices cannot.
    pub fn write_to(&self, folder: &Path) -> Result<()> {
        for (path, entry) in self.entries() {
            let to = folder.join(path);
            entry.make(&to).with_context(|| format!("cannot make {}", to.display()))?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, mode: u32, kind: Kind) -> &mut Self {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.entries.entry(parent.to_owned()).or_insert(Entry { mode: 0o755, kind: Kind::Folder });
            above = parent;
        }
        self.entries.insert(path.to_owned(), Entry { mode, kind });
        self
    }
}

impl Entry {
    /// The length of its content: that of a file, or of a link's target.
    ///
    /// # Errors
    /// If a file of the host cannot be seen.
    pub fn size(&self) -> Result<u64> {
        Ok(match &self.kind {
            Kind::Folder | Kind::Device { .. } => 0,
            Kind::Bytes(bytes) => u64::try_from(bytes.len())?,
            Kind::Link(target) => u64::try_from(target.len())?,
            Kind::Copy(source) => {
                fs::metadata(source).with_context(|| format!("cannot see {}", source.display()))?.len()
            }
        })
    }

    /// Writes a file's content, exactly `size` bytes of it.
    ///
    /// # Errors
    /// If it cannot be read or written, or changes size meanwhile.
    pub fn write_content(&self, size: u64, out: &mut impl Write) -> Result<()> {
        match &self.kind {
            Kind::Bytes(bytes) => out.write_all(bytes)?,
            Kind::Copy(source) => {
                let file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
                if io::copy(&mut file.take(size), out)? != size {
                    bail!("{} became shorter while it was read", source.display());
                }
            }
            Kind::Folder | Kind::Link(_) | Kind::Device { .. } => {}
        }
        Ok(())
    }

    fn make(&self, to: &Path) -> Result<()> {
        match &self.kind {
            Kind::Folder => fs::create_dir_all(to)?,
            Kind::Bytes(bytes) => fs::write(to, bytes)?,
            Kind::Copy(source) => {
                fs::copy(source, to).with_context(|| format!("cannot copy {}", source.display()))?;
            }
            Kind::Link(target) => return Ok(symlink(target, to)?),
            Kind::Device { .. } => bail!("devices are only made by the kernel"),
        }
        Ok(fs::set_permissions(to, Permissions::from_mode(self.mode))?)
    }
}

/// The absolute paths in what `ldd` prints.
fn libraries(list: &str) -> Result<Vec<&str>> {
    if let Some(line) = list.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", line.trim());
    }
    Ok(list.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_above_a_file_come_before_it() {
        let mut tree = Tree::new();
        tree.file("a/b/c", 0o644, "x").folder("a", 0o700);
        let paths: Vec<_> = tree.entries().map(|(path, entry)| (path, entry.mode)).collect();
        assert_eq!(paths, [("a", 0o700), ("a/b", 0o755), ("a/b/c", 0o644)]);
    }

    #[test]
    fn libraries_are_read_from_all_forms_of_line() {
        let list = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)";
        assert_eq!(libraries(list).unwrap(), ["/lib/x/libc.so.6", "/lib64/ld-linux.so.2"]);
        assert!(libraries("\tstatically linked").unwrap().is_empty());
        assert!(libraries("\tlibgone.so => not found").unwrap_err().to_string().contains("libgone.so"));
    }

    #[test]
    fn a_tree_is_made_with_its_modes_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.file("bin/run", 0o750, "#!/bin/sh\n").link("bin/again", "run").folder("tmp", 0o1777);
        tree.write_to(folder.path()).unwrap();
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("bin/run"), mode("bin"), mode("tmp")), (0o750, 0o755, 0o1777));
        assert_eq!(fs::read_to_string(folder.path().join("bin/again")).unwrap(), "#!/bin/sh\n");
    }
}
