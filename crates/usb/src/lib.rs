//! What Linux says about USB devices.
//!
//! | module | says |
//! |---|---|
//! | [`scan`] | which devices this node has, and which of them it imported |
//! | [`host_use`] | which of them the host uses itself |
//! | [`custody`] | which of them the node's drivers may have |
//! | [`nodes`] | which device nodes a device has |
//! | [`names`] | what to call a device that does not say |
//! | [`hints`] | that it is time to look again |
//! | [`uevents`] | what a kernel message says |
//! | [`root`] | where sysfs is; readers and writers of its attributes |
//!
//! Sysfs is the truth. Kernel messages only wake whoever reads it: they are lost under load, and a message about a device
//! is old when it is read.

pub mod custody;
pub mod hints;
pub mod host_use;
pub mod names;
pub mod nodes;
pub mod root;
pub mod scan;
pub mod uevents;

#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
