//! What this node offers: its devices, its ports, and which claim uses each.
//!
//! What is published of it takes fifteen times as much memory, so that is made only when the offer is another one.

use std::sync::Arc;

use patchbay_api::slice;
use patchbay_core::device::Device;
use patchbay_core::importer::Source;
use patchbay_core::names::{NodeName, Uid};
use patchbay_core::speed::PortName;
use patchbay_dra::{NodeScope, Pool, Records as JournalRecords};
use tokio::sync::watch;

use super::containers::given_here;
use super::inventory::Inventory;
use super::records::{Facts, Records};
use super::upkeep::InReach;

/// The offer at one moment.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    /// Each with the claim that has it in reach here.
    devices: Vec<(Device, Option<Uid>)>,
    /// Each with the claim whose device is behind it.
    ports: Vec<(PortName, Option<Uid>)>,
}

impl Offer {
    fn of(published: Vec<Device>, inventory: &Inventory, facts: &Facts, used: &InReach) -> Self {
        let device = |device: Device| {
            let user = user(used, |s| matches!(s, Source::Local { device: d } if *d == device.name));
            (device, user)
        };
        let port = |name: PortName| (name, user(used, |s| matches!(s, Source::Remote { port, .. } if *port == name)));
        Self {
            devices: published.into_iter().map(device).collect(),
            ports: inventory.offered(facts).into_iter().map(|found| port(found.name)).collect(),
        }
    }

    /// As it is published. What the API would not take is left out, and logged.
    fn pools(&self, node: &NodeName) -> Vec<Pool> {
        let devices = self.devices.iter().map(|(device, _)| slice::device(device, node));
        let tokens = self.devices.iter().map(|(device, user)| slice::token(&device.name, node, user.as_ref()));
        let ports = self.ports.iter().map(|(port, user)| slice::port(port, user.as_ref()));
        let pools = [
            Pool::new(slice::device_pool(node), NodeScope::AllNodes, devices),
            Pool::new(slice::port_pool(node), NodeScope::NodeName(node.to_string()), ports.chain(tokens)),
        ];
        for problem in pools.iter().flat_map(|(_, problems)| problems) {
            tracing::error!(%problem, "a device of ours is not one the API takes");
        }
        pools.into_iter().map(|(pool, _)| pool).collect()
    }
}

/// The claim that uses what `is` describes.
fn user(used: &InReach, is: impl Fn(&Source) -> bool) -> Option<Uid> {
    used.iter().find(|(_, source)| is(source)).map(|(uid, _)| uid.clone())
}

/// Turns what the node has into what is published. Nothing is published before the first look.
pub(super) async fn publish(
    node: NodeName,
    records: Records,
    mut journal: watch::Receiver<Arc<JournalRecords>>,
    mut inventory: watch::Receiver<Arc<Inventory>>,
    mut in_reach: watch::Receiver<InReach>,
    pools: watch::Sender<Option<Vec<Pool>>>,
) {
    if inventory.changed().await.is_err() {
        return;
    }
    let mut known = None;
    loop {
        let found = inventory.borrow_and_update().clone();
        let published = found.published(&given_here(&node, &journal.borrow_and_update()));
        let offer = Some(Offer::of(published, &found, &records.facts(), &in_reach.borrow_and_update()));
        if offer != known {
            pools.send_replace(offer.as_ref().map(|offer| offer.pools(&node)));
            known = offer;
        }
        tokio::select! {
            changed = inventory.changed() => if changed.is_err() { return },
            changed = journal.changed() => if changed.is_err() { return },
            changed = in_reach.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::device::{Attributes, BusAddress, HexId};
    use patchbay_core::names::ClaimRef;
    use patchbay_core::speed::Speed;
    use patchbay_usbip::status::{PortState, VhciPort};

    use super::*;

    fn device(name: &str) -> Device {
        let attributes = Attributes {
            vendor_id: HexId(0x0951),
            product_id: HexId(0x1666),
            bcd: HexId(0x0100),
            address: BusAddress { bus: 1, device: 2 },
            serial: None,
            manufacturer: None,
            product: None,
            name: name.to_owned(),
            speed: Speed::High,
            port_path: "1-1".parse().unwrap(),
            class: 0,
        };
        Device { name: name.into(), attributes, not_ready: None }
    }

    #[test]
    fn each_port_and_each_token_names_the_claim_that_uses_it() {
        let (node, port): (NodeName, PortName) = ("node-1".into(), "usb2-0".parse().unwrap());
        let claim = ClaimRef { namespace: "blue".into(), name: "usb-key".into(), uid: "u-port".into() };
        let used: InReach = [
            ("u-port".into(), Source::Remote { device: "key".into(), home: "node-2".into(), claim, port }),
            ("u-local".into(), Source::Local { device: "stick".into() }),
        ]
        .into();
        let mut inventory = Inventory::default();
        inventory.ports.push(VhciPort { number: 0, name: port, state: PortState::Free });
        let offer = Offer::of(vec![device("stick"), device("other")], &inventory, &Facts::default(), &used);
        let pools = offer.pools(&node);
        let tokens = [("other", None), ("stick", Some(Uid::from("u-local")))]
            .map(|(name, user)| slice::token(&name.into(), &node, user.as_ref()));
        let port = slice::port(&port, Some(&"u-port".into()));
        assert_eq!(pools[0].devices().iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["other", "stick"]);
        assert_eq!(pools[1].devices().len(), 3);
        assert!(tokens.iter().chain([&port]).all(|device| pools[1].devices().contains(device)));
    }
}
