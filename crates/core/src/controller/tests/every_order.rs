//! A move in every order in which controller, agents and kubelets can take their steps, and in many with accidents.
//!
//! Of each plan any one action may be done next, so a controller that dies in between is among the orders.

use std::collections::BTreeSet;

use super::builder::{Builder, vm_pod, world};
use crate::conditions::{GuestPort, PluggedState};
use crate::controller::action::Action;
use crate::controller::target_name;
use crate::controller::world::{OperationKind, PodState, VmPod};
use crate::migration::{Decision, Report};
use crate::names::{Namespace, PodName, Uid};

/// What a QEMU does, by the uid of its pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Guest {
    Runs(Uid),
    Paused(Uid),
}

/// The world, what no object says of the guest, and how many accidents may still happen.
#[derive(Clone)]
struct Moment {
    it: Builder,
    guests: Vec<Guest>,
    accidents: u8,
}

impl Moment {
    fn begin(accidents: u8) -> Self {
        let it = world().node("node-1").node("node-2").node("node-3").device("stick", "node-1");
        let mut it = it.assigned("stick", "blue").vm("blue", "vm-a", "node-2", &["stick"]).settled();
        let guests = vec![Guest::Runs(it.pod_of("blue", "vm-a").uid.clone())];
        it.operation("op", OperationKind::Migrate, "vm-a");
        Self { it, guests, accidents }
    }

    /// The same for the same moments, and for no others.
    fn key(&self) -> String {
        format!("{:?}", (&self.it.world, &self.guests, self.accidents))
    }

    fn pods(&self) -> Vec<((Namespace, PodName), VmPod)> {
        self.it.world.vm_pods.iter().map(|(key, pod)| (key.clone(), pod.clone())).collect()
    }

    fn is(&self, guest: &Guest) -> bool {
        self.guests.contains(guest)
    }

    fn becomes(&mut self, uid: &Uid, guest: Option<Guest>) {
        self.guests.retain(|g| !matches!(g, Guest::Runs(of) | Guest::Paused(of) if of == uid));
        self.guests.extend(guest);
        self.guests.sort();
        let running = self.guests.iter().filter(|g| matches!(g, Guest::Runs(_))).count();
        assert!(running <= 1, "the machine runs twice: {:?}", self.guests);
    }

    /// The devices of a pod are in its guest, or out of it.
    fn devices(&mut self, uid: &Uid, state: &PluggedState) {
        for attachment in self.it.world.attachments.values_mut().filter(|a| a.vm_pod.uid == *uid && !a.deleting) {
            attachment.plugged = Some(state.clone());
        }
    }

    fn says(&mut self, key: &(Namespace, PodName), report: Report) {
        self.it.world.vm_pods.get_mut(key).unwrap().moving.report = Some(report);
    }

