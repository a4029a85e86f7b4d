//! Whether the drivers of this node have its devices: looks, asks [`patchbay_core::custody`], and does what it says.
//!
//! Of the devices that are not authorised those are ours that we have withheld: it is on the disk before it is done, with the
//! address the device had, so that one which has been away since, or which somebody else has blocked, is not taken for ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use patchbay_core::custody::{Idle, Keeper, Returned, Step, step};
use patchbay_core::device::{BusAddress, PortPath};
use patchbay_core::host_use::Keyboards;
use patchbay_core::names::{DeviceName, NodeName};
use patchbay_usb::custody::{self, authorize, withhold};
use patchbay_usb::host_use::{Claim, claim};
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan;
use tokio::sync::{Mutex, Notify, watch};

use self::assigned::{Assignment, assigned};
use super::inventory::Inventory;
use super::records::{Facts, Records};
use super::steps::{blocking, chain};

mod assigned;

/// What a node keeps for itself, and when it gets back what it has lent.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    /// When a device that nobody uses goes back to the drivers of the node.
    pub(super) returned: Returned,
    /// The keyboards that are the console's.
    pub(super) consoles: Keyboards,
}

/// The devices of one node, and who may have them on that node.
pub(super) struct Custody {
    node: NodeName,
    root: SysRoot,
    records: Records,
    policy: Policy,
    objects: reflector::Store<Assignment>,
    /// Devices that pods and machines of this node have or are to get; None before the first look.
    used: watch::Receiver<Option<BTreeSet<DeviceName>>>,
    rescan: Arc<Notify>,
    /// One change at a time: what was looked at is so until it is done.
    changing: Mutex<()>,
    /// The assignments have been read.
    known: watch::Receiver<bool>,
}

/// What Custody is made of, beside a watch of the node's objects.
pub(super) struct Parts {
    /// This node.
    pub(super) node: NodeName,
    /// Where sysfs is.
    pub(super) root: SysRoot,
    /// What is withheld.
    pub(super) records: Records,
    /// What is configured.
    pub(super) policy: Policy,
    /// Devices that pods and machines of this node have or are to get.
    pub(super) used: watch::Receiver<Option<BTreeSet<DeviceName>>>,
    /// Asks for another look at sysfs.
    pub(super) rescan: Arc<Notify>,
}

impl Custody {
    /// Begins to watch assignments; `changed` is called after each change of one.
    pub(super) fn watch(client: Client, parts: Parts, changed: impl Fn() + Send + 'static) -> Arc<Self> {
        let (objects, writer) = reflector::store();
        let of_node = watcher::Config::default().fields(&format!("status.nodeName={}", parts.node));
        let changes = reflector(writer, watcher(Api::<Assignment>::all(client), of_node)).default_backoff();
        tokio::spawn(changes.for_each(move |event| {
            if let Err(error) = event {
                tracing::warn!(%error, "watch of this node's devices: the last state is kept");
            }
            changed();
            std::future::ready(())
        }));
        let Parts { node, root, records, policy, used, rescan } = parts;
        let (read, known) = watch::channel(false);
        // One task waits for all: of several that wait for a store only the last one is woken.
        let store = objects.clone();
        tokio::spawn(async move { read.send_replace(store.wait_until_ready().await.is_ok()) });
        let changing = Mutex::default();
        Arc::new(Self { node, root, records, policy, objects, used, rescan, changing, known })
    }

    /// Waits until it is known which devices are assigned.
    pub(super) async fn ready(&self) {
        // Without an end when they never are: nothing may be decided then.
        let _ = self.known.clone().wait_for(|known| *known).await;
    }

    /// Tells when other devices are used here than before.
    pub(super) fn used(&self) -> watch::Receiver<Option<BTreeSet<DeviceName>>> {
        self.used.clone()
    }

    /// What is decided by, as it is now.
    pub(super) fn look(&self) -> Look {
        Look {
            facts: self.records.facts(),
            assigned: self.known.borrow().then(|| assigned(&self.objects)),
            used: self.used.borrow().clone(),
            returned: self.policy.returned,
        }
    }

    fn keeper(&self, place: &PortPath, address: BusAddress, authorized: bool) -> Keeper {
        self.records.facts().keeper(place, address, authorized)
    }

    /// Withholds or returns the device at a place, or neither. It is in no session, and nobody else works on it. True if
    /// something was done.
    ///
    /// # Errors
    /// It could not be done; in words.
    pub(super) async fn settle(&self, device: &DeviceName, place: &PortPath) -> Result<bool, String> {
        let _one = self.changing.lock().await;
        let Some((address, authorized)) = self.state(place).await? else { return Ok(false) };
        let look = self.look();
        match look.step(device, false, look.facts.keeper(place, address, authorized)) {
            Step::Leave => return Ok(false),
            Step::Return => self.authorize(place).await?,
            // A disk that the node has mounted a moment ago stays with it; from here on it cannot mount it.
            Step::Withhold => match self.claim(place).await {
                Ok(claim) => self.withhold(place, address, claim).await?,
                Err(_used) => {
                    self.rescan.notify_one();
                    return Ok(false);
                }
            },
        }
        let to = if authorized { "nobody" } else { "the node" };
        tracing::info!(device = %device, port = %place, to, "handed over");
        self.rescan.notify_one();
        Ok(true)
    }

    /// Lets the drivers of this node have a device of its own that a pod or machine here is to get.
    ///
    /// # Errors
    /// Somebody else has blocked it, or it could not be done; in words.
    pub(super) async fn open(&self, address: BusAddress) -> Result<(), String> {
        let _one = self.changing.lock().await;
        let Some(place) = self.place(address).await? else { return Ok(()) };
        self.may_use(&place).await?;
        self.authorize(&place).await
    }

