//! Devices in `/sys`.

use std::fs;
use std::path::PathBuf;

/// The folder of a device.
#[derive(Debug, Clone)]
pub(crate) struct Path(PathBuf);

impl Path {
    /// The device that the kernel calls `path` in its events (`/devices/...`).
    pub(crate) fn of_device(path: &str) -> Self {
        Self(PathBuf::from(format!("/sys{path}")))
    }

    /// The device's name in the kernel's events.
    pub(crate) fn device(&self) -> Option<String> {
        Some(format!("/{}", self.0.strip_prefix("/sys").ok()?.to_str()?))
    }

    /// An attribute without the white space around it, if the device has it.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.0.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// An attribute of the USB device that this one is a part of.
    pub(crate) fn attribute_of_usb_device(&self, name: &str) -> Option<String> {
        let device = self.0.ancestors().find(|folder| folder.join("idVendor").exists())?;
        Self(device.to_owned()).attribute(name)
    }

    /// The subsystem it belongs to.
    pub(crate) fn subsystem(&self) -> Option<String> {
        let link = fs::read_link(self.0.join("subsystem")).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }
}

/// The devices that are there now, of the subsystems a test can ask for.
pub(crate) fn present() -> Vec<Path> {
    let mut found = Vec::new();
    for folder in ["/sys/bus/usb/devices", "/sys/class/block", "/sys/class/tty", "/sys/class/input"] {
        let Ok(list) = fs::read_dir(folder) else { continue };
        // These folders hold links; the events speak of what they point to.
        found.extend(list.filter_map(|entry| fs::canonicalize(entry.ok()?.path()).ok()).map(Path));
    }
    found
}
