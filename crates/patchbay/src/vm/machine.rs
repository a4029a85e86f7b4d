//! The machine description: what a machine image says about the machine in it.
//!
//! ```json
//! { "kernel": "vmlinuz", "initrd": "initrd.img", "append": "console=ttyS0", "disk": "root.qcow2", "powerdown": true }
//! ```
//!
//! Paths are absolute or relative to the description's folder. A field that is not known is an error: a misspelt one
//! would otherwise be a machine that does something else than its maker meant.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A machine, checked: its files exist and can be read, and its parts fit together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    /// A Linux kernel to start directly.
    pub(crate) kernel: Option<PathBuf>,
    /// The kernel's first file system.
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line. The console that is shown is `ttyS0`.
    pub(crate) append: Option<String>,
    /// A disk, qcow2 if the name ends so, raw otherwise. It is never written: what the guest writes is lost at the end.
    pub(crate) disk: Option<PathBuf>,
    /// A saved machine to go on with instead of booting.
    pub(crate) state: Option<PathBuf>,
    /// Whether the guest switches itself off when its power button is pressed. If not, its end is that of a pulled plug.
    #[serde(default)]
    pub(crate) powerdown: bool,
}

/// Why a machine description does not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// The description cannot be read.
    #[error("cannot read the machine description {path}; a machine image has to bring one")]
    Read {
        /// The description.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The description is not the JSON it should be.
    #[error("the machine description {path} is not valid")]
    Parse {
        /// The description.
        path: PathBuf,
        /// What is wrong and where.
        #[source]
        source: serde_json::Error,
    },
    /// Fields that do not fit together.
    #[error("the machine description {path} {what}")]
    Unfit {
        /// The description.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// One of the files is not there or not readable.
    #[error("the machine description {path} names as {field} the file {file}, which cannot be read")]
    File {
        /// The description.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Machine {
    /// Reads and checks a description.
    ///
    /// # Errors
    /// It is missing or malformed, names an unknown field or a file that cannot be read, or its fields do not fit together.
    pub(crate) fn read(path: &Path) -> Result<Self, MachineError> {
        let text = std::fs::read(path).map_err(|source| MachineError::Read { path: path.to_owned(), source })?;
        let mut machine: Self =
            serde_json::from_slice(&text).map_err(|source| MachineError::Parse { path: path.to_owned(), source })?;
        machine.fit().map_err(|what| MachineError::Unfit { path: path.to_owned(), what })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for (field, file) in machine.files() {
            *file = folder.join(&*file);
            readable(file).map_err(|source| MachineError::File {
                path: path.to_owned(),
                field,
                file: file.clone(),
                source,
            })?;
        }
        Ok(machine)
    }

    /// Whether the fields fit together.
    fn fit(&self) -> Result<(), &'static str> {
        if self.kernel.is_none() && self.disk.is_none() {
            return Err("has nothing to boot from; give it a kernel, a disk or both");
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.append.is_some()) {
            return Err("has initrd or append without a kernel");
        }
        if self.state.is_some() && self.disk.is_some() {
            return Err("has a state and a disk; a saved state does not hold what the guest had written to its disk");
        }
        Ok(())
    }

    /// The files it names, with the field's name.
    fn files(&mut self) -> impl Iterator<Item = (&'static str, &mut PathBuf)> {
        [
            ("kernel", &mut self.kernel),
            ("initrd", &mut self.initrd),
            ("disk", &mut self.disk),
            ("state", &mut self.state),
        ]
        .into_iter()
        .filter_map(|(field, file)| Some((field, file.as_mut()?)))
    }
}

/// Whether it is a file that this user can read.
fn readable(file: &Path) -> io::Result<()> {
    if File::open(file)?.metadata()?.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A folder with a description and empty files.
    fn image(description: &str, files: &[&str]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let path = folder.path().join("machine.json");
        std::fs::write(&path, description).unwrap();
        (folder, path)
    }

    /// The whole chain of an error, as it is logged.
    fn words(error: MachineError) -> String {
        format!("{:#}", anyhow::Error::from(error))
    }

    #[test]
    fn paths_are_relative_to_the_description_or_absolute() {
        let (other, _) = image("", &["initrd"]);
        let absolute = other.path().join("initrd");
        let description = format!(r#"{{"kernel": "vmlinuz", "initrd": {absolute:?}, "append": "console=ttyS0"}}"#);
        let (folder, path) = image(&description, &["vmlinuz"]);
        let expected = Machine {
            kernel: Some(folder.path().join("vmlinuz")),
            initrd: Some(absolute),
            append: Some("console=ttyS0".into()),
            ..Machine::default()
        };
        assert_eq!(Machine::read(&path).unwrap(), expected);
    }

    #[test]
    fn an_unknown_field_is_named() {
        let (_folder, path) = image(r#"{"kernel": "vmlinuz", "initramfs": "x"}"#, &["vmlinuz"]);
        let words = words(Machine::read(&path).unwrap_err());
        assert!(words.contains("machine.json") && words.contains("unknown field `initramfs`"), "{words}");
    }

    #[test]
    fn a_missing_file_and_its_field_are_named() {
        let (_folder, path) = image(r#"{"kernel": "vmlinuz", "state": "saved"}"#, &["vmlinuz"]);
        let words = words(Machine::read(&path).unwrap_err());
        assert!(words.contains("as state") && words.contains("/saved") && words.contains("No such file"), "{words}");
    }

    #[test]
    fn a_folder_in_the_place_of_a_file_is_refused() {
        let (folder, path) = image(r#"{"disk": "disk.img"}"#, &[]);
        std::fs::create_dir(folder.path().join("disk.img")).unwrap();
        let words = words(Machine::read(&path).unwrap_err());
        assert!(words.contains("not a regular file"), "{words}");
    }

    #[test]
    fn fields_that_do_not_fit_together_are_refused() {
        for (description, what) in [
            ("{}", "nothing to boot from"),
            (r#"{"disk": "d", "initrd": "i"}"#, "without a kernel"),
            (r#"{"disk": "d", "append": "quiet"}"#, "without a kernel"),
            (r#"{"kernel": "k", "disk": "d", "state": "s"}"#, "a state and a disk"),
        ] {
            let (_folder, path) = image(description, &["k", "i", "d", "s"]);
            let words = words(Machine::read(&path).unwrap_err());
            assert!(words.contains(what), "{description}: {words}");
        }
    }
}