    /// Has a device of this node forget what a guest has left it at: without a configuration it does. It is withheld afterwards.
    ///
    /// # Errors
    /// As for [`Custody::open`], or the node uses it itself.
    pub(super) async fn reset(&self, address: BusAddress) -> Result<(), String> {
        let _one = self.changing.lock().await;
        let Some(place) = self.place(address).await? else { return Ok(()) };
        self.may_use(&place).await?;
        let claim = self.claim(&place).await?;
        self.withhold(&place, address, claim).await
    }

    /// Where the device with an address is; None when it is gone.
    async fn place(&self, address: BusAddress) -> Result<Option<PortPath>, String> {
        let root = self.root.clone();
        blocking(move || Ok(scan::place_of(&root, address))).await
    }

    /// That nobody else has blocked the device at a place.
    ///
    /// # Errors
    /// Somebody has; in words.
    pub(super) async fn may_use(&self, place: &PortPath) -> Result<(), String> {
        match self.state(place).await? {
            Some((address, authorized)) if self.keeper(place, address, authorized) == Keeper::Another => Err(format!(
                "node {} lets nobody use the device: /sys/bus/usb/devices/{place}/authorized is 0, and it is not Patchbay \
                 that has written it; write 1 to it, or change what writes it",
                self.node
            )),
            _ => Ok(()),
        }
    }

    /// Forgets what was withheld and is not there any more, or is lent. Asks sysfs about those that the inventory does not show
    /// as withheld.
    ///
    /// # Errors
    /// The records could not be written; in words.
    pub(super) async fn forget(&self, inventory: &Inventory) -> Result<(), String> {
        let shown: BTreeMap<_, _> = inventory
            .devices
            .iter()
            .map(|(_, device)| (&device.attributes.port_path, (device.attributes.address, device.authorized)))
            .collect();
        let facts = self.records.facts();
        let doubtful = facts.withheld.iter().filter(|(place, at)| shown.get(place) != Some(&(**at, false)));
        let doubtful: BTreeSet<PortPath> = doubtful.map(|(place, _)| place.clone()).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let _one = self.changing.lock().await;
        let (root, records) = (self.root.clone(), self.records.clone());
        blocking(move || {
            let is_so = |place: &PortPath, at: BusAddress| custody::state(&root, place) == Some((at, false));
            let keep = |place: &PortPath, at: BusAddress| !doubtful.contains(place) || is_so(place, at);
            let forgotten = records.change(|facts| facts.withheld.retain(|place, at| keep(place, *at)));
            forgotten.map_err(|e| format!("records: {e}"))
        })
        .await
    }

    /// Takes the disks of a device from the node, if the node does not use it itself.
    ///
    /// # Errors
    /// It does; in words.
    pub(super) async fn claim(&self, place: &PortPath) -> Result<Claim, String> {
        let (root, path, node) = (self.root.clone(), place.clone(), self.node.clone());
        let consoles = self.policy.consoles.clone();
        blocking(move || claim(&root, &path, &consoles).map_err(|host| host.message(&node))).await
    }

    /// The address of the device at a place, and whether the node may use it.
    async fn state(&self, place: &PortPath) -> Result<Option<(BusAddress, bool)>, String> {
        let (root, path) = (self.root.clone(), place.clone());
        blocking(move || Ok(custody::state(&root, &path))).await
    }

    async fn withhold(&self, place: &PortPath, address: BusAddress, claim: Claim) -> Result<(), String> {
        let (root, records, path) = (self.root.clone(), self.records.clone(), place.clone());
        blocking(move || {
            let recorded = records.change(|facts| {
                facts.withheld.insert(path.clone(), address);
            });
            recorded.map_err(|e| format!("records: {e}"))?;
            let withheld = withhold(&root, &path).map_err(|e| chain(&e));
            drop(claim);
            withheld?;
            // It was pulled out and put back meanwhile: then it is that one which we have withheld.
            match custody::state(&root, &path) {
                Some((other, false)) if other != address => {
                    let recorded = records.change(|facts| {
                        facts.withheld.insert(path, other);
                    });
                    recorded.map_err(|e| format!("records: {e}"))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// A record that stays is forgotten later: it means nothing while the device is authorised.
    async fn authorize(&self, place: &PortPath) -> Result<(), String> {
        let (root, path) = (self.root.clone(), place.clone());
        blocking(move || authorize(&root, &path).map_err(|e| chain(&e))).await
    }
}

/// What is decided by, read once for all devices.
pub(super) struct Look {
    facts: Arc<Facts>,
    /// The devices that are assigned to a namespace; None before that is known.
    assigned: Option<BTreeSet<DeviceName>>,
    /// Those that pods and machines of this node have or are to get; None before that is known.
    used: Option<BTreeSet<DeviceName>>,
    returned: Returned,
}

impl Look {
    /// What is to be done about a device that is in no session, as far as that can be told without touching it.
    pub(super) fn wants(&self, device: &DeviceName, scanned: &scan::Scanned) -> Step {
        let attributes = &scanned.attributes;
        let keeper = self.facts.keeper(&attributes.port_path, attributes.address, scanned.authorized);
        self.step(device, scanned.host_use.is_some(), keeper)
    }

    fn step(&self, device: &DeviceName, host_uses: bool, keeper: Keeper) -> Step {
        let is_among = |all: &Option<BTreeSet<DeviceName>>| all.as_ref().map(|all| all.contains(device));
        let (assigned, used_here) = (is_among(&self.assigned), is_among(&self.used));
        step(&Idle { assigned, used_here, host_uses, keeper }, self.returned)
    }
}
