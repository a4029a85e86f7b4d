//! The importer's loop: looks at the node, asks [`patchbay_core::importer`] what to do, has it done.
//!
//! Every step runs as a task of its own with a deadline, so that a stuck machine or a silent home node holds up nothing else;
//! a step that is under way is not started again. What failed is not repeated before its back-off has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector;
use patchbay_core::conditions::PluggedState;
use patchbay_core::device::BusAddress;
use patchbay_core::importer::{
    Action, Held, Observed, Occupied, Port, Reach, Step, held, is_bringing, plan, reach, used_by_guests, used_here,
};
use patchbay_core::names::{DeviceName, NodeName, Uid};
use patchbay_dra::Records as Journal;
use patchbay_usb::scan::Scanned;
use patchbay_usbip::status::{PortState, VhciPort};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::containers::given_here;
use super::enumeration::Enumeration;
use super::inventory::{self, Inventory};
use super::machines::Machines;
use super::moves::Moving;
use super::pod_use::PodUse;
use super::pods;
use super::records::{Facts, Records};
use super::steps::{Steps, blocking, publish};

/// The net under the events.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After so long people are told what an attachment waits for.
const OVERDUE: Duration = Duration::from_secs(2);
/// No step may take longer.
const DEADLINE: Duration = Duration::from_secs(20);
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
const LAST_BACK_OFF: Duration = Duration::from_secs(15);

/// What the loop looks at.
pub(super) struct Eyes {
    /// This node.
    pub(super) node: NodeName,
    /// The attachment pods.
    pub(super) pods: reflector::Store<Pod>,
    /// The claims the kubelet has had prepared.
    pub(super) journal: watch::Receiver<Arc<Journal>>,
    /// Devices and ports.
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    /// What is ours.
    pub(super) records: Records,
    /// The monitors of virtual machines.
    pub(super) machines: Machines,
    /// Virtual machines whose devices are to be left alone.
    pub(super) moving: watch::Receiver<Moving>,
    /// Told how far the devices of ordinary pods are.
    pub(super) reach: watch::Sender<BTreeMap<Uid, Reach>>,
    /// Told what was looked at; None before the first look.
    pub(super) looked: watch::Sender<Option<Looked>>,
    /// Told what this node has not let go of; None before the first look.
    pub(super) held: watch::Sender<Option<Held>>,
    /// Told which devices of this node are used here; None before the first look.
    pub(super) used: watch::Sender<Option<BTreeSet<DeviceName>>>,
}

/// A look at the node.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// The claims that were known to be prepared.
    pub(super) journal: Arc<Journal>,
    /// The claims of attachments that do not want their device any more, by namespace and name. An attachment that was not seen yet is
    /// not among them: the kubelet may know it before us.
    pub(super) unwanted: BTreeSet<(String, String)>,
    /// A device was on its way into a guest.
    pub(super) bringing: bool,
}

/// What failed, and when it may be tried again.
#[derive(Default)]
struct Failures(BTreeMap<Step, Failure>);

struct Failure {
    why: String,
    until: Instant,
    back_off: Duration,
}

impl Failures {
    fn record(&mut self, step: Step, why: String) {
        let last = self.0.get(&step).map_or(FIRST_BACK_OFF / 2, |f| f.back_off);
        let back_off = (last * 2).min(LAST_BACK_OFF);
        self.0.insert(step, Failure { why, until: Instant::now() + back_off, back_off });
    }

    /// Those whose time has not come. Old ones are forgotten once they have not come again for a while.
    fn current(&mut self, now: Instant) -> BTreeMap<Step, String> {
        self.0.retain(|_, f| now < f.until + LAST_BACK_OFF);
        self.0.iter().filter(|(_, f)| now < f.until).map(|(s, f)| (s.clone(), f.why.clone())).collect()
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|f| f.until).filter(|t| *t > now).min()
    }
}

