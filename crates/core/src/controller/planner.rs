//! Plans for what has changed.
//!
//! A world falls into parts that have nothing to do with each other: a device, the machine that lists it, what is made for the
//! two. A part is planned for when something in it, or in a place where it is, has changed, and when the time has come that its last plan asked for; until
//! then that plan stays. So a change costs what the part costs in which it is, whatever the size of the cluster.
//!
//! [`plan`](super::plan) of a whole world says the same, but for the order of the actions.

mod changes;

use std::collections::{BTreeMap, BTreeSet};

use crate::conditions::Seconds;
use crate::controller::action::{Action, Plan};
use crate::controller::index::Index;
use crate::controller::links::Links;
use crate::controller::topic::Topic;
use crate::controller::world::World;
use crate::controller::{PHASES, part, phases, plan};

/// A world that changes object by object, and what is to be done about it.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    world: World,
    links: Links,
    /// What has changed since the last plan.
    dirty: BTreeSet<Topic>,
    /// Plans in which there is something to do or to wait for, the oldest first.
    plans: BTreeMap<u64, Kept>,
    /// The newest plan that was made for a topic, if it was kept.
    newest: Index<Topic, u64>,
    count: u64,
}

/// The plan of a part.
#[derive(Clone, Debug)]
struct Kept {
    topics: Vec<Topic>,
    /// What each phase says.
    phases: [Plan; PHASES.len()],
}

impl Kept {
    fn wake_at(&self) -> Option<Seconds> {
        self.phases.iter().filter_map(|plan| plan.wake_at).min()
    }
}

impl Planner {
    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Compares with the plan for the whole world, and says whether something was missed. Unless both say that nothing is to be done,
    /// everything is planned anew: what is kept may have been overtaken, which a comparison would not tell from a later time.
    pub fn doubt(&mut self, now: Seconds) -> bool {
        let kept = self.plan(now);
        let whole = plan(&self.world);
        let wakes = |plan: &Plan| plan.wake_at.unwrap_or(Seconds::MAX);
        let missed = kept.actions.len() != whole.actions.len() || wakes(&kept) > wakes(&whole);
        if !missed && whole.actions.is_empty() {
            return false;
        }
        self.plans.clear();
        self.newest.clear();
        let all = self.links.topics().filter(|topic| !topic.is_place()).cloned();
        let nodes = self.world.pools.keys().cloned().map(Topic::Node);
        self.dirty.extend(all.chain(nodes));
        missed
    }

    /// What to do at this time.
    pub fn plan(&mut self, now: Seconds) -> Plan {
        self.world.now = now;
        let due = self.plans.values().filter(|kept| kept.wake_at().is_some_and(|time| time <= now));
        self.dirty.extend(due.flat_map(|kept| &kept.topics).cloned());
        let dirty = std::mem::take(&mut self.dirty);
        let mut done = BTreeSet::new();
        for place in dirty.iter().filter(|topic| topic.is_place()) {
            if let Topic::Node(name) = place {
                let world = part::of_node(&self.world, name);
                self.keep(vec![place.clone()], phases(&world));
            }
            let inside: Vec<_> = self.links.in_place(place).into_iter().cloned().collect();
            inside.iter().for_each(|topic| self.renew(topic, &mut done));
        }
        dirty.iter().filter(|topic| !topic.is_place()).for_each(|topic| self.renew(topic, &mut done));
        self.all()
    }

    /// All that is to be done: phase by phase, as if it had been planned at once.
    fn all(&self) -> Plan {
        let mut all = Plan::default();
        // The only thing that several parts may ask for alike.
        let mut templates = BTreeSet::new();
        for phase in 0..PHASES.len() {
            for action in self.plans.values().filter_map(|kept| kept.phases.get(phase)).flat_map(|plan| &plan.actions) {
                match action {
                    Action::CreatePortTemplate { namespace, hub } if !templates.insert((namespace, *hub)) => {}
                    _ => all.actions.push(action.clone()),
                }
            }
        }
        self.plans.values().filter_map(Kept::wake_at).for_each(|time| all.wake(time));
        all
    }

    /// Plans for the part that something belongs to, unless that was done.
    fn renew(&mut self, topic: &Topic, done: &mut BTreeSet<Topic>) {
        if done.contains(topic) {
            return;
        }
        let part = self.links.part(topic);
        let topics: Vec<_> = part.topics.iter().map(|topic| (*topic).clone()).collect();
        let made = phases(&part.world(&self.world));
        done.extend(topics.iter().cloned());
        self.keep(topics, made);
    }

    /// Keeps a plan instead of those that were made for what it is about.
    fn keep(&mut self, topics: Vec<Topic>, phases: [Plan; PHASES.len()]) {
        for topic in &topics {
            if let Some(old) = self.newest.remove(topic) {
                self.plans.remove(&old);
            }
        }
        if phases.iter().all(|plan| *plan == Plan::default()) {
            return;
        }
        self.count += 1;
        self.newest.extend(topics.iter().map(|topic| (topic.clone(), self.count)));
        self.plans.insert(self.count, Kept { topics, phases });
    }

    /// The objects of the part that something belongs to.
    #[cfg(test)]
    pub(super) fn part(&self, of: &Topic) -> Vec<crate::controller::topic::Object> {
        self.links.part(of).objects.into_iter().cloned().collect()
    }

    /// The world, to be changed without telling.
    #[cfg(test)]
    pub(super) fn world_mut(&mut self) -> &mut World {
        &mut self.world
    }
}
