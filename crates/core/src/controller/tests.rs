//! Tables for the controller's planner: what it does in one world, word by word.
//!
//! What it does together with everybody else, in every order, is the matter of `patchbay-sim`.

mod attach;
mod builder;
mod census;
mod devices;
mod events;
mod every_order;
mod evictions;
mod machines;
mod moves;
mod operations;
mod planner;
mod pods;
mod quiet;
mod stopwatch;
mod why;
