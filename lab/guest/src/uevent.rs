//! The kernel's news about devices, straight from its netlink socket (`lib/kobject_uevent.c`): a message is
//! `action@path`, then `NAME=value` fields, all ended by NUL.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};

use crate::sysfs::Path;

/// The multicast group in which the kernel itself speaks.
const KERNEL: u32 = 1;
/// A message is at most 2 KiB of fields and a path.
const LONGEST: usize = 8 * 1024;
/// Room for what happens while a line waits for the console.
const QUEUE: usize = 1024 * 1024;

/// Something that happened to a device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Uevent {
    pub(crate) action: Action,
    /// Below `/sys`.
    pub(crate) path: String,
    pub(crate) subsystem: String,
    /// `DEVTYPE`; many devices have none.
    pub(crate) kind: String,
}

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Add,
    Remove,
    Other,
}

/// The socket the news come from.
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
        sockopt::set_socket_recv_buffer_size_force(&socket, QUEUE)?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Waits for the next message; nothing if it was not one about a device.
    pub(crate) fn next(&self) -> io::Result<Option<Uevent>> {
        let mut buffer = vec![0; LONGEST];
        let length = loop {
            match recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => break length,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        Ok(buffer.get(..length).and_then(Uevent::parse))
    }
}

impl Uevent {
    fn parse(message: &[u8]) -> Option<Self> {
        let mut fields = message.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
        let (action, path) = fields.next()?.split_once('@')?;
        let action = match action {
            "add" => Action::Add,
            "remove" => Action::Remove,
            _ => Action::Other,
        };
        let mut event = Self { action, path: path.to_owned(), subsystem: String::new(), kind: String::new() };
        for field in fields {
            match field.split_once('=') {
                Some(("SUBSYSTEM", value)) => value.clone_into(&mut event.subsystem),
                Some(("DEVTYPE", value)) => value.clone_into(&mut event.kind),
                _ => {}
            }
        }
        Some(event)
    }

    /// The event of a device that is there already.
    pub(crate) fn of_present(path: &Path) -> Option<Self> {
        let fields = path.attribute("uevent")?;
        let kind = fields.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).unwrap_or_default();
        let subsystem = path.subsystem()?;
        Some(Self { action: Action::Add, path: path.device()?, subsystem, kind: kind.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_kernel_is_read() {
        let message = b"add@/devices/x/usb2/2-1\0ACTION=add\0DEVPATH=/devices/x/usb2/2-1\0SUBSYSTEM=usb\0DEVTYPE=usb_device\0SEQNUM=7\0";
        let event = Uevent::parse(message).unwrap();
        let expected = Uevent {
            action: Action::Add,
            path: "/devices/x/usb2/2-1".into(),
            subsystem: "usb".into(),
            kind: "usb_device".into(),
        };
        assert_eq!(event, expected);
    }

    #[test]
    fn a_message_that_is_not_about_a_device_is_ignored() {
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed"), None);
        assert_eq!(Uevent::parse(b""), None);
    }
}
