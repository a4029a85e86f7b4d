//! What this node has in its hands: what it has not let go of, what is ours, and what guests and pods of it have or have had.

use std::collections::{BTreeMap, BTreeSet};

use super::{Observed, Plugged, Source};
use crate::device::BusAddress;
use crate::names::{DeviceName, Uid};

/// What this node has not let go of yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The claims of devices that have a port.
    pub claims: BTreeSet<Uid>,
    /// Devices of this node that are in a guest whose attachment does not have them.
    pub local: BTreeSet<DeviceName>,
}

impl Held {
    /// Whether the device of this claim is among it. `local` are the devices of this node that are allocated to the claim.
    pub fn has(&self, claim: &Uid, local: &[DeviceName]) -> bool {
        self.claims.contains(claim) || local.iter().any(|device| self.local.contains(device))
    }
}

/// What this node has not let go of yet. As long as it holds a device, the claim is not undone: whoever gets the device next
/// would pull it out from under a guest that uses it, and QEMU 7.2 may end by that.
pub fn held(seen: &Observed) -> Held {
    // Whoever has it by a claim of his own does not keep the former one's from being undone.
    let owned = |name: &DeviceName, address: BusAddress| {
        let has = |p: &Plugged| p.address == Some(address);
        let mut owners = seen.attachments.values().filter(|a| a.wanted).filter(|a| match &a.source {
            Some(Source::Local { device }) => device == name,
            _ => false,
        });
        owners.any(|a| seen.machines.get(&a.vm_pod.uid).is_some_and(|m| m.iter().any(has)))
    };
    let in_guest = seen.local.iter().filter(|(name, address)| in_any_guest(seen, **address) && !owned(name, **address));
    Held {
        claims: seen.ports.values().filter_map(|port| port.record.clone()).collect(),
        local: in_guest.map(|(name, _)| name.clone()).collect(),
    }
}

/// Whether what is attached to a port is what we have attached, by bus and device number on the home node: `recorded` when we
/// did so, `attached` as the kernel shows it now. When our session has ended, somebody else may have attached another device
/// while no agent was there to see it. What is not known is no reason to give a port up.
pub fn is_ours(recorded: Option<u32>, attached: Option<u32>) -> bool {
    recorded.is_none() || attached.is_none() || recorded == attached
}

/// The devices of this node that a guest or pod of it has, or is to get: its drivers have to be let at them. `plugging` are
/// the addresses of devices that are being handed over to guests since before this look, wanted or not.
pub fn used_here(seen: &Observed, plugging: &BTreeSet<BusAddress>) -> BTreeSet<DeviceName> {
    let local = |source: &Source| match source {
        Source::Local { device } => Some(device.clone()),
        Source::Remote { .. } => None,
    };
    let wanted = seen.attachments.values().filter(|a| a.wanted).filter_map(|a| a.source.as_ref());
    let asked = wanted.chain(seen.pods.values()).filter_map(local);
    let has = |address: &BusAddress| plugging.contains(address) || in_any_guest(seen, *address);
    let in_guest = seen.local.iter().filter(|(_, address)| has(address));
    asked.chain(in_guest.map(|(name, _)| name.clone())).collect()
}

/// The devices that guests have been seen to have: those known `before` that are still `there`, and those that machines have now.
/// The kernel gives numbers of devices that are gone to others in time.
pub fn used_by_guests(
    before: &BTreeSet<BusAddress>,
    there: &BTreeSet<BusAddress>,
    machines: &BTreeMap<Uid, Vec<Plugged>>,
) -> BTreeSet<BusAddress> {
    let now = machines.values().flatten().filter_map(|plugged| plugged.address);
    now.chain(before.intersection(there).copied()).collect()
}

/// Whether what a guest had a moment ago is what it has, if nobody has changed that since: all of it is in place, and all the
/// devices are still `there`. QEMU tells nobody that a device has vanished from the node, and notices it late.
pub fn has_still(had: &[Plugged], there: &BTreeSet<BusAddress>) -> bool {
    had.iter().all(|p| p.guest.is_some() && p.address.is_some_and(|address| there.contains(&address)))
}

pub(super) fn in_any_guest(seen: &Observed, address: BusAddress) -> bool {
    seen.machines.values().flatten().any(|p| p.address == Some(address))
}
