//! The part of a machine's pod in a move of the machine.

use crate::migration::{Decision, Destination, Report};
use crate::names::Uid;

/// What is written on a pod of a machine about a move. All is empty on most pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Moving {
    /// It was made for the machine that runs, or ran, in the pod of this uid.
    pub from: Option<Uid>,
    /// The machine has moved here: it is its pod like any other now.
    pub arrived: bool,
    /// The machine is to move there.
    pub to: Option<Destination>,
    /// Where it runs from then on.
    pub decision: Option<Decision>,
    /// What the agent of its node has said of this very move.
    pub report: Option<Report>,
}
