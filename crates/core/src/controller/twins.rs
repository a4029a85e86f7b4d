//! Devices that claim one serial number: what is said of each because of the others.
//!
//! Makers clone serial numbers, and some devices lie. Of two that claim one number nothing but the place tells which is
//! which, so whoever gives them to different namespaces has to know of both. The warning is a part of the `Ready` message of
//! each `NodeUSBDevice`; it goes by itself when the other device does.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use crate::controller::index::Index;
use crate::controller::published::Published;
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
    pub(super) fn of(published: &'w Published<'_>) -> Self {
        let mut first: Index<Key<'w>, Place<'w>> = Index::default();
        first.reserve(published.len());
        let mut alike: BTreeMap<Key<'w>, Vec<Place<'w>>> = BTreeMap::new();
        for (object, found) in published.iter().filter(|(_, found)| found.ready) {
            let Some(key) = key(&found.device.attributes) else { continue };
            let place = Place { object, node: found.node, device: found.device };
            match first.entry(key) {
                Entry::Vacant(entry) => drop(entry.insert(place)),
                Entry::Occupied(other) => alike.entry(key).or_insert_with(|| vec![*other.get()]).push(place),
            }
        }
        // Few are alike, so only of these is it looked at what they say.
        alike.retain(|(_, _, serial), _| plausible(serial));
        alike.values_mut().for_each(|places| places.sort_by_key(|place| place.object));
        Self(alike)
    }

    /// What follows the `Ready` message of an object's device, if there is another of its serial number.
    pub(super) fn warning(&self, object: &DeviceName, device: Option<&Device>) -> Option<String> {
        let all = self.0.get(&key(&device?.attributes)?)?;
        let others: Vec<&Place<'_>> = all.iter().filter(|place| place.object != object).collect();
        // One that is on a dead node itself is not known to be anywhere.
        if others.len() == all.len() {
            return None;
        }
        let name = |p: &&Place<'_>| format!("{} (port {} of node {})", p.object, p.device.attributes.port_path, p.node);
        let mut names = others.iter().take(NAMED).map(name).collect::<Vec<_>>().join(", ");
        if let Some(more) = others.len().checked_sub(NAMED).filter(|n| *n > 0) {
            names = format!("{names} and {more} more");
        }
        Some(format!(
            "{MARK}another device has the same serial number: {names}; only their ports tell them apart, and one may be \
             taken for the other after both were unplugged"
        ))
    }
}

/// Whether a message carries a warning.
pub(super) fn is_warning(message: &str) -> bool {
    message.contains(MARK)
}

fn key(attributes: &Attributes) -> Option<Key<'_>> {
    Some((attributes.vendor_id, attributes.product_id, attributes.serial.as_deref()?))
}
