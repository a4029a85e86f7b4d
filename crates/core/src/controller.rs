//! The controller's planner: the whole world in, small actions out.
//!
//! # What it keeps true
//!
//! * A `NodeUSBDevice` for every published device; an assigned one is never forgotten, an unassigned one is after
//!   [`FORGET_AFTER`] of absence.
//! * At most one `USBDevice` for each, in the assigned namespace. When the assignment changes, the old one goes first, and
//!   only when nothing holds the device any more is the new one made.
//! * Beside each `USBDevice` a claim template of its name, for ordinary pods, which names the device as it is published now.
//! * For each device at most one attachment pod at a time; the device's claim exists while an attachment does.
//! * A machine runs in one pod. When it moves to another one, that is decided once, and nothing is left of the other.
//! * Conditions tell the truth. A step that is under way is only written down once it has taken [`UNDER_WAY_AFTER`], so that
//!   the ordinary attach costs one status write.
//!
//! Every function here is total: any world gives a plan, and the plan of the world that the plan leads to is empty.

pub mod action;
mod attachments;
pub mod census;
mod description;
mod devices;
mod engine;
pub mod events;
mod evictions;
mod index;
mod links;
mod machines;
mod migration;
mod moves;
mod operations;
mod part;
mod planner;
mod pods;
mod published;
pub(crate) mod status;
pub mod stopwatch;
pub mod topic;
mod twins;
mod view;
pub mod why;
pub mod world;

pub use action::{Action, NewAttachment, Plan};
pub use attachments::{attachment_name, claim_name, lacks_a_claim};
pub use engine::pod_name;
pub use migration::target_name;
pub use planner::Planner;
pub use world::World;

use crate::conditions::Seconds;
use view::View;

/// An unassigned device that is absent for so long is forgotten.
pub const FORGET_AFTER: Seconds = 600;

/// The slices of a node that is not ready for so long are removed, unless its agent has made them since.
pub const DEAD_AFTER: Seconds = 60;

/// What takes less than this is not worth a status write.
pub const UNDER_WAY_AFTER: Seconds = 2;

/// For how long an attachment pod may be there before its claims are seen: watches of different kinds are not told in order.
pub const CLAIMS_SEEN_WITHIN: Seconds = 5;

/// The most devices a virtual machine may list.
pub const MAX_DEVICES: usize = 16;

/// What a plan is made of, in this order.
const PHASES: [fn(&View<'_>, &mut Plan); 8] = [
    engine::plan,
    migration::plan,
    attachments::plan,
    devices::plan,
    machines::plan,
    operations::plan,
    evictions::plan,
    pods::plan,
];

/// Decides what to do about `world`.
pub fn plan(world: &World) -> Plan {
    let mut all = Plan::default();
    for plan in phases(world) {
        all.actions.extend(plan.actions);
        plan.wake_at.into_iter().for_each(|time| all.wake(time));
    }
    all
}

/// What each phase says.
fn phases(world: &World) -> [Plan; PHASES.len()] {
    let view = View::of(world);
    PHASES.map(|phase| {
        let mut plan = Plan::default();
        phase(&view, &mut plan);
        plan
    })
}

#[cfg(test)]
mod tests;
