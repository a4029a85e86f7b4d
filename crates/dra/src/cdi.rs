//! CDI specifications: how a container gets what a claim brings (device nodes,
//! mounts, environment). One file per claim in a folder that the container
//! runtime watches (`/var/run/cdi`), format 0.6.0 of the Container Device
//! Interface.
//!
//! * Names begin with the claim's uid, so none is ever used again: runtimes may
//!   keep what they have read.
//! * Everything is checked before it is written: a runtime refuses a whole file
//!   for one bad name.
//! * What a crash has left is cleaned up at the start
//!   ([`CdiFolder::remove_orphans`]).

mod edits;
mod names;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{fs, io};

use serde::Serialize;

pub use self::edits::{DeviceNode, Edits, Mount};

use crate::atomic_file;
use crate::journal::Journal;

/// The oldest version of the format that has all fields used here.
const VERSION: &str = "0.6.0";

/// Why a CDI file could not be written, removed or listed.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// Vendor or class is not what the specification allows.
    #[error(
        "{vendor}/{class} is not a CDI kind: both have letters, digits, '_', '-' and '.', \
         begin with a letter and end with a letter or digit"
    )]
    Kind {
        /// The vendor.
        vendor: String,
        /// The class.
        class: String,
    },
    /// The claim's uid cannot be part of a file's name.
    #[error("claim uid {uid:?} has other characters than letters, digits and '-'")]
    Uid {
        /// The uid.
        uid: String,
    },
    /// Container runtimes would refuse the claim's file.
    #[error("CDI file of claim {uid} without any device: give the claim no CDI names instead")]
    Empty {
        /// The claim's uid.
        uid: String,
    },
    /// Container runtimes would refuse the device, and with it the whole file.
    #[error("CDI device {device:?} of claim {uid}: {reason}")]
    Device {
        /// The claim's uid.
        uid: String,
        /// The device's name in the claim.
        device: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("{action} CDI file {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cdi_version: &'a str,
    kind: &'a str,
    devices: Vec<SpecDevice<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecDevice<'a> {
    name: String,
    container_edits: &'a Edits,
}

/// The CDI files of one driver. All methods block on the disk.
#[derive(Debug, Clone)]
pub struct CdiFolder {
    folder: PathBuf,
    vendor: String,
    class: String,
}

impl CdiFolder {
    /// Files in `folder` for CDI devices of the kind `vendor/class`. The driver's
    /// name makes a good vendor. Nobody else may use the same kind.
    pub fn new(folder: impl Into<PathBuf>, vendor: impl Into<String>, class: impl Into<String>) -> Self {
        Self { folder: folder.into(), vendor: vendor.into(), class: class.into() }
    }

    /// Writes, or replaces, the file of a claim. `devices` are names, unique in
    /// the claim, with what a container gets. Returns the full CDI names in the
    /// same order.
    ///
    /// # Errors
    /// A name or what a container gets is not what the CDI specification allows,
    /// the folder cannot be made, or the file cannot be written.
    pub fn write(&self, claim_uid: &str, devices: &[(String, Edits)]) -> Result<Vec<String>, CdiError> {
        self.check(claim_uid, devices)?;
        let kind = format!("{}/{}", self.vendor, self.class);
        let spec = Spec {
            cdi_version: VERSION,
            kind: &kind,
            devices: devices
                .iter()
                .map(|(device, edits)| SpecDevice { name: device_name(claim_uid, device), container_edits: edits })
                .collect(),
        };
        let path = self.path(claim_uid);
        serde_json::to_vec_pretty(&spec)
            .map_err(io::Error::from)
            .and_then(|content| {
                fs::create_dir_all(&self.folder)?;
                atomic_file::replace(&path, &content, 0o644)
            })
            .map_err(|source| CdiError::Io { action: "write", path, source })?;
        Ok(devices.iter().map(|(device, _)| format!("{kind}={}", device_name(claim_uid, device))).collect())
    }

    /// Removes the file of a claim; one that does not exist is fine.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, claim_uid: &str) -> Result<(), CdiError> {
        // Nothing was ever written for such a uid.
        if !names::is_uid(claim_uid) {
            return Ok(());
        }
        let path = self.path(claim_uid);
        atomic_file::remove(&path).map_err(|source| CdiError::Io { action: "remove", path, source })
    }

    /// The uids of claims that have a file.
    ///
    /// # Errors
    /// The folder exists and cannot be read.
    pub fn claims(&self) -> Result<BTreeSet<String>, CdiError> {
        let names = self.file_names()?;
        Ok(names.iter().filter_map(|name| self.claim_of(name)).map(str::to_owned).collect())
    }

    /// Removes what a crash has left: files of claims that the journal does not
    /// know, and files that were never finished. To be called at the start, before
    /// the plugin serves. Returns the uids of the claims whose files were removed.
    ///
    /// After the journal was lost no claim is known, and files of running pods are
    /// not told from orphans: then only unfinished files go.
    ///
    /// # Errors
    /// The folder exists and cannot be read, or a file cannot be removed.
    pub fn remove_orphans(&self, journal: &Journal) -> Result<Vec<String>, CdiError> {
        for name in self.file_names()? {
            if atomic_file::interrupted(&name).is_some_and(|finished| self.claim_of(finished).is_some()) {
                let path = self.folder.join(&name);
                atomic_file::remove(&path).map_err(|source| CdiError::Io { action: "remove", path, source })?;
                tracing::info!(file = name, "CDI file that was never finished removed");
            }
        }
        let known = journal.records();
        let mut orphans: Vec<_> = self.claims()?.into_iter().filter(|uid| known.get(uid).is_none()).collect();
        if journal.has_lost_records() && !orphans.is_empty() {
            tracing::warn!(files = orphans.len(), "CDI files of unknown claims stay, because the journal was lost");
            orphans.clear();
        }
        for uid in &orphans {
            self.remove(uid)?;
            tracing::info!(uid, "CDI file of a claim that is not in the journal removed");
        }
        Ok(orphans)
    }

    /// Whether runtimes will take the file.
    fn check(&self, claim_uid: &str, devices: &[(String, Edits)]) -> Result<(), CdiError> {
        let uid = || claim_uid.to_owned();
        if !names::is_kind_part(&self.vendor) || !names::is_kind_part(&self.class) {
            return Err(CdiError::Kind { vendor: self.vendor.clone(), class: self.class.clone() });
        }
        if !names::is_uid(claim_uid) {
            return Err(CdiError::Uid { uid: uid() });
        }
        if devices.is_empty() {
            return Err(CdiError::Empty { uid: uid() });
        }
        let mut seen = BTreeSet::new();
        for (device, edits) in devices {
            let problem = if !names::is_device(&device_name(claim_uid, device)) {
                Some("a name has letters, digits, '_', '-', '.' and ':', and ends with a letter or digit".to_owned())
            } else if !seen.insert(device) {
                Some("another device of the claim has the same name".to_owned())
            } else {
                edits.problem()
            };
            if let Some(reason) = problem {
                return Err(CdiError::Device { uid: uid(), device: device.clone(), reason });
            }
        }
        Ok(())
    }

    /// The names of all files in the folder, whoever made them.
    fn file_names(&self) -> Result<Vec<String>, CdiError> {
        let failed = |source| CdiError::Io { action: "list", path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // Ours are text.
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The claim that a file of this name is for, if it is one of ours.
    fn claim_of<'n>(&self, file_name: &'n str) -> Option<&'n str> {
        let uid = file_name.strip_prefix(&self.prefix())?.strip_suffix(".json")?;
        names::is_uid(uid).then_some(uid)
    }

    fn prefix(&self) -> String {
        format!("{}-{}_", self.vendor, self.class)
    }

    fn path(&self, claim_uid: &str) -> PathBuf {
        self.folder.join(format!("{}{claim_uid}.json", self.prefix()))
    }
}

/// The CDI name of a claim's device, without the kind.
fn device_name(claim_uid: &str, device: &str) -> String {
    format!("{claim_uid}-{device}")
}

#[cfg(test)]
mod tests;