    /// All that may happen next, accidents last.
    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for action in self.it.plan().actions {
            if let Action::CreateVmPod { .. } = action {
                assert!(self.it.world.vm_pods.is_empty(), "a machine is started beside another pod of it");
            }
            let mut then = self.clone();
            then.it.perform(action);
            next.push(then);
        }
        for (key, pod) in self.pods() {
            self.kubelet(&key, &pod, &mut next);
            self.source(&key, &pod, &mut next);
            self.target(&key, &pod, &mut next);
        }
        self.attachments(&mut next);
        if self.accidents > 0 {
            self.accident(&mut next);
        }
        next
    }

    fn kubelet(&self, key: &(Namespace, PodName), pod: &VmPod, next: &mut Vec<Self>) {
        let mut then = self.clone();
        if pod.deleting {
            then.it.world.vm_pods.remove(key);
            then.becomes(&pod.uid, None);
            next.push(then);
        } else if pod.state == PodState::Pending {
            let target = pod.moving.from.is_some();
            let started = then.it.world.vm_pods.get_mut(key).unwrap();
            (started.state, started.node) = (PodState::Running, Some(if target { "node-3" } else { "node-2" }.into()));
            then.becomes(&pod.uid, (!target).then(|| Guest::Runs(pod.uid.clone())));
            next.push(then);
        }
    }

    /// The agent of the node a machine is to leave.
    fn source(&self, key: &(Namespace, PodName), pod: &VmPod, next: &mut Vec<Self>) {
        let Some(to) = &pod.moving.to else { return };
        let mut then = self.clone();
        let out = PluggedState::Waiting("the virtual machine is being moved".to_owned());
        match (pod.moving.decision, &pod.moving.report) {
            (None, None) => then.says(key, Report::Moving(None)),
            (None, Some(Report::Moving(_))) => {
                then.becomes(&pod.uid, Some(Guest::Paused(pod.uid.clone())));
                then.devices(&pod.uid, &out);
                then.says(key, Report::Paused);
                // Or the connection breaks; the guest has run all the time.
                let mut broken = self.clone();
                broken.says(key, Report::Failed("broken".to_owned()));
                next.push(broken);
            }
            (None, Some(Report::Paused)) => {
                let target = self.pods().into_iter().find(|(_, t)| t.uid == to.uid);
                let Some((target_key, target)) = target.filter(|(_, t)| t.moving.report.is_none()) else { return };
                then.becomes(&target.uid, Some(Guest::Paused(target.uid.clone())));
                then.says(&target_key, Report::Loaded);
            }
            (Some(Decision::Source), report) => {
                if self.is(&Guest::Runs(pod.uid.clone())) && matches!(report, Some(Report::Failed(_))) {
                    return;
                }
                then.becomes(&pod.uid, Some(Guest::Runs(pod.uid.clone())));
                then.devices(&pod.uid, &PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }));
                then.says(key, Report::Failed("called off".to_owned()));
            }
            _ => return,
        }
        next.push(then);
    }

    /// The agent of the node a machine is to come to.
    fn target(&self, key: &(Namespace, PodName), pod: &VmPod, next: &mut Vec<Self>) {
        let source = self.pods().into_iter().map(|(_, s)| s).find(|s| pod.moving.from.as_ref() == Some(&s.uid));
        let Some(source) = source.filter(|s| s.moving.to.as_ref().is_some_and(|to| to.uid == pod.uid)) else { return };
        if source.moving.decision != Some(Decision::Target) || pod.moving.report == Some(Report::Running) {
            return;
        }
        assert_eq!(pod.moving.report, Some(Report::Loaded), "it is decided for a target that has loaded nothing");
        let mut then = self.clone();
        then.becomes(&pod.uid, Some(Guest::Runs(pod.uid.clone())));
        then.says(key, Report::Running);
        next.push(then);
    }

    /// Kubelets start and end attachment pods, and agents plug what is wanted.
    fn attachments(&self, next: &mut Vec<Self>) {
        for (key, attachment) in &self.it.world.attachments {
            let mut then = self.clone();
            let found = then.it.world.attachments.get_mut(key).unwrap();
            let wanted = attachment.want == crate::controller::world::Want::Plugged;
            let held = self.it.world.attachments.values().any(|a| a.uid != attachment.uid && a.holds());
            if attachment.deleting {
                then.it.world.attachments.remove(key);
            } else if attachment.state == PodState::Pending {
                found.state = PodState::Running;
            } else if wanted && attachment.plugged.is_none() && !held {
                found.plugged = Some(PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }));
            } else {
                continue;
            }
            next.push(then);
        }
    }

    fn accident(&self, next: &mut Vec<Self>) {
        let calm = Self { accidents: self.accidents - 1, ..self.clone() };
        for (key, _) in self.pods().into_iter().filter(|(_, pod)| !pod.deleting) {
            let mut then = calm.clone();
            then.it.world.vm_pods.get_mut(&key).unwrap().deleting = true;
            next.push(then);
        }
        let operation = self.it.world.operations.get(&("blue".into(), "op".into()));
        if operation.is_some_and(|o| !o.deleting) {
            let mut then = calm.clone();
            if operation.is_some_and(|o| o.held) {
                then.it.world.operations.values_mut().for_each(|o| o.deleting = true);
            } else {
                then.it.world.operations.clear();
            }
            next.push(then);
            let mut then = calm;
            then.it.world.operations.clear();
            next.push(then);
        }
    }

    /// What must be true when nothing happens any more.
    fn is_at_rest(&self, name: &PodName) {
        let said = || format!("{:?}\n{:?}", self.it.world.operations, self.it.world.vm_pods);
        assert_eq!(self.it.world.vm_pods.len(), 1, "one pod: {}", said());
        let (_, pod) = self.pods().remove(0);
        assert!(self.is(&Guest::Runs(pod.uid.clone())), "the guest does not run: {}", said());
        assert!(self.it.world.operations.values().all(|o| o.status.is_finished() && !o.held), "unfinished: {}", said());
        assert_eq!(self.it.machine("blue", "vm-a"), "stick attached=true ready=true: attached");
        let completed = self
            .it
            .world
            .operations
            .values()
            .any(|o| o.status.phase == Some(crate::controller::world::OperationPhase::Completed));
        let moved = self.it.world.vm_pods.keys().all(|(_, found)| found == name);
        assert!(moved || self.it.world.vm_pods.contains_key(&("blue".into(), vm_pod("vm-a"))));
        assert!(!completed || moved || self.accidents == 0, "said to have moved: {}", said());
    }
}

