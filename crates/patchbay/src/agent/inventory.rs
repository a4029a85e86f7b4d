//! What this node has: its devices under their names, and its vhci ports.
//!
//! Sysfs is the truth. The kernel's uevents, and whoever has just changed something, only say when to look; a rescan every
//! 30 s is the net under them. A look at what has not changed costs little, and a storm of uevents leads to no more of them than
//! a part of a processor can do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use patchbay_core::device::{BusAddress, Device, PortPath};
use patchbay_core::host_use::{self, HostUse, Keyboards};
use patchbay_core::identity::{self, Published};
use patchbay_core::names::{DeviceName, NodeName};
use patchbay_core::speed::{Hub, PortName};
use patchbay_usb::hints::Hints;
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan::{Scan, Scanned, scan_with};
use patchbay_usbip::status::{PortState, VhciPort};
use patchbay_usbip::vhci::{self, VhciError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::records::{Facts, Records};

/// The net under the uevents.
const RESCAN: Duration = Duration::from_secs(30);
/// After a look no uevent leads to another one for so many times as long as it took: a storm costs a fifth of a processor.
const REST: u32 = 4;
/// A look that had to wait for the kernel is no reason to look away for long.
const LONGEST_REST: Duration = Duration::from_millis(200);

/// The ports of each half that are offered, as the platform documents.
const MAX_PORTS: usize = 8;

/// What this node has at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// Devices plugged into it, in the order of their ports.
    pub(super) devices: Vec<(DeviceName, Scanned)>,
    /// Its vhci ports; empty without the module.
    pub(super) ports: Vec<VhciPort>,
    /// The devices behind those ports, once the kernel has enumerated them.
    behind: BTreeMap<PortName, BusAddress>,
    /// What could not be read, one line each.
    problems: Vec<String>,
}

impl Inventory {
    /// The device of a name.
    pub(super) fn device(&self, name: &DeviceName) -> Option<&Scanned> {
        self.devices.iter().find(|(n, _)| n == name).map(|(_, d)| d)
    }

    /// The device behind a port, once the kernel has enumerated it.
    pub(super) fn behind(&self, port: PortName) -> Option<BusAddress> {
        self.behind.get(&port).copied()
    }

    /// The addresses of all devices of this node, its own and those of others.
    pub(super) fn addresses(&self) -> BTreeSet<BusAddress> {
        let own = self.devices.iter().map(|(_, device)| device.attributes.address);
        own.chain(self.behind.values().copied()).collect()
    }

    /// Whether nothing is attached to a port of this node; None when there is no such port.
    pub(super) fn is_free(&self, port: PortName) -> Option<bool> {
        self.ports.iter().find(|p| p.name == port).map(|p| p.state == PortState::Free)
    }

    /// What is published of the devices.
    pub(super) fn published(&self, given: &BTreeMap<DeviceName, BusAddress>) -> Vec<Device> {
        let device = |(name, scanned): &(DeviceName, Scanned)| Device {
            name: name.clone(),
            attributes: scanned.attributes.clone(),
            not_ready: kept(name, scanned, given).cloned(),
        };
        self.devices.iter().map(device).collect()
    }

    /// The ports that are offered, up to [`MAX_PORTS`] of each half: first ours, then those that are free. What something
    /// else on this node uses is not offered.
    pub(super) fn offered(&self, facts: &Facts) -> Vec<&VhciPort> {
        let ours = |p: &VhciPort| facts.claim(p).is_some();
        let half = |hub| {
            let mut ports: Vec<_> = self.ports.iter().filter(|p| p.name.hub == hub).collect();
            ports.retain(|p| ours(p) || p.state == PortState::Free);
            ports.sort_by_key(|p| (!ours(p), p.name));
            ports.truncate(MAX_PORTS);
            ports.sort_by_key(|p| p.name);
            ports
        };
        Hub::ALL.into_iter().flat_map(half).collect()
    }
}

/// What the node does with a device itself, so that nobody else can have it. `given` are those that containers of ours have.
pub(super) fn kept<'d>(
    name: &DeviceName,
    scanned: &'d Scanned,
    given: &BTreeMap<DeviceName, BusAddress>,
) -> Option<&'d HostUse> {
    host_use::kept(scanned.host_use.as_ref(), scanned.attributes.address, given.get(name).copied())
}

