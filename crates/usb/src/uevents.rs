//! Messages of the kernel about its devices.
//!
//! A message is `action@devpath` and then `KEY=VALUE` pairs, each ended by a zero byte (`lib/kobject_uevent.c`). What udev
//! sends to its own listeners has another form (it begins with `libudev`) and is no message here.

/// A message of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, `unbind`, ...
    pub action: String,
    /// The device's folder, below `/sys`.
    pub devpath: String,
    /// `usb`, `block`, `platform`, ...
    pub subsystem: Option<String>,
    /// `usb_device`, `usb_interface`, ...
    pub devtype: Option<String>,
    /// The device node, below `/dev`.
    pub devname: Option<String>,
}

impl Uevent {
    /// Whether it is about a USB device, or about the drivers and modules of USB/IP: time to look again.
    pub fn concerns_usb(&self) -> bool {
        let driver = ["vhci_hcd", "usbip"].iter().any(|name| self.devpath.contains(name));
        driver || self.subsystem.as_deref() == Some("usb")
    }
}

/// Reads a message; None when it is none of the kernel's.
pub fn parse(message: &[u8]) -> Option<Uevent> {
    let mut parts = message.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let head = parts.next()?;
    let (action, devpath) = head.split_once('@')?;
    if action.is_empty() || !devpath.starts_with('/') {
        return None;
    }
    let mut event = Uevent { action: action.to_owned(), devpath: devpath.to_owned(), ..Uevent::default() };
    for part in parts {
        match part.split_once('=') {
            Some(("SUBSYSTEM", value)) => event.subsystem = Some(value.to_owned()),
            Some(("DEVTYPE", value)) => event.devtype = Some(value.to_owned()),
            Some(("DEVNAME", value)) => event.devname = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLUG: &[u8] = b"add@/devices/pci0000:00/0000:00:14.0/usb1/1-2\0ACTION=add\0\
        DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-2\0SUBSYSTEM=usb\0MAJOR=189\0MINOR=4\0\
        DEVNAME=bus/usb/001/005\0DEVTYPE=usb_device\0PRODUCT=46f4/1/0\0SEQNUM=1234\0";

    #[test]
    fn a_plug_is_read() {
        let event = parse(PLUG).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.devpath, "/devices/pci0000:00/0000:00:14.0/usb1/1-2");
        assert_eq!(event.subsystem.as_deref(), Some("usb"));
        assert_eq!(event.devtype.as_deref(), Some("usb_device"));
        assert_eq!(event.devname.as_deref(), Some("bus/usb/001/005"));
        assert!(event.concerns_usb());
    }

    #[test]
    fn what_udev_sends_is_no_message_of_the_kernel() {
        let mut message = b"libudev\0\xfe\xed\xca\xfe".to_vec();
        message.extend_from_slice(PLUG);
        assert_eq!(parse(&message), None);
    }

    #[test]
    fn usb_and_the_modules_of_usb_ip_concern_us_and_other_devices_do_not() {
        let concerns = |message: &[u8]| parse(message).unwrap().concerns_usb();
        assert!(concerns(b"add@/module/vhci_hcd\0SUBSYSTEM=module\0"));
        assert!(concerns(b"add@/bus/usb/drivers/usbip-host\0SUBSYSTEM=drivers\0"));
        assert!(!concerns(b"add@/devices/virtual/block/loop3\0SUBSYSTEM=block\0"));
        assert!(!concerns(b"change@/devices/virtual/net/usb0\0"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(event) = parse(&bytes) {
                prop_assert!(event.devpath.starts_with('/') && !event.action.is_empty());
            }
        }

        #[test]
        fn a_message_cut_anywhere_never_changes_what_came_before(cut in 0usize..PLUG.len()) {
            let whole = parse(PLUG).unwrap();
            if let Some(event) = parse(&PLUG[..cut]) {
                prop_assert!(whole.devpath.starts_with(&event.devpath));
                prop_assert_eq!(event.action, whole.action);
            }
        }
    }
}
