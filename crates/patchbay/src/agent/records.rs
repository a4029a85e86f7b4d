//! What the agent must remember across its own death, beside the journal of prepared claims: which names it has published,
//! which ports and machines it uses, which devices it has bound to usbip-host and for whom, which guests have had, and which it
//! withholds from the drivers of the node.
//!
//! Each fact is on the disk before the agent acts on it, so after a crash nothing of ours is taken for somebody else's, and
//! nothing of somebody else's for ours. A file that cannot be read is set aside and named in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use patchbay_core::custody::{Keeper, keeper};
use patchbay_core::device::{BusAddress, PortPath};
use patchbay_core::importer::is_ours;
use patchbay_core::names::{ClaimRef, DeviceName, NodeName, Uid};
use patchbay_core::speed::PortName;
use patchbay_dra::atomic_file;
use patchbay_usbip::status::VhciPort;
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
    ports: BTreeMap<PortName, Uid>,
    /// The device that was attached to each: its bus and device number on its home node, as the kernel shows it for the port.
    #[serde(default)]
    devids: BTreeMap<PortName, u32>,
    /// Devices that guests have been seen to have since they have this address.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) used: BTreeSet<BusAddress>,
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
            devids: BTreeMap::new(),
            used: BTreeSet::new(),
            machines: BTreeSet::new(),
            exports: BTreeMap::new(),
            withheld: BTreeMap::new(),
        }
    }
}

impl Facts {
    /// A port is used for a claim from now on, with this device of another node.
    pub(super) fn own(&mut self, port: PortName, claim: Uid, devid: u32) {
        self.ports.insert(port, claim);
        self.devids.insert(port, devid);
    }

    /// A port is used for nothing any more.
    pub(super) fn disown(&mut self, port: PortName) {
        self.ports.remove(&port);
        self.devids.remove(&port);
    }

    /// Who has the device with this address at a place.
    pub(super) fn keeper(&self, place: &PortPath, address: BusAddress, authorized: bool) -> Keeper {
        keeper(address, authorized, self.withheld.get(place).copied())
    }

    /// What a port was used for last, whatever there is now.
    pub(super) fn last_claim(&self, port: PortName) -> Option<&Uid> {
        self.ports.get(&port)
    }

    /// What a port is used for, if that is by us.
    pub(super) fn claim(&self, port: &VhciPort) -> Option<&Uid> {
        let (recorded, attached) = (self.devids.get(&port.name).copied(), port.import().map(|import| import.devid));
        self.ports.get(&port.name).filter(|_| is_ours(recorded, attached))
    }
}

/// The facts and their file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Records {
    path: Arc<Path>,
    /// Shared with whoever reads them, and never changed: a change makes new ones.
    facts: Arc<Mutex<Arc<Facts>>>,
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
        Ok(Self { path: path.into(), facts: Arc::new(Mutex::new(Arc::new(facts))) })
    }

    /// The facts now.
    pub(super) fn facts(&self) -> Arc<Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the facts; writes only if that changes anything. Blocks on the disk: call it where blocking is allowed.
    ///
    /// # Errors
    /// The file cannot be written; the facts are then as before.
    pub(super) fn change(&self, change: impl FnOnce(&mut Facts)) -> io::Result<()> {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Facts::clone(&facts);
        change(&mut next);
        if next == **facts {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&next)?;
        atomic_file::replace(&self.path, &text, 0o600)?;
        *facts = Arc::new(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use patchbay_usbip::status::{Import, PortState};

    use super::*;

    #[test]
    fn facts_survive_the_process_and_a_broken_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        let records = Records::open(path.clone()).unwrap();
        records.change(|f| f.own("usb3-0".parse().unwrap(), "claim".into(), 0x2_0002)).unwrap();
        assert_eq!(Records::open(path.clone()).unwrap().facts(), records.facts());
        let former = br#"{"version":1,"names":{},"ports":{"usb3-0":"claim"},"machines":[],"exports":{}}"#;
        fs::write(&path, former).unwrap();
        let facts = Records::open(path.clone()).unwrap().facts();
        assert!(facts.withheld.is_empty() && facts.devids.is_empty(), "a former agent knew nothing of that");
        assert_eq!(facts.ports, records.facts().ports);
        fs::write(&path, b"{\"version\":99}").unwrap();
        assert_eq!(*Records::open(path.clone()).unwrap().facts(), Facts::default());
        assert!(path.with_extension("unreadable").exists());
    }

    #[test]
    fn what_somebody_else_attaches_to_a_port_of_ours_is_not_ours() {
        let name: PortName = "usb3-0".parse().unwrap();
        let port = |state| VhciPort { number: 8, name, state };
        let used = |devid| port(PortState::Used(Import { devid, speed: None, bus_id: None }));
        let mut facts = Facts::default();
        assert_eq!(facts.claim(&used(1)), None);
        facts.own(name, "claim".into(), 1);
        for (state, ours) in
            [(used(1), true), (port(PortState::Free), true), (port(PortState::NotAssigned), true), (used(2), false)]
        {
            assert_eq!(facts.claim(&state).is_some(), ours, "{state:?}");
        }
        // A former agent has not written down which device it was.
        facts.devids.clear();
        assert!(facts.claim(&used(2)).is_some());
        facts.disown(name);
        assert_eq!(facts.claim(&port(PortState::Free)), None);
    }
}
