//! The importer's steps: one call, plug, unplug, detach or report each, as [`patchbay_core::importer`] asks for them.
//!
//! A step ends when what it did can be seen: the next look at the node must not ask for it again.

mod call;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use patchbay_api::{attachment, keys};
use patchbay_core::conditions::{PluggedState, Seconds};
use patchbay_core::device::BusAddress;
use patchbay_core::importer::{Action, Attachment};
use patchbay_core::names::{NodeName, PodRef, Uid};
use patchbay_core::speed::PortName;
use patchbay_link::Credentials;
use patchbay_qmp::{Monitor, usb};
use patchbay_usb::host_use::Claim;
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan;
use patchbay_usbip::vhci;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use self::call::{Call, Wanted};
use super::custody::Custody;
use super::inventory::Inventory;
use super::machines::tag;
use super::records::Records;
use crate::metrics::AgentMetrics;

/// One answer of the API server.
const API: Duration = Duration::from_secs(5);
/// How long the kernel may take to show what it was told.
const SHOWN: Duration = Duration::from_secs(5);

/// What the steps work with.
pub(super) struct Steps {
    /// To the API server.
    pub(super) client: Client,
    /// Where sysfs and devices are.
    pub(super) root: SysRoot,
    /// Who we are to other agents.
    pub(super) credentials: Credentials,
    /// The port other agents listen on.
    pub(super) port: u16,
    /// What is ours.
    pub(super) records: Records,
    /// Who may have the node's devices.
    pub(super) custody: Arc<Custody>,
    /// What the node has.
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    /// Asks for another look at sysfs.
    pub(super) rescan: Arc<Notify>,
    /// Wakes the importer's loop.
    pub(super) wake: Arc<Notify>,
    /// Counts.
    pub(super) metrics: AgentMetrics,
    /// Calls under way.
    pub(super) calls: Mutex<BTreeMap<Uid, Call>>,
    /// What was reported of each attachment, in case the API server's watch lags behind our own writes.
    pub(super) reports: Mutex<BTreeMap<Uid, (PluggedState, Seconds)>>,
}

impl Steps {
    /// Puts our own last report over what the watch has shown so far: nobody else writes that condition.
    pub(super) fn recall_reports(&self, attachments: &mut BTreeMap<Uid, Attachment>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.retain(|uid, _| attachments.contains_key(uid));
        for (uid, (state, _)) in reports.iter() {
            if let Some(attachment) = attachments.get_mut(uid) {
                attachment.reported = Some(state.clone());
            }
        }
    }

    /// Does one step.
    ///
    /// # Errors
    /// In words for people.
    pub(super) async fn perform(&self, action: &Action, monitor: Option<Monitor>) -> Result<(), String> {
        let monitor = || monitor.ok_or_else(|| "the virtual machine's monitor does not answer".to_owned());
        match action {
            Action::Call { user, device, home, claim, port } => {
                self.call(&Wanted { user, device, home, claim, port: *port }).await
            }
            Action::HangUp { user } => {
                self.hang_up(user);
                Ok(())
            }
            Action::Plug { vm_pod, device, address, reset, .. } => {
                let machine = vm_pod.uid.clone();
                self.change(move |facts| facts.machines.extend([machine])).await?;
                // Until QEMU has taken the device from its drivers, the node must not begin to use it.
                let _claim = self.claim(*address, *reset).await?;
                let path = self.root.device_node(*address);
                let node = blocking(move || {
                    let opened = std::fs::OpenOptions::new().read(true).write(true).open(&path);
                    opened.map_err(|e| format!("{}: {e}", path.display()))
                })
                .await?;
                let plugged = usb::plug(&monitor()?, device.as_str(), node.as_fd(), &tag(*address)).await;
                let plugged = plugged.map_err(|e| format!("QEMU does not take the device: {e}"))?;
                tracing::info!(device = %device, vm_pod = %vm_pod, bus = plugged.bus, port = plugged.port, "plugged");
                Ok(())
            }
            Action::Unplug { vm_pod, device } => {
                usb::unplug(&monitor()?, device.as_str()).await.map_err(|e| e.to_string())?;
                tracing::info!(device = %device, vm_pod = %vm_pod, "unplugged");
                Ok(())
            }
            Action::Detach { port } => {
                let (root, port) = (self.root.clone(), *port);
                blocking(move || vhci::detach(&root, port).map_err(|e| e.to_string())).await?;
                tracing::info!(port = %port, "port freed");
                self.shown(port, true).await
            }
            // A call that was granted writes its record before the kernel shows its session.
            Action::Forget { port } if self.is_called_for(*port) => Ok(()),
            Action::Forget { port } => self.disown(*port).await,
            Action::Report { pod, state } => self.report(pod, state).await,
        }
    }

