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
mod machines;
mod migration;
mod moves;
mod operations;
mod pods;
mod published;
pub(crate) mod status;
pub mod stopwatch;
mod twins;
mod view;
pub mod why;
pub mod world;

pub use action::{Action, NewAttachment, Plan};
pub use attachments::{attachment_name, claim_name, lacks_a_claim};
pub use engine::pod_name;
pub use migration::target_name;
pub use world::World;

use crate::conditions::Seconds;

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

/// Decides what to do about `world`.
pub fn plan(world: &World) -> Plan {
    let world = &view::View::of(world);
    let mut plan = Plan::default();
    engine::plan(world, &mut plan);
    migration::plan(world, &mut plan);
    attachments::plan(world, &mut plan);
    devices::plan(world, &mut plan);
    machines::plan(world, &mut plan);
    operations::plan(world, &mut plan);
    evictions::plan(world, &mut plan);
    pods::plan(world, &mut plan);
    plan
}

#[cfg(test)]
mod tests;