/// Looks, names, and hands on what it found, for as long as somebody listens.
pub(super) async fn run(
    root: SysRoot,
    node: NodeName,
    consoles: Keyboards,
    records: Records,
    mut hints: Hints,
    rescan: Arc<Notify>,
    inventory: watch::Sender<Arc<Inventory>>,
) {
    let mut first = true;
    loop {
        let (root, node, records, before) = (root.clone(), node.clone(), records.clone(), inventory.borrow().clone());
        let consoles = consoles.clone();
        let begun = Instant::now();
        match tokio::task::spawn_blocking(move || look(&root, &node, &consoles, &records, &before)).await {
            Ok(found) => {
                inventory.send_if_modified(|now| {
                    // The first look is news whatever it finds: nothing is decided before it.
                    let changed = **now != found || std::mem::take(&mut first);
                    if changed {
                        tell(now, &found);
                        *now = Arc::new(found);
                    }
                    changed
                });
            }
            Err(error) => tracing::error!(%error, "the scan of USB devices ended early"),
        }
        let rested = Instant::now() + rest(begun.elapsed());
        let hint = async {
            sleep_until(rested).await;
            hints.next().await
        };
        tokio::select! {
            _ = hint => {}
            () = rescan.notified() => {}
            () = sleep(RESCAN) => {}
            () = inventory.closed() => return,
        }
    }
}

/// For how long uevents can wait after a look that took so long.
fn rest(took: Duration) -> Duration {
    (took * REST).min(LONGEST_REST)
}

fn look(root: &SysRoot, node: &NodeName, consoles: &Keyboards, records: &Records, before: &Inventory) -> Inventory {
    let known = before.devices.iter().map(|(_, scanned)| scanned);
    let Scan { devices, mut problems, .. } = scan_with(root, consoles, known);
    let ports = vhci::ports(root).unwrap_or_else(|error| {
        problems.push(error.to_string());
        match error {
            VhciError::ModuleMissing => Vec::new(),
            // Ports that cannot be read now have not vanished: what is behind them stays where it is.
            _ => before.ports.clone(),
        }
    });
    let facts = records.facts();
    let names = names(node, &devices, before, &facts);
    let places = || names.iter().zip(devices.iter().map(|device| &device.attributes.port_path));
    let remembered = places().all(|(name, place)| facts.names.get(name) == Some(place));
    if (!remembered || facts.names.len() != names.len())
        && let Err(error) =
            records.change(|facts| facts.names = places().map(|(name, place)| (name.clone(), place.clone())).collect())
    {
        problems.push(format!("names cannot be remembered: {error}"));
    }
    Inventory {
        devices: names.into_iter().zip(devices).collect(),
        behind: ports.iter().filter_map(|p| Some((p.name, vhci::device_of(root, p)?.1))).collect(),
        ports,
        problems,
    }
}

/// The names of devices, in their order. The same devices have the same names: see [`identity`].
fn names(node: &NodeName, devices: &[Scanned], before: &Inventory, facts: &Facts) -> Vec<DeviceName> {
    let same = |(now, (_, before)): (&Scanned, &(_, Scanned))| now.attributes == before.attributes;
    if devices.len() == before.devices.len() && devices.iter().zip(&before.devices).all(same) {
        return before.devices.iter().map(|(name, _)| name.clone()).collect();
    }
    let published = |(name, path): (&DeviceName, &PortPath)| Published { name: name.clone(), port_path: path.clone() };
    let published: Vec<_> = facts.names.iter().map(published).collect();
    let attributes: Vec<_> = devices.iter().map(|device| device.attributes.clone()).collect();
    identity::assign(node, &attributes, &published)
}

/// Logs what came, what went, and what went wrong anew.
fn tell(before: &Inventory, now: &Inventory) {
    let names = |inventory: &Inventory| inventory.devices.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    let (old, new) = (names(before), names(now));
    for (name, scanned) in now.devices.iter().filter(|(name, _)| !old.contains(name)) {
        let a = &scanned.attributes;
        tracing::info!(device = %name, id = %format_args!("{}:{}", a.vendor_id, a.product_id), port = %a.port_path, speed = %a.speed, "device found");
    }
    for name in old.difference(&new) {
        tracing::info!(device = %name, "device gone");
    }
    for problem in now.problems.iter().filter(|p| !before.problems.contains(p)) {
        tracing::warn!(problem, "not all can be read");
    }
}

