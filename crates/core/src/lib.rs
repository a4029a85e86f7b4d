//! Patchbay's decisions.
//!
//! Everything the system decides is here, as functions from what was seen to what shall be done: synchronous, without
//! I/O, clock or randomness. The shells (`crates/patchbay`) look, call a planner, do what it says and report.
//!
//! | module | decides |
//! |---|---|
//! | [`identity`] | which name a device has, through ports, nodes and twins |
//! | [`conditions`] | what people read about a device |
//! | [`messages`] | what each of these reasons means, and what to do about it |
//! | [`controller`] | what the controller writes, from all that the API server knows |
//! | [`importer`] | what the agent does on the node where a device is used |
//! | [`migration`] | what the agents do when a machine moves to another node |
//! | [`host_use`] | what a device that its own node uses is kept from |
//! | [`containers`] | what becomes of the device nodes that containers have |
//! | [`custody`] | when the drivers of its node have a device that is lent to nobody |
//! | [`doctor`] | what is wrong with an installation |
//! | [`home`] | who may have a device, and when it goes back to its host driver |
//! | [`crowd`] | which of too many callers has to go |
//! | [`trust`] | who is who: which certificates are signed, by whom, and when they are renewed |
//! | [`uninstall`] | what is done before the chart goes, and whether it may |
//!
//! The vocabulary ([`names`], [`device`], [`device_parameters`], [`speed`], [`age`]) makes illegal values unwritable: text is parsed once, at the edge.

pub mod age;
pub mod conditions;
pub mod containers;
pub mod controller;
pub mod crowd;
pub mod custody;
pub mod device;
pub mod device_parameters;
pub mod doctor;
pub mod home;
pub mod host_use;
pub mod identity;
pub mod importer;
pub mod messages;
pub mod migration;
pub mod names;
pub mod speed;
pub mod trust;
pub mod uninstall;

/// The DRA driver's name, and the prefix of every label, annotation and condition of ours.
pub const DRIVER: &str = "usb.virtualization.deckhouse.io";
