//! Keeps a device from the drivers of the node, and gives it to them.
//!
//! The kernel has a means for this: a device that is not authorised (`authorized`, `Documentation/usb/authorization.rst`)
//! has no configuration, hence no interfaces, and no driver finds anything in it: no disk, no keyboard, no network interface.
//! Its descriptors and strings can still be read, it keeps its address, and it stays so whoever is restarted, until it is
//! pulled out or the node reboots: the kernel authorises whatever is plugged in, unless it is told not to.
//!
//! A device that is bound to usbip-host needs to be authorised, or the other node cannot give it a configuration. The kernel
//! gives it none itself there: usbip-host has claimed its port, and such devices are left alone (`usb_choose_configuration`
//! in `drivers/usb/core/generic.c`, `usb_probe_interface` in `drivers/usb/core/driver.c`). So it is withheld before it is
//! unbound, and authorised after it is bound, and no driver of the node sees it in between.

use patchbay_core::device::{BusAddress, PortPath};

use crate::root::{SysDir, SysError, SysRoot};
use crate::scan;

const ATTRIBUTE: &str = "authorized";

/// The address of the device at a place, and whether it is authorised; None when there is none.
pub fn state(root: &SysRoot, place: &PortPath) -> Option<(BusAddress, bool)> {
    let authorized = is_authorized(&root.usb_device(place.as_str()));
    Some((scan::address(root, place).ok()?, authorized))
}

/// Takes a device from all drivers of the node, and keeps it from them. Nothing happens when it is withheld or gone. Waits for
/// the drivers to let go: use `spawn_blocking`.
///
/// # Errors
/// Sysfs failed.
pub fn withhold(root: &SysRoot, place: &PortPath) -> Result<(), SysError> {
    set(root, place, false)
}

/// Lets the drivers of the node have a device. Nothing happens when they may already, or when it is gone. Waits for the
/// drivers to take it: use `spawn_blocking`.
///
/// # Errors
/// Sysfs failed.
pub fn authorize(root: &SysRoot, place: &PortPath) -> Result<(), SysError> {
    set(root, place, true)
}

fn set(root: &SysRoot, place: &PortPath, authorized: bool) -> Result<(), SysError> {
    let device = root.usb_device(place.as_str());
    if is_authorized(&device) == authorized {
        return Ok(());
    }
    match device.write(ATTRIBUTE, if authorized { "1" } else { "0" }) {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

/// What cannot be read, because the device is gone, is as the kernel has it by default.
pub(crate) fn is_authorized(device: &SysDir) -> bool {
    device.text(ATTRIBUTE).map_or(true, |text| text != "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn a_device_is_withheld_and_given_back_by_one_write_each() {
        let node = Fixture::new();
        let (stick, place) = (node.device("1-2"), "1-2".parse().unwrap());
        let written = || node.read(&format!("{}/authorized", stick.folder()));
        authorize(node.root(), &place).unwrap();
        assert_eq!(written(), "1\n", "nothing is written when there is nothing to change");
        withhold(node.root(), &place).unwrap();
        assert_eq!(written(), "0");
        assert_eq!(state(node.root(), &place), Some((scan::address(node.root(), &place).unwrap(), false)));
        withhold(node.root(), &place).unwrap();
        assert_eq!(written(), "0");
        authorize(node.root(), &place).unwrap();
        assert_eq!(written(), "1");
    }

    #[test]
    fn a_device_that_is_gone_is_no_error_and_a_refusal_names_the_file() {
        let node = Fixture::new();
        let place = "1-2".parse().unwrap();
        withhold(node.root(), &place).unwrap();
        assert_eq!(state(node.root(), &place), None);
        let stick = node.device("1-2");
        stick.unset("authorized");
        node.write(&format!("{}/authorized/is_a_folder", stick.folder()), "");
        let error = withhold(node.root(), &place).unwrap_err();
        assert!(error.to_string().ends_with("/1-2/authorized"), "{error}");
    }
}
