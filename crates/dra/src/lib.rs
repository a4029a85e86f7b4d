//! A framework for Dynamic Resource Allocation (DRA) drivers, for Kubernetes
//! 1.34 and later.
//!
//! A driver says which devices its node has, and makes those that the scheduler
//! has allocated to a claim usable for the pods of the claim. This crate does what
//! every such driver has to do besides:
//!
//! | part | what it does |
//! |---|---|
//! | [`Plugin`] | serves the kubelet: registration, prepare and unprepare, health |
//! | [`Driver`] | what a driver implements: two methods |
//! | [`Journal`] | remembers across crashes which claims are prepared |
//! | [`SlicePublisher`] | keeps the ResourceSlices equal to the pools a driver wants |
//! | [`cdi`] | writes what containers get, and cleans up after a crash |
//! | [`Probe`], [`liveness`] | tell the kubelet when it does not reach the plugin any more |
//! | [`http`] | answers `GET`s of one path: probes, scrapes |
//!
//! ```text
//!   sockets --- service --- prepare --- your Driver
//!                              |             |
//!                           journal       CDI files
//!
//!   your pools --- publisher --- slices (pure plan) --- API
//! ```
//!
//! `README.md` says what a driver needs from its cluster, what happens at a
//! crash, an update and a power loss, and which test shows each promise;
//! `examples/two_devices.rs` is a whole driver.

pub mod atomic_file;
mod authority;
mod backoff;
pub mod cdi;
mod claims;
mod driver;
mod health;
pub mod http;
mod journal;
mod label;
pub mod liveness;
mod observed;
mod pace;
mod plugin;
mod pool;
mod prepare;
mod probe;
pub mod proto;
mod publisher;
mod registration;
mod server;
mod service;
pub mod slices;
mod socket;
mod turns;

pub use claims::{ClaimError, resolve};
pub use driver::{
    AllocatedClaim, AllocatedDevice, ClaimRef, ConfigSource, DeviceConfig, Driver, DriverError, Prepared,
    PreparedDevice,
};
pub use futures::future::BoxFuture;
pub use health::{DeviceHealth, HealthState};
pub use journal::{Journal, JournalError, Record, Records, State};
pub use plugin::{Plugin, PluginBuilder, PluginError};
pub use pool::{LeftOut, MAX_ATTRIBUTES, MAX_STRING, NodeScope, Pool, attribute_text};
pub use probe::{Fault, Probe, Unreachable};
pub use publisher::{Patience, PublisherStatus, SlicePublisher};
pub use registration::Registration;
pub use slices::Publishing;
pub use socket::SocketError;

/// The driver in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
