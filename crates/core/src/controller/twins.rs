//! Devices that claim one serial number: what is said of each because of the others.
//!
//! Makers clone serial numbers, and some devices lie. Of two that claim one number nothing but the place tells which is
//! which, so whoever gives them to different namespaces has to know of both. The warning is a part of the `Ready` message of
//! each `NodeUSBDevice`; it goes by itself when the other device does.

use std::collections::BTreeMap;

use crate::controller::view::Published;
use crate::controller::world::World;
use crate::device::{Attributes, Device, HexId};
use crate::identity::plausible;
use crate::names::{DeviceName, NodeName};

/// What stands between the `Ready` message and the warning, and nowhere else.
const MARK: &str = "; warning: ";

/// So many of the others are named.
const NAMED: usize = 3;

/// What is to tell devices apart.
type Key<'w> = (HexId, HexId, &'w str);

/// The devices that are not alone with what they claim to be, by that.
pub(super) struct Claimants<'w>(BTreeMap<Key<'w>, Vec<Place<'w>>>);

/// A device of one object: where it is.
#[derive(Clone, Copy)]
struct Place<'w> {
    object: &'w DeviceName,
    node: &'w NodeName,
    device: &'w Device,
}

impl<'w> Claimants<'w> {
    /// `published` says which device stands behind which object. What a dead node has published may be anywhere by now.
    pub(super) fn of(world: &World, published: &'w Published<'w>) -> Self {
        let mut all = Vec::new();
        for (object, (node, device)) in published {
            let ready = world.nodes.get(*node).is_some_and(|n| n.ready);
            if let Some(key) = key(&device.attributes).filter(|_| ready) {
                all.push((key, Place { object, node, device }));
            }
        }
        // The order of the objects stays.
        all.sort_by_key(|(key, _)| *key);
        let alike = all.chunk_by(|(a, _), (b, _)| a == b).filter(|alike| alike.len() > 1);
        let places = |alike: &[(Key<'w>, Place<'w>)]| alike.iter().map(|(_, place)| *place).collect();
        Self(alike.filter_map(|alike| Some((alike.first()?.0, places(alike)))).collect())
    }

    /// The `Ready` message of an object's device, with the warning if there is another of its serial number.
    pub(super) fn warn(&self, object: &DeviceName, device: Option<&Device>, message: String) -> String {
        let claimants = device.and_then(|d| key(&d.attributes)).and_then(|key| self.0.get(&key));
        let all = claimants.map(Vec::as_slice).unwrap_or_default();
        let others: Vec<&Place<'_>> = all.iter().filter(|place| place.object != object).collect();
        // One that is on a dead node itself is not known to be anywhere.
        if others.is_empty() || others.len() == all.len() {
            return message;
        }
        let name = |p: &&Place<'_>| format!("{} (port {} of node {})", p.object, p.device.attributes.port_path, p.node);
        let mut names = others.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", ");
        if let Some(more) = others.len().checked_sub(NAMED).filter(|n| *n > 0) {
            names = format!("{names} and {more} more");
        }
        format!(
            "{message}{MARK}another device has the same serial number: {names}; only their ports tell them apart, and one \
             may be taken for the other after both were unplugged"
        )
    }
}

/// Whether a message carries a warning.
pub(super) fn is_warning(message: &str) -> bool {
    message.contains(MARK)
}

fn key(attributes: &Attributes) -> Option<Key<'_>> {
    let serial = attributes.serial.as_deref().filter(|s| plausible(s))?;
    Some((attributes.vendor_id, attributes.product_id, serial))
}