/// Visits every moment that can be reached; gives how many there are, and at how many nothing happens any more.
fn explore(accidents: u8) -> (usize, usize) {
    let begin = Moment::begin(accidents);
    let name = target_name(&"vm-a".into(), &begin.it.world.operations[&("blue".into(), "op".into())].uid);
    let (mut seen, mut rests) = (BTreeSet::from([begin.key()]), 0);
    let mut left = vec![begin];
    while let Some(moment) = left.pop() {
        let quiet = Moment { accidents: 0, ..moment.clone() };
        if quiet.next().is_empty() {
            // The next look comes with time: of steps that are not worth writing down at first.
            let mut later = quiet;
            later.it.world.now += 10;
            later.it.settle();
            if later.next().is_empty() {
                later.is_at_rest(&name);
                rests += 1;
            }
        }
        for mut then in moment.next() {
            then.it.done.clear();
            if seen.insert(then.key()) {
                left.push(then);
            }
        }
    }
    (seen.len(), rests)
}

#[test]
fn a_move_ends_well_in_every_order_of_steps() {
    let (moments, rests) = explore(0);
    assert!(moments > 100 && rests > 0, "{moments} moments, {rests} at rest");
}

/// Walks one way, chosen by the seed, until nothing happens any more.
fn walk(seed: u64, accidents: u8) {
    let mut moment = Moment::begin(accidents);
    let name = target_name(&"vm-a".into(), &moment.it.world.operations[&("blue".into(), "op".into())].uid);
    let mut chance = seed;
    for _ in 0..400 {
        // xorshift
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let quiet = Moment { accidents: 0, ..moment.clone() };
        let mut next = if quiet.next().is_empty() { Vec::new() } else { moment.next() };
        if next.is_empty() {
            let before = moment.it.world.clone();
            moment.it.world.now += 10;
            moment.it.settle();
            moment.accidents = 0;
            if before.vm_pods == moment.it.world.vm_pods && moment.next().is_empty() {
                return moment.is_at_rest(&name);
            }
            continue;
        }
        let index = usize::try_from(chance).unwrap() % next.len();
        moment = next.swap_remove(index);
        moment.it.done.clear();
    }
    panic!("seed {seed}: no rest");
}

#[test]
fn a_move_ends_well_on_many_ways_with_up_to_two_accidents() {
    for seed in 1..=300_u64 {
        walk(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), u8::try_from(seed % 3).unwrap());
    }
}
