//! A made-up node with some devices: sticks, ten on each hub, ten hubs on each bus. Its files are in memory and react to
//! nothing.

use std::path::Path;

use patchbay_usb::fixture::Fixture;

/// Devices on a bus: its addresses end at 127, and its hubs need some.
const ON_A_BUS: usize = 100;
/// Devices on a hub.
const ON_A_HUB: usize = 10;
/// vhci ports, half of them of each kind.
pub(super) const PORTS: usize = 16;
/// The controller of its buses, as the kernel's messages name it.
pub(super) const CONTROLLER: &str = "/devices/pci0000:00/0000:00:14.0";

/// The node, in a folder of its own below `parent`.
pub(super) fn node(parent: &Path, devices: usize) -> Fixture {
    let node = Fixture::within(parent);
    node.usbip_host();
    node.write("sys/devices/platform/vhci_hcd.0/status", ports());
    for n in 0..devices {
        let (bus, on_bus) = (bus(n), n % ON_A_BUS);
        let (hub, socket) = (on_bus / ON_A_HUB + 1, on_bus % ON_A_HUB + 1);
        if socket == 1 {
            node.device(&format!("{bus}-{hub}")).set("bDeviceClass", "09\n").set("devnum", format!("{}\n", hub + 1));
        }
        let device = node.device(&place(n));
        device.strings("ACME", &format!("Stick {n}"), &format!("S{n:06}"));
        device.set("devnum", format!("{}\n", on_bus + 20));
    }
    node
}

/// The place of the n-th device, like `1-1.1`.
pub(super) fn place(n: usize) -> String {
    let on_bus = n % ON_A_BUS;
    format!("{}-{}.{}", bus(n), on_bus / ON_A_HUB + 1, on_bus % ON_A_HUB + 1)
}

/// The buses of USB 2 are the odd ones.
fn bus(n: usize) -> usize {
    n / ON_A_BUS * 2 + 1
}

/// vhci's table when nothing is attached.
fn ports() -> String {
    let port = |n: usize| {
        let half = if n < PORTS / 2 { "hs" } else { "ss" };
        format!("{half}  {n:04} 004 000 00000000 000000 0-0\n")
    };
    let heading = "hub port sta spd dev      sockfd local_busid\n";
    std::iter::once(heading.to_owned()).chain((0..PORTS).map(port)).collect()
}

#[cfg(test)]
mod tests {
    use patchbay_usb::scan::scan;

    use super::*;

    #[test]
    fn the_agent_finds_as_many_devices_as_there_shall_be_each_at_an_address_of_its_own() {
        for count in [0, 16, 300] {
            let node = node(&std::env::temp_dir(), count);
            let scan = scan(node.root());
            assert_eq!(scan.problems, Vec::<String>::new());
            let mut addresses: Vec<_> = scan.devices.iter().map(|d| d.attributes.address).collect();
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), count);
            let places: Vec<_> = scan.devices.iter().map(|d| d.attributes.port_path.to_string()).collect();
            assert_eq!(places, (0..count).map(place).collect::<Vec<_>>());
        }
    }
}