/// Runs for ever.
pub(super) async fn run(mut eyes: Eyes, steps: Arc<Steps>, wake: Arc<Notify>) {
    let failures = Arc::new(Mutex::new(Failures::default()));
    let under_way: Arc<Mutex<Vec<Key>>> = Arc::default();
    let mut waiting_since: BTreeMap<Uid, Instant> = BTreeMap::new();
    let mut enumeration = Enumeration::default();
    // Nothing is decided before the pods and the devices of this node are known: an empty store would read as "nobody wants
    // anything", an empty inventory as "every device has vanished".
    // And with moves unknown a device could come back into a machine that is on its way.
    if eyes.pods.wait_until_ready().await.is_err()
        || eyes.inventory.changed().await.is_err()
        || eyes.moving.wait_for(Option::is_some).await.is_err()
    {
        return;
    }
    loop {
        let now = Instant::now();
        let busy = under_way.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (seen, journal) = observe(&mut eyes, &steps, &failures, &mut waiting_since, &mut enumeration, now).await;
        // Before anybody acts on the rest: what is not known to be used may be withheld.
        publish(&eyes.used, Some(used_here(&seen, &plugging(&busy))));
        publish(&eyes.reach, reach(&seen));
        publish(&eyes.held, Some(held(&seen)));
        let unwanted = pods::unwanted_claims(&eyes.pods.state());
        eyes.looked.send_replace(Some(Looked { journal, unwanted, bringing: is_bringing(&seen) }));
        for action in plan(&seen) {
            // What has ended meanwhile may be seen half: the next look is on its way.
            if key(&action).is_none_or(|key| !busy.contains(&key)) {
                start(action, &eyes, &steps, &failures, &under_way, &wake);
            }
        }
        let next = [
            Some(now + LOOK_AGAIN),
            eyes.machines.retry_at(),
            failures.lock().unwrap_or_else(PoisonError::into_inner).next(now),
            waiting_since.values().map(|t| *t + OVERDUE).filter(|t| *t > now).min(),
            enumeration.next(now),
        ];
        tokio::select! {
            () = wake.notified() => {}
            _ = eyes.inventory.changed() => {}
            _ = eyes.journal.changed() => {}
            _ = eyes.moving.changed() => {}
            () = sleep_until(next.into_iter().flatten().min().unwrap_or(now + LOOK_AGAIN)) => {}
        }
    }
}

async fn observe(
    eyes: &mut Eyes,
    steps: &Steps,
    failures: &Mutex<Failures>,
    waiting_since: &mut BTreeMap<Uid, Instant>,
    enumeration: &mut Enumeration,
    now: Instant,
) -> (Observed, Arc<Journal>) {
    let of_attachments = eyes.pods.state().iter().filter_map(|pod| pods::vm_pod(pod)).collect::<BTreeSet<_>>();
    let known = eyes.records.facts().machines.clone();
    let asked: BTreeSet<Uid> = known.union(&of_attachments).cloned().collect();
    // A machine that is about to move, or has tried to meanwhile, is changed through another monitor.
    let (moves, moving) = (eyes.moving.has_changed().unwrap_or(true), eyes.moving.borrow().clone().unwrap_or_default());
    let there = eyes.inventory.borrow().addresses();
    let machines = eyes.machines.look(&asked, &there, |uid| moves || moving.contains(uid)).await;
    forget_machines(eyes, &known, &of_attachments, &machines).await;

    // All else is read after the one thing that takes time, so that a step which ended meanwhile is seen to have ended.
    let inventory = eyes.inventory.borrow_and_update().clone();
    let journal = eyes.journal.borrow_and_update().clone();
    let facts = eyes.records.facts();
    let used = used_by_guests(&facts.used, &inventory.addresses(), &machines);
    if used != facts.used {
        let used = used.clone();
        change(&eyes.records, move |facts| facts.used = used).await;
    }
    let overdue = |uid: &Uid| waiting_since.get(uid).is_some_and(|since| now >= *since + OVERDUE);
    let mut attachments = pods::attachments(&eyes.node, &eyes.pods.state(), &journal, overdue);
    steps.recall_reports(&mut attachments);
    let plugged =
        |uid: &Uid| attachments.get(uid).is_some_and(|a| matches!(a.reported, Some(PluggedState::Plugged(_))));
    waiting_since.retain(|uid, _| attachments.contains_key(uid) && !plugged(uid));
    for uid in attachments.keys().filter(|uid| !plugged(uid)) {
        waiting_since.entry(uid.clone()).or_insert(now);
    }

    let nameless = |p: &&VhciPort| p.state != PortState::Free && inventory.behind(p.name).is_none();
    enumeration.see(&inventory.ports.iter().filter(nameless).map(|p| p.name).collect(), now);
    let ports = inventory.ports.iter().map(|port| {
        let address = inventory.behind(port.name);
        let stuck = enumeration.is_stuck(port.name, now);
        let occupied = (port.state != PortState::Free).then_some(Occupied { address, stuck });
        (port.name, Port { occupied, record: facts.claim(port).cloned() })
    });
    // A device that is bound to usbip-host is on its way to or from another node.
    let here = |d: &&(_, Scanned)| d.1.driver.as_deref() != Some("usbip-host");
    let given = given_here(&eyes.node, &journal);
    let kept = |(name, scanned): &(DeviceName, Scanned)| {
        Some((name.clone(), inventory::kept(name, scanned, &given)?.message(&eyes.node)))
    };
    let pods = journal
        .iter()
        .filter_map(|(uid, record)| Some((Uid::new(uid), PodUse::of_record(&eyes.node, uid, record)?.source)));
    let seen = Observed {
        pods: pods.collect(),
        ports: ports.collect(),
        kept: inventory.devices.iter().filter_map(kept).collect(),
        local: inventory.devices.iter().filter(here).map(|(n, d)| (n.clone(), d.attributes.address)).collect(),
        attachments,
        machines,
        used,
        moving: eyes.moving.borrow_and_update().clone().unwrap_or_default(),
        calls: steps.calls(),
        failures: failures.lock().unwrap_or_else(PoisonError::into_inner).current(now),
    };
    (seen, journal)
}

