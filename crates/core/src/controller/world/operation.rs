//! `VirtualMachineOperation`s.

use serde::{Deserialize, Serialize};

use crate::conditions::{Condition, Seconds};
use crate::names::{Uid, VmName};

/// A `VirtualMachineOperation`: something that is done to a machine once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    /// Its uid.
    pub uid: Uid,
    /// When it was created.
    pub created: Seconds,
    /// `metadata.generation`.
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// It stays, though deleted, until we let it go.
    pub held: bool,
    /// What is done.
    pub kind: OperationKind,
    /// The machine, in the same namespace.
    pub vm: VmName,
    /// Its status as last written by us.
    pub status: OperationStatus,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperationKind {
    /// Start the machine.
    Start,
    /// Stop it.
    Stop,
    /// Stop it and start it again.
    Restart,
    /// Move it to another node while it runs.
    Migrate,
    /// The same, because it has to leave its node.
    Evict,
}

impl OperationKind {
    /// All there are.
    pub const ALL: &[Self] = &[Self::Start, Self::Stop, Self::Restart, Self::Migrate, Self::Evict];

    /// As in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Stop => "Stop",
            Self::Restart => "Restart",
            Self::Migrate => "Migrate",
            Self::Evict => "Evict",
        }
    }

    /// Whether it moves the machine to another node.
    pub const fn moves(self) -> bool {
        matches!(self, Self::Migrate | Self::Evict)
    }
}

/// The status of a `VirtualMachineOperation`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OperationStatus {
    /// Where it is; None before the first status.
    pub phase: Option<OperationPhase>,
    /// The pod that ran the machine when the operation began.
    pub pod: Option<Uid>,
    /// When it began.
    pub begun: Option<Seconds>,
    /// When the machine was seen to be paused for a move.
    pub paused: Option<Seconds>,
    /// `status.observedGeneration`.
    pub observed_generation: i64,
    /// The condition `Completed`.
    pub conditions: Vec<Condition>,
}

impl OperationStatus {
    /// Whether it has come to its end, good or bad. It changes no more then.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Some(OperationPhase::Completed | OperationPhase::Failed))
    }
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperationPhase {
    /// Not begun.
    Pending,
    /// Begun.
    InProgress,
    /// Done.
    Completed,
    /// Not done; nothing more is tried.
    Failed,
}

impl OperationPhase {
    /// All there are.
    pub const ALL: &[Self] = &[Self::Pending, Self::InProgress, Self::Completed, Self::Failed];

    /// As in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }
}
