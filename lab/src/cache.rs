//! The cache folder: everything that is built once and used by every later run.
//!
//! All of it is under one folder, `$PATCHBAY_CACHE` or `~/.cache/patchbay`:
//!
//! ```text
//! <name>-<key>/   an entry: finished, never changed again
//! .<name>-<key>/  an entry being built; worthless, removed before the next attempt
//! lock/<name>     held while an entry of that name is built
//! log/<name>.log  what the programs that built it said
//! go/, apt/       folders other programs keep their own caches in
//! ```
//!
//! The key is a hash of everything the result depends on, so an entry is never stale. A finished entry appears by
//! one rename; a run that is killed leaves no half-made one. Of each name the two used last are kept (the present
//! one and the one of the branch next door).

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::progress;

/// Hexadecimal digits of an entry's key.
const KEY_LENGTH: usize = 12;
/// Finished entries of one name that are kept.
const KEPT: usize = 2;

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this user, made if it does not exist.
    ///
    /// # Errors
    /// If neither `PATCHBAY_CACHE` nor `HOME` is set, or the folder cannot be made.
    pub fn open() -> Result<Self> {
        let root = match (env::var_os("PATCHBAY_CACHE"), env::var_os("HOME")) {
            (Some(folder), _) if !folder.is_empty() => PathBuf::from(folder),
            (_, Some(home)) if !home.is_empty() => Path::new(&home).join(".cache/patchbay"),
            _ => bail!("no place for the cache: set PATCHBAY_CACHE to a folder with 16 GB of room"),
        };
        Self::at(&root)
    }

    /// A cache in `root`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn at(root: &Path) -> Result<Self> {
        for folder in ["lock", "log"] {
            fs::create_dir_all(root.join(folder))
                .with_context(|| format!("cannot make the cache folder {}", root.display()))?;
        }
        // Absolute, because builders run programs in other folders.
        let root = root.canonicalize().with_context(|| format!("cannot open the cache folder {}", root.display()))?;
        Ok(Self { root })
    }

    /// A folder that some other program keeps its own cache in.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// The log file of the programs that build `name`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// The folder of the finished entry `name` for these inputs. If there is none, `build` fills an empty folder that
    /// becomes the entry. Two runs never build entries of one name at the same time.
    ///
    /// # Errors
    /// If `build` fails (nothing is kept) or the cache folder cannot be written.
    pub fn entry(&self, name: &str, inputs: Inputs, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let key = inputs.key();
        let entry = self.root.join(format!("{name}-{key}"));
        if entry.is_dir() {
            mark_used(&entry);
            return Ok(entry);
        }
        let _lock = self.lock(name)?;
        if entry.is_dir() {
            // Another run has built it while this one waited.
            return Ok(entry);
        }
        let partial = self.root.join(format!(".{name}-{key}"));
        remove_folder(&partial)?;
        remove_file(&self.log(name))?;
        fs::create_dir(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        let built = build(&partial).and_then(|()| {
            fs::rename(&partial, &entry)
                .with_context(|| format!("cannot rename {} to {}", partial.display(), entry.display()))
        });
        if let Err(error) = built {
            remove_folder(&partial)?;
            return Err(error);
        }
        mark_used(&entry);
        for old in self.finished(name)?.into_iter().skip(KEPT) {
            remove_folder(&old)?;
        }
        Ok(entry)
    }

    /// The finished entries of `name`, the one used last first.
    ///
    /// # Errors
    /// If the cache folder cannot be read.
    pub fn finished(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.root).with_context(|| format!("cannot list {}", self.root.display()))? {
            let file = file?;
            if is_entry_of(name, &file.file_name().to_string_lossy()) {
                let used = file.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                found.push((used, file.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().rev().map(|(_, path)| path).collect())
    }

    /// Holds the lock of `name` until the file is dropped.
    ///
    /// # Errors
    /// If the lock file cannot be opened or locked.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join("lock").join(name);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            progress::say(&format!("  waiting for another run that makes {name}"));
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// Everything a result depends on, hashed.
#[derive(Debug, Clone, Default)]
pub struct Inputs(Sha256);

impl Inputs {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value under a label: a version, a command line, the path of another entry.
    #[must_use]
    pub fn text(mut self, label: &str, value: &str) -> Self {
        self.add(label, value.as_bytes());
        self
    }

    /// Adds a file's content.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn file(mut self, path: &Path) -> Result<Self> {
        let mut content = Sha256::new();
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        io::copy(&mut file, &mut content).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.add(&name, &content.finalize());
        Ok(self)
    }

    /// Adds the files of a folder, without its sub-folders.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn folder(mut self, path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for file in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            let file = file?;
            if file.file_type()?.is_file() {
                files.push(file.path());
            }
        }
        files.sort();
        for file in files {
            self = self.file(&file)?;
        }
        Ok(self)
    }

    fn add(&mut self, label: &str, value: &[u8]) {
        // Lengths first, so that no two lists of inputs hash the same bytes.
        for part in [label.as_bytes(), value] {
            self.0.update(part.len().to_string());
            self.0.update(b":");
            self.0.update(part);
        }
    }

    fn key(self) -> String {
        let mut key = hex(&self.0.finalize());
        key.truncate(KEY_LENGTH);
        key
    }
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a file name is `<name>-<key>`; names may contain `-` themselves.
fn is_entry_of(name: &str, file: &str) -> bool {
    file.strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|key| key.len() == KEY_LENGTH && key.chars().all(|c| c.is_ascii_hexdigit()))
}

