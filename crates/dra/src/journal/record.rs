//! What the journal knows about claims.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::driver::{AllocatedClaim, AllocatedDevice, PreparedDevice};

/// How far a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The driver was asked to prepare it and has not finished, or the node was
    /// rebooted since it had.
    Preparing,
    /// Prepared.
    Prepared,
    /// The driver was asked to undo it and has not finished.
    Unpreparing,
}

/// What is known about one claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Namespace of the ResourceClaim.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// The devices that were allocated.
    pub allocated: Vec<AllocatedDevice>,
    /// What the driver answered; empty until prepared.
    #[serde(default)]
    pub prepared: Vec<PreparedDevice>,
    /// The driver's own data.
    #[serde(default)]
    pub data: Value,
}

impl Record {
    /// The record to write before the driver acts on a claim.
    pub(crate) fn preparing(claim: &AllocatedClaim) -> Self {
        Self {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            state: State::Preparing,
            allocated: claim.devices.clone(),
            prepared: Vec::new(),
            data: Value::Null,
        }
    }

    /// Takes back that the claim is prepared: it has to be done again.
    pub(super) fn expire(&mut self) {
        if self.state == State::Prepared {
            self.state = State::Preparing;
            self.prepared.clear();
        }
    }
}

/// All records by claim uid, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records(pub(super) BTreeMap<String, Record>);

impl Records {
    /// The record of a claim.
    pub fn get(&self, uid: &str) -> Option<&Record> {
        self.0.get(uid)
    }

    /// All of them, sorted by claim uid.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.0.iter().map(|(uid, record)| (uid.as_str(), record))
    }

    /// Those that are prepared.
    pub fn prepared(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.iter().filter(|(_, record)| record.state == State::Prepared)
    }

    /// Those that are not: work under way or, right after the start, work that a
    /// crash has interrupted or a reboot has undone.
    pub fn unfinished(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.iter().filter(|(_, record)| record.state != State::Prepared)
    }
}
