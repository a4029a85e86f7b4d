//! The agent's loop on the node where devices are used: it looks, plans with [`importer::plan`], and acts.
//!
//! A call to a home agent is a task of its own: it goes on while the plan is carried out, and ends in a session on the port
//! or in a failure. What the agent remembers ([`Agent`]) dies with it; the journal and the kernel do not.

use std::collections::{BTreeMap, VecDeque};

use patchbay_core::controller::world::{self, PodState};
use patchbay_core::home::{Request, Verdict, authorise};
use patchbay_core::importer::{self, Action, Attachment, Observed, Occupied, Port, Source, Step};
use patchbay_core::names::{NodeName, PodRef, Uid};
use patchbay_core::speed::PortName;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::exporter::evidence;
use crate::fault::FaultKind;
use crate::kernel::{Node, Session, strange};
use crate::laws;
use crate::pods::State;
use crate::scenario::{Grain, Scenario};
use crate::steps::Steps;

/// What an agent remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Agent {
    /// Calls under way, by the uid of the attachment pod.
    pub calls: BTreeMap<Uid, Call>,
    /// Steps that failed, and why.
    pub failures: BTreeMap<Step, String>,
    /// The rest of its plan.
    pub queue: VecDeque<Action>,
}

/// A call to a home agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who is asked.
    pub home: NodeName,
    /// Where the session shall go.
    pub port: PortName,
    /// The home agent's last word.
    pub word: String,
}

/// What the agent of a node sees.
pub fn observe(cluster: &Cluster, name: &NodeName, node: &Node) -> Observed {
    let api = &cluster.api;
    let mut seen = Observed::default();
    for ((namespace, pod), attachment) in api.seen.attachments.iter().filter(|(_, a)| a.node == *name) {
        if !api.bound.contains_key(&attachment.uid) {
            continue;
        }
        let view = Attachment {
            pod: PodRef { namespace: namespace.clone(), name: pod.clone(), uid: attachment.uid.clone() },
            device: attachment.device.clone(),
            vm_pod: attachment.vm_pod.clone(),
            wanted: !attachment.deleting && attachment.state != PodState::Ended,
            started: attachment.state == PodState::Running && !unfinished(api, node, attachment),
            source: node.prepared.get(&attachment.uid).filter(|p| !p.undoing).map(|p| p.source.clone()),
            reported: attachment.plugged.clone(),
            overdue: attachment.created < 0,
        };
        seen.attachments.insert(attachment.uid.clone(), view);
    }
    let wanted = node.pods.iter().filter(|(_, r)| matches!(r.state, State::Checked | State::Given(_)));
    seen.pods = wanted.map(|(uid, r)| (uid.clone(), r.source.clone())).collect();
    let own = node.plugged.iter().filter(|(_, l)| l.binding.is_none());
    seen.local = own.map(|(name, l)| (name.clone(), l.device.attributes.address)).collect();
    for (port, state) in &node.ports {
        let session = state.session.as_ref().map(|s| Occupied { address: s.address, stuck: false });
        let hung = state.hung.then_some(Occupied { address: None, stuck: true });
        let strange = state.stranger.then(|| Occupied { address: Some(strange(*port)), stuck: false });
        let occupied = session.or(hung).or(strange);
        seen.ports.insert(*port, Port { occupied, record: state.record.clone() });
    }
    seen.machines = node.machines.iter().map(|(uid, m)| (uid.clone(), m.devices.clone())).collect();
    seen.used = node.used.clone();
    seen.calls = node.agent.calls.iter().map(|(uid, c)| (uid.clone(), c.word.clone())).collect();
    seen.failures = node.agent.failures.clone();
    seen
}

/// Whether the claim of an attachment is being undone, for a pod that had it before.
fn unfinished(api: &Api, node: &Node, attachment: &world::Attachment) -> bool {
    let claim = api.claim_of(attachment).map(|(claim, _, _)| claim.uid);
    node.prepared.values().any(|p| p.undoing && Some(&p.claim) == claim.as_ref())
}

/// The steps of the agents as importers.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    for (name, node) in &cluster.nodes {
        act(cluster, scenario, name, node, steps);
        connect(cluster, name, node, steps);
        for (step, why) in node.agent.failures.iter().filter(|(step, why)| !stuck(cluster, name, node, step, why)) {
            let mut next = cluster.clone();
            next.change(name, |n| {
                n.agent.failures.remove(step);
            });
            steps.quiet(|| format!("{name}'s agent: has waited long enough after: {why} ({step:?})"), next);
        }
    }
}

/// Carries out the plan, one action after the other.
fn act(cluster: &Cluster, scenario: &Scenario, name: &NodeName, node: &Node, steps: &mut Steps) {
    let mut queue = node.agent.queue.clone();
    if queue.is_empty() {
        queue = importer::plan(&observe(cluster, name, node)).into();
        if let Some(twice) = twice(&queue) {
            steps.broken(format!("{name}'s agent plans the same twice: {twice}"));
        }
    }
    if cluster.faults > 0 && scenario.has(FaultKind::AgentFails) {
        fail(cluster, name, &queue, steps);
    }
    let mut next = cluster.clone();
    let mut done = Vec::new();
    while let Some(action) = queue.pop_front() {
        if let Action::Plug { address, reset: false, .. } = &action
            && next.node(name).is_some_and(|n| n.used.contains(address))
        {
            steps.broken(format!("{name}'s agent gives a guest {address:?} as another one has left it"));
        }
        perform(&mut next, name, &action);
        let plugs = matches!(action, Action::Plug { .. });
        done.push(action);
        if scenario.grain == Grain::Action {
            break;
        }
        if let Some(law) = plugs.then(|| laws::always(&next)).flatten() {
            steps.broken(format!("in the midst of {done:?}: {law}"));
        }
    }
    if !done.is_empty() {
        next.change(name, |n| n.agent.queue = queue);
        steps.quiet(|| format!("{name}'s agent: {done:?}"), next);
    }
}

