//! Messages about devices that are not there, told by the kernel to whoever listens in this network namespace.
//!
//! Whoever administers a network namespace may have its kernel say something: a message that is sent to the kernel's end of
//! `NETLINK_KOBJECT_UEVENT` goes to the group of the kernel's own, as one of them (`uevent_net_rcv_skb` in
//! `lib/kobject_uevent.c`; made for containers). Nobody outside the namespace hears it.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// The first type that is no message of netlink itself (`NLMSG_MIN_TYPE`); the kernel does not look at it here.
const TYPE: u16 = 0x10;
/// `NLM_F_REQUEST` and `NLM_F_ACK`: the kernel answers, with what went wrong or with 0.
const FLAGS: u16 = 0x1 | 0x4;

/// The way to the kernel.
pub(super) struct Kernel(OwnedFd);

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// When there are no such sockets here.
    pub(super) fn open() -> Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT));
        Ok(Self(socket.context("no socket for messages about devices")?))
    }

    /// Has it say that a USB device has changed. `path` is the device's folder below `/sys`, with a slash before it.
    ///
    /// # Errors
    /// When the kernel does not: the network namespace belongs to somebody else.
    pub(super) fn says_changed(&self, path: &str) -> Result<()> {
        let message = message(path).context("the path is too long")?;
        sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))
            .context("cannot tell the kernel")?;
        let mut answer = [0; 2 * HEADER + 4];
        let (_, length) = recv(&self.0, &mut answer, RecvFlags::empty()).context("the kernel does not answer")?;
        let error = answer.get(..length).and_then(|answer| answer.get(HEADER..HEADER + 4)?.try_into().ok());
        let error = error.map(i32::from_ne_bytes).context("the kernel's answer makes no sense")?;
        ensure!(
            error == 0,
            "the kernel does not say it: {}",
            std::io::Error::from_raw_os_error(error.saturating_neg())
        );
        Ok(())
    }
}

fn message(path: &str) -> Option<Vec<u8>> {
    let text = format!("change@{path}\0ACTION=change\0DEVPATH={path}\0SUBSYSTEM=usb\0DEVTYPE=usb_device\0");
    let length = u32::try_from(HEADER + text.len()).ok()?;
    let (sequence, port) = (1_u32, 0_u32);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([TYPE, FLAGS].iter().flat_map(|n| n.to_ne_bytes()));
    bytes.extend([sequence, port].iter().flat_map(|n| n.to_ne_bytes()));
    bytes.extend(text.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_takes_what_follows_the_header_for_a_message_about_usb() {
        let bytes = message("/devices/usb1/1-2").unwrap();
        assert_eq!(bytes[..4], u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        let event = patchbay_usb::uevents::parse(&bytes[HEADER..]).unwrap();
        assert_eq!((event.action.as_str(), event.devpath.as_str()), ("change", "/devices/usb1/1-2"));
        assert!(event.concerns_usb());
    }
}
