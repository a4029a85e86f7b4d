//! The plugin as kubelets, drivers and other processes treat it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

mod calls;
mod fragile;
mod halfway;
mod handover;
mod node;
mod probe;
mod processes;
#[path = "../support/mod.rs"]
mod support;
