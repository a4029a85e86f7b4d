//! The whole simulated cluster at one moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

use patchbay_core::controller::{Action, plan};
use patchbay_core::names::{DeviceName, NodeName, Uid};

use crate::api::Api;
use crate::kernel::Node;
use crate::scenario::Scenario;
use crate::steps::Steps;
use crate::{clock, controller, custody, exporter, fault, garbage, importer, kernel, kubelet, pods, scheduler, user};

/// A world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// What the API server holds.
    pub api: Arc<Api>,
    /// The nodes: kernel, kubelet, agent, guests.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
    /// What the controller has planned and not done yet.
    pub controller: Arc<VecDeque<Action>>,
    /// Devices that are plugged in nowhere.
    pub in_hand: BTreeSet<DeviceName>,
    /// How many edits people may still make.
    pub edits: u8,
    /// How many things may still go wrong.
    pub faults: u8,
}

impl Cluster {
    /// The API server's objects, to be changed.
    pub fn api_mut(&mut self) -> &mut Api {
        let api = Arc::make_mut(&mut self.api);
        api.hash.clear();
        api
    }

    /// A node.
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// A node, to be changed; a change of a node that does not exist is none.
    pub fn change(&mut self, name: &NodeName, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(name) {
            let node = Arc::make_mut(node);
            node.hash.clear();
            change(node);
        }
    }

    /// The uid of a new object called `name`. Uids that nothing mentions any more are used again, so that worlds that differ
    /// only in their past are the same world.
    pub fn fresh_uid(&self, name: &str) -> Uid {
        let mut text = None;
        for number in 0_u32.. {
            let uid = Uid::new(format!("{name}#{number}"));
            let text = text.get_or_insert_with(|| format!("{self:?}"));
            if !text.contains(&format!("{uid:?}")) {
                return uid;
            }
        }
        Uid::new(name)
    }

    /// Tells worlds apart. 64 bits: of a million worlds two are mistaken for each other once in 30 million runs.
    pub fn fingerprint(&self) -> u64 {
        let Self { nodes, controller, in_hand, edits, faults, .. } = self;
        let api = self.api_hash();
        let nodes = nodes.values().map(|n| n.hash.get(|| hash(n))).collect::<Vec<_>>();
        hash(&(api, nodes, controller, in_hand, edits, faults))
    }

    /// What the controller plans when it sees everything as it is. Most worlds differ in what it does not see.
    pub fn plan(&self, scenario: &Scenario) -> Arc<VecDeque<Action>> {
        let mut plans = scenario.plans.borrow_mut();
        // Without pods that would make claims from templates it makes no difference whether there are any.
        let of_pods = |a: &Action| matches!(a, Action::CreateTemplate { .. } | Action::DeleteTemplate { .. });
        let told = |a: &Action| scenario.pods || !of_pods(a);
        let plan = || {
            let whole = plan(&self.api.seen).actions;
            let mut planner = scenario.planner.borrow_mut();
            planner.follow(&self.api.seen);
            let parts = planner.plan(self.api.seen.now).actions;
            let same = whole.len() == parts.len() && whole.iter().all(|action| parts.contains(action));
            assert!(same, "for what has changed this is planned: {parts:?}\nand for the whole world: {whole:?}");
            Arc::new(whole.into_iter().filter(told).collect())
        };
        Arc::clone(plans.entry(self.api_hash()).or_insert_with(plan))
    }

    fn api_hash(&self) -> u64 {
        *self.api.hash.get(|| hash(&self.api))
    }

    /// Every step that is possible now.
    pub fn steps(&self, scenario: &Scenario, told: bool) -> Steps {
        let mut steps = Steps::new(told);
        scheduler::steps(self, scenario, &mut steps);
        kubelet::steps(self, &mut steps);
        pods::steps(self, &mut steps);
        garbage::steps(self, &mut steps);
        kernel::steps(self, &mut steps);
        if scenario.prompt && !steps.at_rest() {
            steps.only_first();
            return steps;
        }
        exporter::steps(self, scenario, &mut steps);
        custody::steps(self, scenario, &mut steps);
        importer::steps(self, scenario, &mut steps);
        controller::steps(self, scenario, &mut steps);
        clock::steps(self, &mut steps);
        user::steps(self, scenario, &mut steps);
        fault::steps(self, scenario, &mut steps);
        steps
    }
}

fn hash<T: Hash>(value: &T) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}
