//! The page of `ui`: a picture of nodes, devices and machines, live, in a browser of this computer.
//!
//! ```text
//!   API server --watches--> [live] --world--> [picture] --JSON--> [http] --server-sent events--> page
//!        ^                                                          |
//!        +------- assign, attach, ... --- [act] <--- POST /do ------+
//! ```
//!
//! Whoever reaches the port is not let in by that: other users of this computer reach it, and so do pages of foreign
//! sites in the same browser. [`gate`] says who is.

mod act;
mod gate;
mod http;
mod live;
mod picture;

pub(crate) use act::Act;
pub(crate) use gate::{Gate, Secret};
pub(crate) use http::{Door, serve};
pub(crate) use live::{Scope, blank, follow, scope};
