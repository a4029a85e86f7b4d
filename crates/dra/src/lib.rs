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
//! | [`cdi`] | writes what containers get |
//!
//! ```text
//!   sockets --- service --- prepare --- your Driver
//!                              |             |
//!                           journal       CDI files
//!
//!   your pools --- publisher --- slices (pure plan) --- API
//! ```
//!
//! A driver needs from its cluster role: get on resourceclaims and nodes; list,
//! watch, create, update and delete on resourceslices. It runs as root with the
//! kubelet's folder mounted at its own path.
//!
//! `examples/two_devices.rs` is a whole driver.

pub mod atomic_file;
mod authority;
mod backoff;
pub mod cdi;
mod claims;
mod driver;
mod health;
mod journal;
mod observed;
mod plugin;
mod pool;
mod prepare;
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
pub use publisher::{Patience, PublisherStatus, SlicePublisher};
pub use registration::Registration;
pub use slices::Publishing;
pub use socket::SocketError;
