//! What the agent must remember across its own death, beside the journal of prepared claims: which names it has published,
//! which ports and machines it uses, which devices it has bound to usbip-host and for whom, and which it withholds from the
//! drivers of the node.
//!
//! Each fact is on the disk before the agent acts on it, so after a crash nothing of ours is taken for somebody else's, and
//! nothing of somebody else's for ours. A file that cannot be read is set aside and named in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use patchbay_core::device::{BusAddress, PortPath};
use patchbay_core::names::{ClaimRef, DeviceName, NodeName, Uid};
use patchbay_core::speed::PortName;
use patchbay_dra::atomic_file;
use serde::{Deserialize, Serialize};

/// The version of the file's format.
const VERSION: u32 = 1;

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Facts {
    version: u32,
    /// The names published last, with the port each device was in.
    pub(super) names: BTreeMap<DeviceName, PortPath>,
    /// Ports that are ours, with the uid of the claim each is used for.
    pub(super) ports: BTreeMap<PortName, Uid>,
    /// Pods of virtual machines that may have devices from us.
    pub(super) machines: BTreeSet<Uid>,
    /// Devices that we bound to usbip-host, with the request each was bound for.
    pub(super) exports: BTreeMap<PortPath, Export>,
    /// Devices that we withhold from the drivers of the node, with the address each had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) withheld: BTreeMap<PortPath, BusAddress>,
}

/// For whom a device is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Export {
    /// The device, as published.
    pub(super) device: DeviceName,
    /// The claim of the request that was granted.
    pub(super) claim: ClaimRef,
    /// The node that made the request.
    pub(super) peer: NodeName,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            version: VERSION,
            names: BTreeMap::new(),
            ports: BTreeMap::new(),
            machines: BTreeSet::new(),
            exports: BTreeMap::new(),
            withheld: BTreeMap::new(),
        }
    }
}

/// The facts and their file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Records {
    path: Arc<Path>,
    facts: Arc<Mutex<Facts>>,
}

impl Records {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// The file can be neither read nor set aside.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let facts = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Facts>(&bytes) {
                Ok(facts) if facts.version == VERSION => facts,
                unreadable => {
                    let aside = path.with_extension("unreadable");
                    fs::rename(&path, &aside)?;
                    let reason = unreadable.err().map_or_else(|| "another version".to_owned(), |e| e.to_string());
                    tracing::error!(file = %aside.display(), reason, "records set aside: ports and bindings of the former agent may need to be freed by hand");
                    Facts::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Facts::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.into(), facts: Arc::new(Mutex::new(facts)) })
    }

    /// The facts now.
    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the facts; writes only if that changes anything. Blocks on the disk: call it where blocking is allowed.
    ///
    /// # Errors
    /// The file cannot be written; the facts are then as before.
    pub(super) fn change(&self, change: impl FnOnce(&mut Facts)) -> io::Result<()> {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = facts.clone();
        change(&mut next);
        if next == *facts {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&next)?;
        atomic_file::replace(&self.path, &text, 0o600)?;
        *facts = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_process_and_a_broken_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        let records = Records::open(path.clone()).unwrap();
        records.change(|f| drop(f.ports.insert("usb3-0".parse().unwrap(), "claim".into()))).unwrap();
        assert_eq!(Records::open(path.clone()).unwrap().facts(), records.facts());
        let former = br#"{"version":1,"names":{},"ports":{"usb3-0":"claim"},"machines":[],"exports":{}}"#;
        fs::write(&path, former).unwrap();
        assert_eq!(Records::open(path.clone()).unwrap().facts(), records.facts(), "a former agent withheld nothing");
        fs::write(&path, b"{\"version\":99}").unwrap();
        assert_eq!(Records::open(path.clone()).unwrap().facts(), Facts::default());
        assert!(path.with_extension("unreadable").exists());
    }
}
