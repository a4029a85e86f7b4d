//! What the agent's metrics tell of the node, looked at when somebody asks for them.
//!
//! Sysfs tells how many URBs a device was sent (`urbnum`); it does not tell bytes, and neither vhci nor usbip-host counts any.

use std::sync::Arc;

use patchbay_core::device::PortPath;
use patchbay_core::names::NodeName;
use patchbay_dra::Records as JournalRecords;
use patchbay_link::Credentials;
use patchbay_usb::root::SysRoot;
use patchbay_usbip::host::{self, ExportStatus};
use patchbay_usbip::status::PortState;
use patchbay_usbip::vhci;
use tokio::sync::watch;

use super::containers::given_here;
use super::inventory::{Inventory, kept};
use super::records::Records;
use crate::metrics::NodeSight;

/// What is looked at.
pub(super) struct Sight {
    /// This node.
    pub(super) node: NodeName,
    /// Where sysfs is.
    pub(super) root: SysRoot,
    /// What is ours.
    pub(super) records: Records,
    /// Devices and ports.
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    /// What containers have.
    pub(super) journal: watch::Receiver<Arc<JournalRecords>>,
    /// The certificate.
    pub(super) credentials: Credentials,
}

impl Sight {
    /// Looks. Reads some small files of sysfs.
    pub(super) fn look(&self) -> NodeSight {
        let (inventory, facts) = (self.inventory.borrow().clone(), self.records.facts());
        let given = given_here(&self.node, &self.journal.borrow());
        let expires = self.credentials.now().map(|identity| identity.validity().not_after);
        let mut sight = NodeSight { certificate: expires.unwrap_or_default(), ..NodeSight::default() };
        for (name, scanned) in &inventory.devices {
            let how = match kept(name, scanned, &given) {
                _ if facts.exports.contains_key(&scanned.attributes.port_path) => "lent",
                Some(_) => "kept",
                None => "open",
            };
            *sight.devices.entry((scanned.attributes.speed.as_str(), how)).or_default() += 1;
        }
        for port in &inventory.ports {
            let state = match (&port.state, facts.claim(port).is_some()) {
                (PortState::Free, _) => "free",
                (_, true) => "used",
                (_, false) => "foreign",
            };
            *sight.ports.entry((port.name.hub.as_str(), state)).or_default() += 1;
            if state == "used" {
                sight.sessions.1 += 1;
                let urbs = vhci::device_of(&self.root, port).and_then(|(place, _)| self.urbs(&place));
                sight.port_urbs.extend(urbs.map(|urbs| (port.name.to_string(), urbs)));
            }
        }
        for place in facts.exports.keys() {
            if host::status(&self.root, place).is_ok_and(|status| status == ExportStatus::Used) {
                sight.sessions.0 += 1;
            }
            sight.lent_urbs.extend(self.urbs(place).map(|urbs| (place.to_string(), urbs)));
        }
        sight
    }

    /// How many URBs the device at a place was sent.
    fn urbs(&self, place: &PortPath) -> Option<u64> {
        // The kernel counts in 32 bits and prints them with a sign (drivers/usb/core/sysfs.c).
        let count: i32 = self.root.usb_device(place.as_str()).parse("urbnum").ok()?;
        Some(u64::from(count.cast_unsigned()))
    }
}