/// The first thing that is in a list twice.
pub(crate) fn twice<T: PartialEq + std::fmt::Debug>(list: &VecDeque<T>) -> Option<String> {
    let repeated = list.iter().enumerate().find(|(index, item)| list.iter().take(*index).any(|other| other == *item));
    repeated.map(|(_, item)| format!("{item:?}"))
}

/// The next action fails, and the agent remembers that it did.
fn fail(cluster: &Cluster, name: &NodeName, queue: &VecDeque<Action>, steps: &mut Steps) {
    let mut queue = queue.clone();
    let Some(action) = queue.pop_front() else { return };
    let mut next = cluster.clone();
    next.change(name, |n| {
        let failed = match &action {
            Action::Call { user, .. } => Some(Step::Call(user.clone())),
            Action::Plug { attachment, .. } => Some(Step::Plug(attachment.clone())),
            Action::Unplug { vm_pod, device } => Some(Step::Unplug(vm_pod.clone(), device.clone())),
            Action::Detach { port } => Some(Step::Detach(*port)),
            _ => None,
        };
        n.agent.failures.extend(failed.map(|step| (step, "it failed".to_owned())));
        n.agent.queue = queue;
    });
    steps.fault(|| format!("{name}'s agent fails to do {action:?}"), next);
}

/// Does what the agent's shell does for an action.
pub fn perform(cluster: &mut Cluster, name: &NodeName, action: &Action) {
    match action {
        Action::Call { user, device, home, claim, port } => {
            let request = Request { peer: name.clone(), claim: claim.clone(), device: device.clone() };
            let call = Call { request, home: home.clone(), port: *port, word: format!("asking {home}") };
            // While the call lasts the port is nobody's.
            cluster.change(name, |n| match n.ports.get_mut(port).filter(|p| p.record.is_some()) {
                Some(busy) if !busy.is_free() => {
                    n.agent.failures.insert(Step::Call(user.clone()), format!("port {port} is not free yet"));
                }
                former => {
                    former.into_iter().for_each(|port| port.record = None);
                    n.agent.calls.insert(user.clone(), call);
                }
            });
        }
        Action::HangUp { user } => cluster.change(name, |n| {
            n.agent.calls.remove(user);
        }),
        Action::Plug { attachment, vm_pod, device, address, .. } => cluster.change(name, |n| {
            n.open(*address);
            let there = n.behind(name, *address).is_some();
            n.used.extend(there.then_some(*address));
            match n.machines.get_mut(&vm_pod.uid).filter(|_| there) {
                Some(machine) => machine.plug(device.clone(), *address),
                None => {
                    n.agent.failures.insert(Step::Plug(attachment.clone()), "no such device".to_owned());
                }
            }
        }),
        Action::Unplug { vm_pod, device } => cluster.change(name, |n| {
            if let Some(machine) = n.machines.get_mut(vm_pod) {
                machine.unplug(device);
            }
        }),
        Action::Detach { port } => cluster.change(name, |n| n.free(*port)),
        // What has been attached since the plan was made is kept.
        Action::Forget { port } => cluster.change(name, |n| {
            if let Some(port) = n.ports.get_mut(port).filter(|p| p.is_free()) {
                port.record = None;
            }
        }),
        Action::Report { pod, state } => {
            if let Some(attachment) = cluster.api_mut().attachment_mut(&pod.uid) {
                attachment.plugged = Some(state.clone());
            }
        }
    }
}

/// Calls that were granted become sessions: first the journal is written, then the kernel gets the socket.
fn connect(cluster: &Cluster, name: &NodeName, node: &Node, steps: &mut Steps) {
    for (uid, call) in &node.agent.calls {
        let device = &call.request.device;
        let local = cluster.node(&call.home).and_then(|n| n.plugged.get(device));
        let granted = local.and_then(|l| l.binding.as_ref()).and_then(|b| b.granting.as_ref());
        if granted != Some(&(name.clone(), uid.clone())) {
            continue;
        }
        let mut next = cluster.clone();
        next.change(&call.home, |n| {
            if let Some(binding) = n.plugged.get_mut(device).and_then(|l| l.binding.as_mut()) {
                binding.granting = None;
            }
        });
        next.change(name, |n| {
            n.agent.calls.remove(uid);
            match n.ports.get_mut(&call.port).filter(|p| p.is_free()) {
                Some(port) => {
                    port.record = Some(call.request.claim.uid.clone());
                    port.session = Some(Session { home: call.home.clone(), device: device.clone(), address: None });
                }
                None => {
                    n.agent.failures.insert(Step::Call(uid.clone()), format!("port {} is busy", call.port));
                }
            }
        });
        steps.quiet(|| format!("{name}'s agent: attaches {device} of {} to port {}", call.home, call.port), next);
    }
}

/// Whether another try would end as this one did. Trying it all the same changes nothing.
fn stuck(cluster: &Cluster, name: &NodeName, node: &Node, step: &Step, why: &str) -> bool {
    let Step::Call(uid) = step else { return false };
    let of_attachment = node.prepared.get(uid).filter(|_| cluster.api.attachment(uid).is_some()).map(|p| &p.source);
    let of_pod = node.pods.get(uid).filter(|r| r.state != State::Undoing).map(|r| &r.source);
    let Some(Source::Remote { device, home, claim, .. }) = of_attachment.or(of_pod) else { return false };
    let request = Request { peer: name.clone(), claim: claim.clone(), device: device.clone() };
    authorise(home, &request, &evidence(&cluster.api, home, &request)) == Verdict::Deny(why.to_owned())
}
