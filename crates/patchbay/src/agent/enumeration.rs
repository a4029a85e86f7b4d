//! Ports that are in use and show no device yet, and which of them never will.
//!
//! The kernel brings the devices of one half of vhci up one after the other. So a port has its time from the moment at which
//! it could have begun: when it was attached, or when another one of its half was done. A node that is given eight devices
//! at once needs several times what one of them does, and none of them is stuck.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use patchbay_core::speed::{Hub, PortName};
use tokio::time::Instant;

/// A device that has not come up behind its port for so long never will.
const STUCK: Duration = Duration::from_secs(8);

/// The ports on which a device is coming up, and since when each has its time.
#[derive(Debug, Default)]
pub(super) struct Enumeration(BTreeMap<PortName, Instant>);

impl Enumeration {
    /// Takes in which ports are in use without a device now.
    pub(super) fn see(&mut self, coming: &BTreeSet<PortName>, now: Instant) {
        let moved: BTreeSet<Hub> = self.0.keys().filter(|port| !coming.contains(port)).map(|port| port.hub).collect();
        self.0.retain(|port, _| coming.contains(port));
        for (_, since) in self.0.iter_mut().filter(|(port, _)| moved.contains(&port.hub)) {
            *since = now;
        }
        for port in coming {
            self.0.entry(*port).or_insert(now);
        }
    }

    /// Whether the device of a port will not come up any more.
    pub(super) fn is_stuck(&self, port: PortName, now: Instant) -> bool {
        self.0.get(&port).is_some_and(|since| now >= *since + STUCK)
    }

    /// When the next port will be stuck if nothing happens.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|since| *since + STUCK).filter(|time| *time > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(names: &[&str]) -> BTreeSet<PortName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn stuck(seen: &Enumeration, now: Instant) -> Vec<String> {
        seen.0.keys().filter(|port| seen.is_stuck(**port, now)).map(ToString::to_string).collect()
    }

    #[test]
    fn a_port_is_stuck_when_it_has_had_its_time_and_shows_no_device() {
        let (mut seen, start) = (Enumeration::default(), Instant::now());
        seen.see(&ports(&["usb3-0"]), start);
        assert_eq!(seen.next(start), Some(start + STUCK));
        let later = start + STUCK;
        seen.see(&ports(&["usb3-0"]), later);
        assert_eq!((stuck(&seen, later), seen.next(later)), (vec!["usb3-0".to_owned()], None));
        seen.see(&ports(&[]), later);
        assert_eq!(stuck(&seen, later), Vec::<String>::new());
    }

    #[test]
    fn a_port_behind_others_of_its_half_has_its_time_when_they_are_done() {
        let (mut seen, start) = (Enumeration::default(), Instant::now());
        seen.see(&ports(&["usb2-0", "usb3-0", "usb3-1"]), start);
        let half = start + STUCK / 2;
        seen.see(&ports(&["usb2-0", "usb3-1"]), half);
        let whole = start + STUCK;
        seen.see(&ports(&["usb2-0", "usb3-1"]), whole);
        assert_eq!(stuck(&seen, whole), ["usb2-0"], "the other half has waited for nobody");
        assert_eq!(stuck(&seen, half + STUCK), ["usb2-0", "usb3-1"]);
    }
}