/// Sets the folder's time to now. Failure only makes the choice of what to remove worse.
fn mark_used(entry: &Path) {
    if let Ok(folder) = File::open(entry) {
        let _ = folder.set_modified(SystemTime::now());
    }
}

fn remove_folder(path: &Path) -> Result<()> {
    ignore_absent(fs::remove_dir_all(path)).with_context(|| format!("cannot remove {}", path.display()))
}

fn remove_file(path: &Path) -> Result<()> {
    ignore_absent(fs::remove_file(path)).with_context(|| format!("cannot remove {}", path.display()))
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        (folder, cache)
    }

    fn version(text: &str) -> Inputs {
        Inputs::new().text("version", text)
    }

    #[test]
    fn an_entry_is_built_once_for_the_same_inputs() {
        let (_folder, cache) = cache();
        let first = cache.entry("thing", version("1"), |to| Ok(fs::write(to.join("file"), "one")?)).unwrap();
        let again = cache.entry("thing", version("1"), |_| panic!("built twice")).unwrap();
        assert_eq!(first, again);
        assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "one");
    }

    #[test]
    fn other_inputs_give_another_entry() {
        let (folder, cache) = cache();
        let file = folder.path().join("input");
        let mut entries = Vec::new();
        for content in ["a", "b"] {
            fs::write(&file, content).unwrap();
            let inputs = Inputs::new().file(&file).unwrap();
            entries.push(cache.entry("thing", inputs, |_| Ok(())).unwrap());
        }
        assert_ne!(entries[0], entries[1]);
    }

    #[test]
    fn inputs_that_only_differ_in_where_a_value_ends_have_different_keys() {
        let one = Inputs::new().text("a", "bc").text("d", "e");
        let two = Inputs::new().text("a", "b").text("cd", "e");
        assert_ne!(one.key(), two.key());
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_can_be_repeated() {
        let (folder, cache) = cache();
        let error = cache
            .entry("thing", version("1"), |to| {
                fs::write(to.join("half"), "")?;
                bail!("out of luck")
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "out of luck");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("thing")), "{left:?}");
        let entry = cache.entry("thing", version("1"), |_| Ok(())).unwrap();
        assert!(fs::read_dir(entry).unwrap().next().is_none());
    }

    #[test]
    fn the_two_entries_used_last_are_kept() {
        let (_folder, cache) = cache();
        let one = cache.entry("thing", version("1"), |_| Ok(())).unwrap();
        let other_name = cache.entry("thing-two", version("1"), |_| Ok(())).unwrap();
        let two = cache.entry("thing", version("2"), |_| Ok(())).unwrap();
        for (age, entry) in [(1, &one), (2, &two)] {
            File::open(entry).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(age)).unwrap();
        }
        cache.entry("thing", version("1"), |_| panic!("cached")).unwrap();
        let three = cache.entry("thing", version("3"), |_| Ok(())).unwrap();
        assert!(one.is_dir() && three.is_dir() && other_name.is_dir());
        assert!(!two.exists(), "the entry not used for longest is removed");
    }

    #[test]
    fn two_threads_that_want_the_same_entry_build_it_once() {
        let (_folder, cache) = cache();
        let builds = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let built = |_: &Path| {
                        builds.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    };
                    cache.entry("thing", version("1"), built).unwrap();
                });
            }
        });
        assert_eq!(builds.load(Ordering::SeqCst), 1);
    }
}
