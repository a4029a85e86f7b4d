//! The tap device: the end of the switch that is the lab's namespace itself.

use std::fs::{File, OpenOptions};

use anyhow::{Context, Result};
use rustix::ioctl::{Setter, ioctl};

/// Name of the interface.
pub const NAME: &str = "tap0";

/// `_IOW('T', 202, int)` of `linux/if_tun.h`.
const TUNSETIFF: u32 = 0x4004_54ca;
/// `IFF_TAP | IFF_NO_PI` of `linux/if_tun.h`: bare Ethernet frames.
const FLAGS: u16 = 0x0002 | 0x1000;

/// `struct ifreq` of `linux/if.h`: 40 bytes, of which the name and the flags are used.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the interface in the present network namespace; it lives as long as the file. One read or write is one frame.
///
/// # Errors
/// When there is no `/dev/net/tun`, or this is not the lab's own namespace.
pub fn open() -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").context(
        "cannot open /dev/net/tun: the kernel needs the module tun, and a lab without root a device of mode 0666",
    )?;
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    request.name.iter_mut().zip(NAME.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: TUNSETIFF reads a struct ifreq (40 bytes, which Request is) and writes the name back into it, which the
    // kernel does within these 40 bytes; the value lives on the stack of this call.
    #[expect(unsafe_code, reason = "the only way to make a tap device")]
    unsafe {
        ioctl(&file, Setter::<TUNSETIFF, Request>::new(request)).with_context(|| format!("cannot make {NAME}"))?;
    }
    rustix::io::ioctl_fionbio(&file, true)?;
    Ok(file)
}
