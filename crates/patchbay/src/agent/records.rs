//! What the agent must remember across its own death, beside the journal of prepared claims: which names it has published,
//! which ports and machines it uses, which devices it has bound to usbip-host and for whom, which guests have had, and which it
//! withholds from the drivers of the node.
//!
//! Each fact is on the disk before the agent acts on it, so after a crash nothing of ours is taken for somebody else's, and
//! nothing of somebody else's for ours. A file that cannot be read is set aside and named in the log.
//!
//! Whoever reads never waits for the disk. Changes that wait for it together are written together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
pub(super) struct Records(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// What is on the disk. Never changed: a change makes new ones.
    facts: Mutex<Arc<Facts>>,
    /// What is to be there.
    next: Mutex<Next>,
    /// Held by whoever writes.
    writer: Mutex<()>,
}

/// The facts with the changes that are not on the disk yet.
#[derive(Debug)]
struct Next {
    facts: Facts,
    /// How many changes there were.
    changes: u64,
    /// How many of them are on the disk.
    written: u64,
    /// How often writing has failed, and all changes that were not on the disk were undone.
    failures: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        Ok(Self(Arc::new(Shared {
            path,
            facts: Mutex::new(Arc::new(facts.clone())),
            next: Mutex::new(Next { facts, changes: 0, written: 0, failures: 0 }),
            writer: Mutex::new(()),
        })))
    }

    /// The facts now.
    pub(super) fn facts(&self) -> Arc<Facts> {
        lock(&self.0.facts).clone()
    }

    /// Changes the facts; writes only if that changes anything. Blocks on the disk: call it where blocking is allowed.
    ///
    /// # Errors
    /// The file cannot be written; the facts are then as before.
    pub(super) fn change(&self, change: impl FnOnce(&mut Facts)) -> io::Result<()> {
        let Shared { path, facts, next, writer } = &*self.0;
        let (mine, failures) = {
            let mut next = lock(next);
            let before = next.facts.clone();
            change(&mut next.facts);
            // What is there already may be on its way to the disk yet.
            if next.facts != before {
                next.changes += 1;
            }
            if next.changes == next.written {
                return Ok(());
            }
            (next.changes, next.failures)
        };
        let _writer = lock(writer);
        let (all, written) = {
            let next = lock(next);
            if next.failures != failures {
                return Err(io::Error::other("what was to be written with it, or before it, could not be"));
            }
            if next.written >= mine {
                return Ok(());
            }
            (next.facts.clone(), next.changes)
        };
        let result = serde_json::to_vec_pretty(&all).map_err(io::Error::from);
        let result = result.and_then(|text| atomic_file::replace(path, &text, 0o600));
        let mut next = lock(next);
        if result.is_ok() {
            next.written = written;
            *lock(facts) = Arc::new(all);
        } else {
            next.facts = Facts::clone(&lock(facts));
            next.written = next.changes;
            next.failures += 1;
        }
        result
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
    fn changes_at_once_are_all_on_the_disk_when_they_are_done_and_no_place_is_given_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        let records = Records::open(path.clone()).unwrap();
        std::thread::scope(|scope| {
            for n in 0..32 {
                let (records, path) = (&records, &path);
                scope.spawn(move || {
                    let uid = Uid::new(format!("pod-{n}"));
                    let mut room = false;
                    let changed = records.change(|facts| {
                        room = facts.machines.len() < 16;
                        if room {
                            facts.machines.insert(uid.clone());
                        }
                    });
                    changed.unwrap();
                    let of_disk: Facts = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
                    assert_eq!(
                        (of_disk.machines.contains(&uid), records.facts().machines.contains(&uid)),
                        (room, room)
                    );
                });
            }
        });
        assert_eq!(records.facts().machines.len(), 16);
    }

    #[test]
    fn what_cannot_be_written_has_not_happened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state").join("records.json");
        let records = Records::open(path.clone()).unwrap();
        let add = |uid: &str| records.change(|facts| facts.machines.extend([Uid::new(uid)]));
        add("pod-1").unwrap_err();
        assert_eq!(*records.facts(), Facts::default());
        fs::create_dir(path.parent().unwrap()).unwrap();
        add("pod-2").unwrap();
        assert_eq!(*Records::open(path).unwrap().facts(), *records.facts());
        assert_eq!(records.facts().machines, [Uid::new("pod-2")].into());
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
