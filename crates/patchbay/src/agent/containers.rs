//! What the containers of ordinary pods get: the device nodes of their device, by a CDI file for each claim.
//!
//! A container gets `/dev/bus/usb/BBB/DDD` and the nodes that the kernel's drivers have made (`/dev/ttyACM0`,
//! `/dev/hidraw0`, ...), and each once more under a name that stays: `/dev/usb/by-name/<device>/usb`, `.../tty0`. Anybody
//! in the container may use them: what it may use at all is for the runtime's device cgroup.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patchbay_core::device::BusAddress;
use patchbay_core::importer::{Reach, Source};
use patchbay_core::names::{DeviceName, NodeName, Uid};
use patchbay_dra::cdi::{CdiFolder, DeviceNode, Edits};
use patchbay_dra::{DriverError, Journal, Record, Records};
use patchbay_usb::nodes::{DeviceNodes, nodes};
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::custody::Custody;
use super::pod_use::PodUse;
use super::steps::blocking;

/// How long a pod's start waits for its device; the kubelet gives all of it 45 s, and asks again.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long drivers may take to make the nodes of a device that is there. Not every interface has one.
const DRIVERS: Duration = Duration::from_secs(1);
/// How long a disk may take to be found.
const DISKS: Duration = Duration::from_secs(8);
/// How often sysfs is looked at meanwhile: drivers tell nobody that they have nothing more to add.
const LOOK: Duration = Duration::from_millis(50);

/// How far the devices of pods are, from the importer's loop.
pub(super) type Reaches = watch::Receiver<BTreeMap<Uid, Reach>>;

/// Gives devices to containers.
#[derive(Clone)]
pub(super) struct Containers {
    root: SysRoot,
    custody: Arc<Custody>,
    cdi: CdiFolder,
}

/// What the containers of a claim were given; kept in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    /// The device's address at that time: their nodes are dead once it has another one.
    pub(super) address: BusAddress,
    /// The nodes below `/dev`, for people.
    nodes: Vec<String>,
}

/// The devices of this node that containers have, each with the address under which they were given it.
pub(super) fn given_here(node: &NodeName, journal: &Records) -> BTreeMap<DeviceName, BusAddress> {
    let given = |(uid, record): (&str, &Record)| match PodUse::of_record(node, uid, record)?.source {
        Source::Local { device } => {
            let given = serde_json::from_value::<Given>(record.data.clone()).ok()?;
            Some((device, given.address))
        }
        Source::Remote { .. } => None,
    };
    journal.prepared().filter_map(given).collect()
}

impl Containers {
    /// `folder` is where the container runtime looks for CDI files.
    pub(super) fn new(root: SysRoot, custody: Arc<Custody>, folder: &std::path::Path) -> Self {
        Self { root, custody, cdi: CdiFolder::new(folder, patchbay_core::DRIVER, "device") }
    }

    /// Removes the files that a crash has left. What cannot be removed is only said: no claim depends on it.
    pub(super) async fn clean_up(&self, journal: &Journal) {
        let (cdi, journal) = (self.cdi.clone(), journal.clone());
        let cleaned = blocking(move || cdi.remove_orphans(&journal).map_err(|e| super::steps::chain(&e))).await;
        if let Err(problem) = cleaned {
            tracing::warn!(problem, "CDI files that nobody needs may be left");
        }
    }

    /// Waits until the device of a claim is here, and writes what containers get: the CDI names, and what to remember.
    ///
    /// # Errors
    /// The device does not come in time, or the file cannot be written; in words.
    pub(super) async fn give(
        &self,
        uid: &str,
        wanted: &PodUse,
        mut reach: Reaches,
    ) -> Result<(Vec<String>, Given), DriverError> {
        let key = Uid::new(uid);
        let here = |reaches: &BTreeMap<Uid, Reach>| matches!(reaches.get(&key), Some(Reach::Here(_)));
        let found = timeout(PATIENCE, reach.wait_for(here)).await;
        let address = match found.ok().and_then(Result::ok).as_deref().and_then(|r| r.get(&key)) {
            Some(Reach::Here(address)) => Some(*address),
            _ => None,
        };
        let Some(address) = address else {
            let why = match reach.borrow().get(&key) {
                Some(Reach::Away(why)) => why.clone(),
                Some(Reach::Here(_)) | None => "it is being looked for".to_owned(),
            };
            return Err(
                format!("USB device {} is not here after {} s: {why}", wanted.device(), PATIENCE.as_secs()).into()
            );
        };
        self.write(uid, wanted, address).await
    }

