//! The monitors of this node's virtual machines: one connection each, opened when a device is to be plugged, kept so that
//! the end of a QEMU is noticed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use patchbay_core::conditions::GuestPort;
use patchbay_core::device::BusAddress;
use patchbay_core::importer::{Plugged, has_still};
use patchbay_core::names::{DeviceName, Uid};
use patchbay_qmp::{Monitor, usb};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// How long QEMU may take to answer one command.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long looking at one machine may take, so that a stuck one does not hold up the others.
const LOOK: Duration = Duration::from_secs(4);
/// For so long a machine that is too busy to answer is taken to have what it had: it has lost nothing by being busy.
const BUSY: Duration = Duration::from_secs(60);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LAST_BACK_OFF: Duration = Duration::from_secs(5);

/// The machines that have been asked about.
pub(super) struct Machines {
    pods: PathBuf,
    wake: Arc<Notify>,
    connections: BTreeMap<Uid, Connection>,
}

enum Connection {
    Open { monitor: Monitor, _watcher: Watcher },
    Closed { retry: Instant, back_off: Duration },
}

/// Waits for the end of a connection; it holds one itself, so it must end with ours.
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The note that says which device of the node's kernel is plugged.
pub(super) fn tag(address: BusAddress) -> String {
    format!("{:03}-{:03}", address.bus, address.device)
}

fn parse_tag(tag: &str) -> Option<BusAddress> {
    let (bus, device) = tag.split_once('-')?;
    Some(BusAddress { bus: bus.parse().ok()?, device: device.parse().ok()? })
}

impl Machines {
    /// `pods` is the kubelet's folder of pods; `wake` is notified when a machine ends.
    pub(super) fn new(pods: PathBuf, wake: Arc<Notify>) -> Self {
        Self { pods, wake, connections: BTreeMap::new() }
    }

    /// What is plugged into each of the machines in the pods `asked`, as far as their monitors answer, or have answered a
    /// moment ago. Connections to others are closed. `there` are the devices that this node has; what is known of the machines
    /// `doubted` may have been changed by others.
    pub(super) async fn look(
        &mut self,
        asked: &BTreeSet<Uid>,
        there: &BTreeSet<BusAddress>,
        doubted: impl Fn(&Uid) -> bool,
    ) -> BTreeMap<Uid, Vec<Plugged>> {
        self.connections.retain(|uid, _| asked.contains(uid));
        let mut found = BTreeMap::new();
        for uid in asked {
            let Some(monitor) = self.monitor(uid).await else { continue };
            if doubted(uid) {
                usb::doubt(&monitor);
            }
            let last = usb::remembered(&monitor).map(|last| (last.read, last.sure, translate(last.plugged)));
            if let Some((_, true, plugged)) = &last
                && has_still(plugged, there)
            {
                found.insert(uid.clone(), plugged.clone());
                continue;
            }
            match (timeout(LOOK, usb::plugged(&monitor)).await, last) {
                (Ok(Ok(plugged)), _) => drop(found.insert(uid.clone(), translate(plugged))),
                (Ok(Err(error)), _) => {
                    tracing::warn!(pod = %uid, %error, "monitor of a virtual machine");
                    self.close(uid);
                }
                (Err(_), Some((read, _, plugged))) if read.elapsed() < BUSY => drop(found.insert(uid.clone(), plugged)),
                (Err(_), _) => {
                    tracing::warn!(pod = %uid, "the monitor of a virtual machine does not answer");
                    self.close(uid);
                }
            }
        }
        found
    }

    /// The open connection to a machine.
    pub(super) fn open(&self, uid: &Uid) -> Option<Monitor> {
        match self.connections.get(uid) {
            Some(Connection::Open { monitor, .. }) => Some(monitor.clone()),
            _ => None,
        }
    }

    /// Whether the pod's folder is gone from the node: the machine with it.
    pub(super) fn is_gone(&self, uid: &Uid) -> bool {
        matches!(self.pods.join(uid.as_str()).try_exists(), Ok(false))
    }

    /// When to try again to reach a machine that did not answer.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let retries = self.connections.values().filter_map(|c| match c {
            Connection::Closed { retry, .. } => Some(*retry),
            Connection::Open { .. } => None,
        });
        retries.min()
    }

    async fn monitor(&mut self, uid: &Uid) -> Option<Monitor> {
        let now = Instant::now();
        let back_off = match self.connections.get(uid) {
            Some(Connection::Open { monitor, .. }) => return Some(monitor.clone()),
            Some(Connection::Closed { retry, .. }) if *retry > now => return None,
            Some(Connection::Closed { back_off, .. }) => *back_off,
            None => FIRST_BACK_OFF,
        };
        // The name of the volume is the engine's; the folder is the kubelet's.
        let socket = self.pods.join(uid.as_str()).join("volumes/kubernetes.io~empty-dir/run/qmp.sock");
        match timeout(LOOK, Monitor::connect(&socket, PATIENCE)).await {
            Ok(Ok(monitor)) => {
                let (wake, watched) = (self.wake.clone(), monitor.clone());
                let watcher = Watcher(tokio::spawn(async move {
                    watched.closed().await;
                    wake.notify_one();
                }));
                self.connections.insert(uid.clone(), Connection::Open { monitor: monitor.clone(), _watcher: watcher });
                Some(monitor)
            }
            failed => {
                tracing::debug!(pod = %uid, error = ?failed.map(|r| r.err().map(|e| e.to_string())), "monitor not reached");
                let next = (back_off * 2).min(LAST_BACK_OFF);
                self.connections.insert(uid.clone(), Connection::Closed { retry: now + back_off, back_off: next });
                None
            }
        }
    }

    fn close(&mut self, uid: &Uid) {
        let retry = Instant::now() + FIRST_BACK_OFF;
        self.connections.insert(uid.clone(), Connection::Closed { retry, back_off: FIRST_BACK_OFF });
        self.wake.notify_one();
    }
}

/// QEMU's words in ours. What QEMU no longer reaches is a leftover, whatever its note says.
fn translate(plugged: Vec<usb::Plugged>) -> Vec<Plugged> {
    let one = |plugged: usb::Plugged| {
        let alive = plugged.attached;
        let bus = u16::try_from(plugged.bus).ok();
        let guest = bus.filter(|_| alive && !plugged.port.is_empty()).map(|bus| GuestPort { bus, port: plugged.port });
        Plugged { device: DeviceName::new(plugged.name), address: parse_tag(&plugged.tag).filter(|_| alive), guest }
    };
    plugged.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_the_kernel_device() {
        let address = BusAddress { bus: 3, device: 17 };
        assert_eq!(tag(address), "003-017");
        assert_eq!(parse_tag(&tag(address)), Some(address));
        assert_eq!(parse_tag("x"), None);
    }

    #[test]
    fn what_qemu_no_longer_reaches_is_a_leftover() {
        let plugged =
            usb::Plugged { name: "stick".into(), tag: "003-017".into(), bus: 0, port: "1".into(), attached: false };
        assert_eq!(translate(vec![plugged]), [Plugged { device: "stick".into(), address: None, guest: None }]);
    }
}
