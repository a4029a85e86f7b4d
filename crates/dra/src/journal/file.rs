//! The journal's file: JSON with a version, replaced as a whole.
//!
//! What cannot be understood is set aside, never overwritten. The file names the
//! boot it was written in: what was prepared before a reboot is not any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::record::{Record, Records};
use crate::atomic_file;

/// The version of the file's format that is written and understood.
const VERSION: u64 = 1;

/// A random number that is another one after each boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u64,
    /// The boot it was written in, if that is known.
    #[serde(default)]
    boot: Option<String>,
    claims: BTreeMap<String, Record>,
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct Header {
    version: u64,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) records: Records,
    /// There was a file and it could not be used.
    pub(super) lost: bool,
}

/// The present boot, if the kernel says it.
pub(super) fn boot() -> Option<String> {
    fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned())
}

/// Replaces the file. Blocks on the disk.
pub(super) fn write(path: &Path, boot: Option<String>, records: Records) -> io::Result<()> {
    atomic_file::replace(path, &records.content(boot)?, 0o600)
}

/// Reads the file. What cannot be used is set aside. Blocks on the disk.
pub(super) fn load(path: &Path, boot: Option<&str>) -> Loaded {
    let problem = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::default(),
        Err(error) => format!("it cannot be read: {error}"),
        Ok(content) => match Records::parse(&content, boot) {
            Ok(records) => return Loaded { records, lost: false },
            Err(problem) => problem,
        },
    };
    let aside = aside(path);
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            path = %path.display(), set_aside = %aside.display(), problem,
            "the journal is not usable and was set aside; starting with an empty one"
        ),
        Err(error) => tracing::error!(
            path = %path.display(), problem, %error,
            "the journal is not usable and could not be set aside; starting with an empty one"
        ),
    }
    Loaded { records: Records::default(), lost: true }
}

impl Records {
    /// Understands the content of a journal's file. `boot` is the present boot, if it is known: what was prepared in another
    /// one is [`State::Preparing`](super::State::Preparing).
    ///
    /// # Errors
    /// It is damaged, or of another version; in words.
    pub fn parse(content: &[u8], boot: Option<&str>) -> Result<Self, String> {
        let header: Header = serde_json::from_slice(content).map_err(|error| format!("it is damaged: {error}"))?;
        if header.version != VERSION {
            return Err(format!("its version is {}, this program knows version {VERSION}", header.version));
        }
        let file: File = serde_json::from_slice(content).map_err(|error| format!("it is damaged: {error}"))?;
        let mut claims = file.claims;
        let rebooted = matches!((file.boot.as_deref(), boot), (Some(then), Some(now)) if then != now);
        if rebooted {
            claims.values_mut().for_each(Record::expire);
        }
        Ok(Self(claims))
    }

    /// The content of a journal's file with these records, written in this boot.
    ///
    /// # Errors
    /// It cannot be written as JSON: what was read always can.
    pub fn content(self, boot: Option<String>) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&File { version: VERSION, boot, claims: self.0 })?)
    }
}

/// A free name for a journal that is set aside.
fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.set-aside-{}", now.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::super::record::State;
    use super::*;
    use serde_json::{Value, json};

    fn records() -> Records {
        let record = |state| Record {
            namespace: "ns".into(),
            name: "c".into(),
            state,
            allocated: vec![],
            prepared: vec![],
            data: json!({"port": 3}),
        };
        let all = [("u1", State::Prepared), ("u2", State::Unpreparing), ("u3", State::Preparing)];
        Records(all.map(|(uid, state)| (uid.to_owned(), record(state))).into())
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        for boot in [None, boot()] {
            write(&path, boot.clone(), records()).unwrap();
            let loaded = load(&path, boot.as_deref());
            assert_eq!((loaded.records, loaded.lost), (records(), false));
        }
    }

    #[test]
    fn the_kernel_tells_its_boot() {
        assert!(boot().is_some_and(|id| id.len() == 36), "{:?}", boot());
    }

    #[test]
    fn after_a_reboot_nothing_is_prepared_and_nothing_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        write(&path, Some("before".into()), records()).unwrap();
        let after = load(&path, Some("after")).records;
        let states: Vec<_> = after.iter().map(|(uid, record)| (uid, record.state)).collect();
        assert_eq!(states, [("u1", State::Preparing), ("u2", State::Unpreparing), ("u3", State::Preparing)]);
        assert_eq!(after.get("u1").unwrap().data, json!({"port": 3}));
        // When one of the two is not known, nothing is concluded.
        assert_eq!(load(&path, None).records, records());
        write(&path, None, records()).unwrap();
        assert_eq!(load(&path, Some("after")).records, records());
    }

    #[test]
    fn a_damaged_or_newer_file_is_set_aside() {
        let newer = json!({"version": VERSION + 1, "claims": []}).to_string();
        let wrong = json!({"version": VERSION, "claims": {"u": 3}}).to_string();
        for content in ["", "{\"version\": 1, \"cla", "\u{0}\u{0}", &newer, &wrong] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("journal.json");
            fs::write(&path, content).unwrap();
            let loaded = load(&path, None);
            assert_eq!((loaded.records, loaded.lost), (Records::default(), true));
            let kept = fs::read_dir(folder.path()).unwrap().next().unwrap();
            let kept = kept.unwrap().path();
            assert!(kept.to_string_lossy().contains("set-aside"), "{kept:?}");
            assert_eq!(fs::read_to_string(kept).unwrap(), content);
        }
    }

    #[test]
    fn no_file_is_no_loss() {
        let folder = tempfile::tempdir().unwrap();
        let loaded = load(&folder.path().join("journal.json"), None);
        assert_eq!((loaded.records, loaded.lost), (Records::default(), false));
    }

    #[test]
    fn a_cut_off_file_is_never_taken_for_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        write(&path, Some("boot".into()), records()).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            let cut = whole.get(..length).unwrap();
            assert!(Records::parse(cut, None).is_err(), "{}", String::from_utf8_lossy(cut));
        }
        assert_eq!(Records::parse(&whole, None), Ok(records()));
        let _: Value = serde_json::from_slice(&whole).unwrap();
    }
}
