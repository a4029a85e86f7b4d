//! A client of QEMU's monitor (QMP): only what plugging USB devices into a running guest, and moving it, needs.
//!
//! The monitor's socket lives in a folder that the virtual machine's pod can write to, and QEMU runs code of a guest
//! that may have broken out. So everything that comes from there is treated as hostile: the socket is opened without
//! following a link, lines have a length limit, every answer has a deadline, and any violation ends the connection
//! with a reason. What is plugged is written down nowhere: QEMU is asked, and a connection remembers for a moment what it
//! said, so a restarted agent knows as much as the one before it.
//!
//! ```text
//!  Monitor (handle, cheap to clone)
//!     | commands, one at a time          +--------------------+
//!     +--------------------------------> | driver: one task   | <==> monitor socket
//!     | <-- answers, events, closed() -- | owns the socket    |
//!                                        +--------------------+
//! ```
//!
//! * [`Monitor`]: the commands, one method each;
//! * [`usb`]: plug, unplug and list by the name of a device, over any leftovers;
//! * [`migration`]: move a guest to another QEMU;
//! * [`topology`]: where the guest sees its USB devices;
//! * [`Lines`] and [`Message`]: what the bytes of the socket mean.

mod driver;
mod error;
mod line;
mod message;
pub mod migration;
mod monitor;
mod socket;
pub mod topology;
pub mod usb;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod moving;
#[cfg(test)]
mod real;

pub use error::QmpError;
pub use line::{Lines, MAX_LINE, TooLong};
pub use message::{Event, Malformed, Message, Refusal};
pub use monitor::{FdInSet, FdSet, FdSetInfo, Monitor, Status};