#[cfg(test)]
mod tests {
    use patchbay_usb::fixture::Fixture;
    use patchbay_usb::scan::scan;

    use super::*;

    /// What is offered of a half of twelve ports, of which these are in use and those are ours.
    fn offered(used: &[u16], ours: &[u16]) -> Vec<u16> {
        let name = |index| PortName { hub: Hub::Usb3, index };
        let port = |index| VhciPort {
            number: u32::from(index) + 12,
            name: name(index),
            state: if used.contains(&index) { PortState::NotAssigned } else { PortState::Free },
        };
        let inventory = Inventory { ports: (0..12).map(port).collect(), ..Inventory::default() };
        let mut facts = Facts::default();
        ours.iter().for_each(|index| facts.own(name(*index), "claim".into(), 0));
        let offered = inventory.offered(&facts);
        offered.into_iter().map(|p| p.name.index).collect()
    }

    #[test]
    fn a_storm_costs_a_fifth_of_a_processor_and_one_slow_look_does_not_make_the_next_one_late() {
        let ms = Duration::from_millis;
        for (took, rested) in [(1, 4), (10, 40), (50, 200), (5000, 200)] {
            assert_eq!(rest(ms(took)), ms(rested));
        }
    }

    #[test]
    fn a_look_at_what_has_not_changed_finds_the_same_and_writes_nothing() {
        let (fixture, folder) = (Fixture::new(), tempfile::tempdir().unwrap());
        let path = folder.path().join("records.json");
        let records = Records::open(path.clone()).unwrap();
        let node = NodeName::new("node-1");
        let again = |before: &Inventory| look(fixture.root(), &node, &Keyboards::Free, &records, before);
        let stick = fixture.device("1-1");
        stick.strings("Acme", "Stick", "AB12");
        // The same serial number: it is known by its port, also when it is the only one.
        fixture.device("1-2").strings("Acme", "Stick", "AB12");
        let first = again(&Inventory::default());
        assert_eq!((first.devices.len(), records.facts().names.len()), (2, 2));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(again(&first), first);
        assert!(!path.exists());
        stick.unplug("1-1");
        let second = again(&first);
        assert_eq!(second.devices, first.devices[1..]);
        assert_eq!(records.facts().names.len(), 1);
        assert!(path.exists());
    }

    #[test]
    fn a_disk_that_the_node_has_mounted_is_published_as_its_own_unless_containers_of_ours_have_it() {
        let node = Fixture::new();
        node.device("1-1").block("sda", "8:0");
        node.write("proc/1/mountinfo", "90 22 8:0 / /data rw - ext4 /dev/sda rw\n");
        let name = DeviceName::new("stick");
        let devices = scan(node.root()).devices.into_iter().map(|scanned| (name.clone(), scanned)).collect();
        let inventory = Inventory { devices, ..Inventory::default() };
        let published = |given: &[BusAddress]| {
            let given = given.iter().map(|at| (name.clone(), *at)).collect();
            inventory.published(&given).remove(0).not_ready
        };
        let at = inventory.devices[0].1.attributes.address;
        assert_eq!(published(&[]), Some(HostUse::mounted("/data")));
        assert_eq!(published(&[at]), None);
        // It has been away since.
        assert_eq!(published(&[BusAddress { device: at.device + 1, ..at }]), Some(HostUse::mounted("/data")));
    }

    #[test]
    fn eight_ports_are_offered_whatever_number_the_kernel_has() {
        assert_eq!(offered(&[], &[]), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_port_that_something_else_uses_is_not_offered_and_another_one_is_instead() {
        assert_eq!(offered(&[0, 3], &[]), [1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(offered(&[0, 1, 2, 3, 4, 5, 6], &[]), [7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_port_of_ours_stays_offered_when_one_before_it_comes_free() {
        assert_eq!(offered(&[0, 8], &[8]), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(offered(&[8], &[8]), [0, 1, 2, 3, 4, 5, 6, 8]);
    }
}
