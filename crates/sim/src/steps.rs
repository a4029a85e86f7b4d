//! The steps that are possible in a world, and the worlds they lead to.

use crate::cluster::Cluster;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A party of the system does what it does anyway.
    Quiet,
    /// Somebody edits an object.
    Edit,
    /// Something goes wrong, or a cable is moved.
    Fault,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whose it is.
    pub kind: Kind,
    /// What it does, for a story; empty unless stories are told.
    pub label: String,
    /// The world after it.
    pub next: Cluster,
}

/// All steps out of one world.
#[derive(Debug, Default)]
pub struct Steps {
    told: bool,
    all: Vec<Step>,
    /// A rule that was found broken while the steps were worked out.
    pub broken: Option<String>,
    /// Nobody has anything to do, and nothing is young: only minutes, people or accidents can change this world.
    pub rest: bool,
}

impl Steps {
    /// None yet. Labels are only made when a story is `told`: they cost more than the steps.
    pub fn new(told: bool) -> Self {
        Self { told, ..Self::default() }
    }

    /// Adds a step.
    pub fn add(&mut self, kind: Kind, label: impl FnOnce() -> String, next: Cluster) {
        let label = if self.told { label() } else { String::new() };
        self.all.push(Step { kind, label, next });
    }

    /// Adds a party's own step.
    pub fn quiet(&mut self, label: impl FnOnce() -> String, next: Cluster) {
        self.add(Kind::Quiet, label, next);
    }

    /// Adds a fault, at its price.
    pub fn fault(&mut self, label: impl FnOnce() -> String, mut next: Cluster) {
        next.faults = next.faults.saturating_sub(1);
        self.add(Kind::Fault, label, next);
    }

    /// No party has a step of its own so far.
    pub fn at_rest(&self) -> bool {
        self.all.iter().all(|s| s.kind != Kind::Quiet)
    }

    /// Whoever was first is so quick that nobody else can act before.
    pub fn only_first(&mut self) {
        self.all.truncate(1);
    }

    /// Reports a broken rule; the first one counts.
    pub fn broken(&mut self, rule: String) {
        self.broken.get_or_insert(rule);
    }

    /// The steps, in a fixed order.
    pub fn into_vec(self) -> Vec<Step> {
        self.all
    }
}