/// Forgets machines that are gone, or that have nothing of ours and are asked for by no attachment.
async fn forget_machines(
    eyes: &Eyes,
    known: &BTreeSet<Uid>,
    asked: &BTreeSet<Uid>,
    seen: &BTreeMap<Uid, Vec<patchbay_core::importer::Plugged>>,
) {
    let done: Vec<Uid> = known
        .iter()
        .filter(|uid| !asked.contains(*uid))
        .filter(|uid| eyes.machines.is_gone(uid) || seen.get(*uid).is_some_and(Vec::is_empty))
        .cloned()
        .collect();
    if !done.is_empty() {
        change(&eyes.records, move |facts| facts.machines.retain(|uid| !done.contains(uid))).await;
    }
}

/// Writes down what the next look finds again if that fails.
async fn change(records: &Records, change: impl FnOnce(&mut Facts) + Send + 'static) {
    let records = records.clone();
    if let Err(error) = blocking(move || records.change(change).map_err(|error| error.to_string())).await {
        tracing::warn!(error, "records not written");
    }
}

/// What is never done twice at a time.
#[derive(Clone, PartialEq, Eq)]
enum Key {
    Step(Step),
    Report(Uid),
    /// A device that is being plugged.
    Device(BusAddress),
}

/// The devices that are being handed over to guests. What ends after this look is seen by the next one.
fn plugging(under_way: &[Key]) -> BTreeSet<BusAddress> {
    let device = |key: &Key| match key {
        Key::Device(address) => Some(*address),
        Key::Step(_) | Key::Report(_) => None,
    };
    under_way.iter().filter_map(device).collect()
}

fn key(action: &Action) -> Option<Key> {
    Some(match action {
        Action::Call { user, .. } => Key::Step(Step::Call(user.clone())),
        Action::Plug { attachment, .. } => Key::Step(Step::Plug(attachment.clone())),
        Action::Unplug { vm_pod, device } => Key::Step(Step::Unplug(vm_pod.clone(), device.clone())),
        Action::Detach { port } | Action::Forget { port } => Key::Step(Step::Detach(*port)),
        Action::Report { pod, .. } => Key::Report(pod.uid.clone()),
        Action::HangUp { .. } => return None,
    })
}

/// Starts a step, unless it is under way.
fn start(
    action: Action,
    eyes: &Eyes,
    steps: &Arc<Steps>,
    failures: &Arc<Mutex<Failures>>,
    under_way: &Arc<Mutex<Vec<Key>>>,
    wake: &Arc<Notify>,
) {
    let Some(key) = key(&action) else {
        if let Action::HangUp { user } = &action {
            steps.hang_up(user);
        }
        return;
    };
    let device = match &action {
        Action::Plug { address, .. } => Some(Key::Device(*address)),
        _ => None,
    };
    {
        let mut keys = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains(&key) {
            return;
        }
        keys.push(key.clone());
        keys.extend(device.clone());
    }
    let monitor = match &action {
        Action::Plug { vm_pod, .. } => eyes.machines.open(&vm_pod.uid),
        Action::Unplug { vm_pod, .. } => eyes.machines.open(vm_pod),
        _ => None,
    };
    // A call lasts as long as the home agent lets it wait; its parts have deadlines of their own.
    let deadline = if matches!(action, Action::Call { .. }) { Duration::MAX } else { DEADLINE };
    let (steps, failures, under_way, wake) = (steps.clone(), failures.clone(), under_way.clone(), wake.clone());
    tokio::spawn(async move {
        let begun = Instant::now();
        let result = timeout(deadline, steps.perform(&action, monitor)).await;
        let result = result.unwrap_or_else(|_| Err("no result in time".to_owned()));
        steps.metrics.step(&action, result.is_ok(), begun.elapsed());
        if let Err(why) = result {
            tracing::warn!(?action, why, "step failed");
            match &key {
                Key::Step(step) => failures.lock().unwrap_or_else(PoisonError::into_inner).record(step.clone(), why),
                // A report has no back-off in the plan: the key is held for that long instead.
                Key::Report(_) | Key::Device(_) => tokio::time::sleep(FIRST_BACK_OFF).await,
            }
        }
        under_way.lock().unwrap_or_else(PoisonError::into_inner).retain(|k| *k != key && Some(k) != device.as_ref());
        wake.notify_one();
    });
}
