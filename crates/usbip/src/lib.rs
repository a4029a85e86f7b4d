//! The kernel's USB/IP, through sysfs.
//!
//! | module | does |
//! |---|---|
//! | [`host`] | the home side: binds devices to usbip-host, gives them sockets, gives them back |
//! | [`vhci`] | the importer's side: the ports of vhci_hcd, attach and detach |
//! | [`status`] | reads vhci's table of ports |
//! | [`modules`] | loads the modules both sides need |
//!
//! The kernel keeps all state: a session goes on when the process that made it is gone, and whoever comes next reads here
//! what there is. Nothing in this crate remembers anything.
//!
//! # Blocking
//!
//! Every function is synchronous. Writes to sysfs bind and unbind drivers and may take 100 ms and more; loading a module
//! may take seconds. Callers in async code use `spawn_blocking`.

pub mod host;
pub mod modules;
pub mod status;
pub mod vhci;