    /// Lets the machine at a device of this node, and takes its disks from the node, if that does not use it itself. What is
    /// another node's is not asked for.
    async fn claim(&self, address: BusAddress, reset: bool) -> Result<Option<Claim>, String> {
        let root = self.root.clone();
        let of_node = move || {
            let place = scan::place_of(&root, address);
            Ok(place.filter(|place| !scan::is_imported(&root, place).unwrap_or(true)))
        };
        let Some(place) = blocking(of_node).await? else { return Ok(None) };
        if reset {
            self.custody.reset(address).await?;
        }
        self.custody.open(address).await?;
        let claimed = self.custody.claim(&place).await.map(Some);
        if claimed.is_err() {
            self.rescan.notify_one();
        }
        claimed
    }

    /// Forgets what a port was used for, once it is free.
    async fn disown(&self, port: PortName) -> Result<(), String> {
        let (root, records) = (self.root.clone(), self.records.clone());
        blocking(move || {
            if records.facts().last_claim(port).is_some() && !vhci::is_free(&root, port) {
                return Err(format!("port {port} is not free yet"));
            }
            records.change(|facts| facts.disown(port)).map_err(|e| format!("records: {e}"))
        })
        .await
    }

    /// Waits until the inventory shows a port free, or not.
    async fn shown(&self, port: PortName, free: bool) -> Result<(), String> {
        self.rescan.notify_one();
        let mut inventory = self.inventory.clone();
        let seen = inventory.wait_for(|i| i.is_free(port) == Some(free));
        match timeout(SHOWN, seen).await {
            Ok(Ok(_)) => Ok(()),
            // The device may have vanished again in between; the next look decides.
            _ => Err(format!("the kernel does not show port {port} {}", if free { "free" } else { "in use" })),
        }
    }

    async fn report(&self, pod: &PodRef, state: &PluggedState) -> Result<(), String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), pod.namespace.as_str());
        let now = jiff::Timestamp::now().as_second();
        // The time stays while the truth does.
        let since = {
            let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            let truth = |s: &PluggedState| matches!(s, PluggedState::Plugged(_));
            reports.get(&pod.uid).filter(|(last, _)| truth(last) == truth(state)).map_or(now, |(_, since)| *since)
        };
        let patch = attachment::plugged_patch(pod, state, since);
        let parameters = PatchParams::apply(keys::AGENT).force();
        let sent = timeout(API, pods.patch_status(pod.name.as_str(), &parameters, &Patch::Apply(patch))).await;
        match sent.map_err(|_| "the API server does not answer".to_owned())? {
            Ok(_) => {
                let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
                reports.insert(pod.uid.clone(), (state.clone(), since));
                Ok(())
            }
            // The pod is gone, or another one has its name: nobody is left to be told.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn change(&self, change: impl FnOnce(&mut super::records::Facts) + Send + 'static) -> Result<(), String> {
        let records = self.records.clone();
        blocking(move || records.change(change).map_err(|e| format!("records: {e}"))).await
    }
}

/// The address of a node's agent: it uses the node's network.
///
/// # Errors
/// In words for people.
pub(super) async fn address(client: &Client, node: &NodeName) -> Result<IpAddr, String> {
    let nodes = Api::<Node>::all(client.clone());
    let found = timeout(API, nodes.get(node.as_str())).await;
    let found =
        found.map_err(|_| "the API server does not answer".to_owned())?.map_err(|e| format!("node {node}: {e}"))?;
    let internal = patchbay_api::node::address(&found);
    let internal = internal.ok_or_else(|| format!("node {node} has no InternalIP address"))?;
    internal.parse().map_err(|_| format!("node {node} has the odd address {internal:?}"))
}

/// Runs what blocks where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.to_string()))
}

/// Tells `value` to whoever watches, if it is another than before.
pub(super) fn publish<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|now| {
        let changed = *now != value;
        *now = value;
        changed
    });
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