    /// Writes what containers that start from now on get of a device with this address.
    ///
    /// # Errors
    /// The node itself uses the device, or the file cannot be written.
    pub(super) async fn write(
        &self,
        uid: &str,
        wanted: &PodUse,
        address: BusAddress,
    ) -> Result<(Vec<String>, Given), DriverError> {
        self.is_free(wanted, address).await?;
        let made = self.settled(address, wanted.disks).await?;
        let edits = edits(wanted.device(), address, &made, wanted.disks);
        let given = Given { address, nodes: edits.device_nodes.iter().map(|n| n.path.clone()).collect() };
        let (cdi, uid, device) = (self.cdi.clone(), uid.to_owned(), wanted.device().to_string());
        let ids = blocking(move || cdi.write(&uid, &[(device, edits)]).map_err(|e| super::steps::chain(&e))).await?;
        Ok((ids, given))
    }

    /// Takes back what was written for a claim.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(super) async fn take(&self, uid: &str) -> Result<(), DriverError> {
        let (cdi, uid) = (self.cdi.clone(), uid.to_owned());
        Ok(blocking(move || cdi.remove(&uid).map_err(|e| super::steps::chain(&e))).await?)
    }

    /// Lets the drivers of the node have a device of its own, if the node does not use it itself at this moment. It may begin
    /// to a moment later: what containers have stays with its drivers.
    async fn is_free(&self, wanted: &PodUse, address: BusAddress) -> Result<(), String> {
        if matches!(wanted.source, Source::Remote { .. }) {
            return Ok(());
        }
        let root = self.root.clone();
        let place = blocking(move || Ok(scan::place_of(&root, address))).await?;
        let Some(place) = place else { return Ok(()) };
        self.custody.open(address).await?;
        self.custody.claim(&place).await.map(drop)
    }

    /// The nodes of a device, once no more are to be expected.
    async fn settled(&self, address: BusAddress, disks: bool) -> Result<DeviceNodes, String> {
        let begin = Instant::now();
        loop {
            let root = self.root.clone();
            let made = blocking(move || Ok(nodes(&root, address))).await?;
            let patience = if made.may_grow(disks) && !made.may_grow(false) { DISKS } else { DRIVERS };
            if !made.may_grow(disks) || begin.elapsed() >= patience {
                return Ok(made);
            }
            sleep(LOOK).await;
        }
    }
}

/// The nodes of a device for a container: under the kernel's names, and under names that stay.
fn edits(device: &DeviceName, address: BusAddress, made: &DeviceNodes, disks: bool) -> Edits {
    let by_name = |name: &str| format!("/dev/usb/by-name/{device}/{name}");
    let node = |path: String, host: &str| DeviceNode {
        path,
        host_path: Some(host.to_owned()),
        permissions: Some("rw".to_owned()),
        file_mode: Some(0o666),
        ..DeviceNode::default()
    };
    let usbfs = format!("/dev/bus/usb/{address}");
    let mut all = vec![node(usbfs.clone(), &usbfs), node(by_name("usb"), &usbfs)];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for made in made.nodes.iter().filter(|n| disks || !n.is_block()) {
        let host = format!("/dev/{}", made.name);
        let count = counts.entry(&made.subsystem).or_default();
        all.push(node(host.clone(), &host));
        all.push(node(by_name(&format!("{}{count}", made.subsystem)), &host));
        *count += 1;
    }
    Edits { device_nodes: all, ..Edits::default() }
}

#[cfg(test)]
mod tests {
    use patchbay_usb::nodes::DeviceNode as Made;

    use super::*;

    #[test]
    fn a_container_gets_each_node_under_two_names_and_disks_only_when_asked() {
        let made = |name: &str, subsystem: &str| Made { name: name.into(), subsystem: subsystem.into() };
        let nodes = vec![made("sda", "block"), made("ttyACM3", "tty"), made("ttyACM4", "tty")];
        let all = DeviceNodes { nodes, drivers: vec![] };
        let paths = |disks| -> Vec<_> {
            let edits = edits(&"modem-k3f9a".into(), BusAddress { bus: 1, device: 5 }, &all, disks);
            edits.device_nodes.into_iter().map(|n| n.path).collect()
        };
        assert_eq!(
            paths(false),
            [
                "/dev/bus/usb/001/005",
                "/dev/usb/by-name/modem-k3f9a/usb",
                "/dev/ttyACM3",
                "/dev/usb/by-name/modem-k3f9a/tty0",
                "/dev/ttyACM4",
                "/dev/usb/by-name/modem-k3f9a/tty1",
            ]
        );
        assert!(paths(true).contains(&"/dev/usb/by-name/modem-k3f9a/block0".to_owned()));
    }
}
