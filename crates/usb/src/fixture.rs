//! A made-up node: a folder that looks like `/sys` and `/proc` to a reader.
//!
//! Folders and links are laid out as the kernel does it: devices in a tree below their controller, everything else links
//! into that tree. Attributes are plain files, so a test reads in them what was written last. Nothing reacts: writing to
//! `bind` binds nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::root::SysRoot;

const PCI: &str = "sys/devices/pci0000:00/0000:00:14.0";

/// The node. Its folder is removed when it is dropped.
#[derive(Debug)]
pub struct Fixture {
    _folder: TempDir,
    root: SysRoot,
}

/// A device of the node; its methods change it.
#[derive(Debug)]
pub struct Device<'a> {
    fixture: &'a Fixture,
    folder: String,
}

impl Fixture {
    /// A node with one controller (buses 1 and 2) and nothing plugged in.
    pub fn new() -> Self {
        Self::in_folder(must(tempfile::tempdir()))
    }

    /// The same in a folder of its own below `parent`, for a process that may end without dropping it.
    pub fn within(parent: &Path) -> Self {
        Self::in_folder(must(tempfile::tempdir_in(parent)))
    }

    fn in_folder(folder: TempDir) -> Self {
        let fixture = Self { root: SysRoot::new(folder.path()), _folder: folder };
        fixture.driver("usb");
        fixture.write("sys/bus/usb/drivers_probe", "");
        fixture.root_hub(PCI, 1, "480", 16);
        fixture.root_hub(PCI, 2, "5000", 10);
        fixture
    }

    /// Where to look.
    pub fn root(&self) -> &SysRoot {
        &self.root
    }

    /// Writes a file, and makes the folders it is in.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.folder_of(relative);
        must(fs::write(path, content));
    }

    /// What a file holds.
    pub fn read(&self, relative: &str) -> String {
        must(fs::read_to_string(self.root.path(relative)))
    }

    /// Makes a symbolic link, relative as the kernel's are. Replaces one of the same name.
    pub fn link(&self, relative: &str, target: &str) {
        let path = self.folder_of(relative);
        let up = "../".repeat(Path::new(relative).components().count() - 1);
        if path.is_symlink() {
            must(fs::remove_file(&path));
        }
        must(symlink(format!("{up}{target}"), path));
    }

    /// Makes every write to this attribute fail (with ENOSPC).
    pub fn refuse(&self, relative: &str) {
        let path = self.folder_of(relative);
        if path.exists() {
            must(fs::remove_file(&path));
        }
        must(symlink("/dev/full", path));
    }

    /// Plugs in a device without strings: a full one in every other respect, bound to `usb`.
    pub fn device(&self, port: &str) -> Device<'_> {
        self.plug(PCI, port)
    }

    /// Imports a device: one that sits on a virtual controller.
    pub fn imported(&self, controller: u32, port: &str) -> Device<'_> {
        let folder = format!("sys/devices/platform/vhci_hcd.{controller}");
        let bus = number(port.split('-').next());
        self.root_hub(&folder, bus, "480", 8);
        self.plug(&folder, port)
    }

    /// Loads the module usbip-host.
    pub fn usbip_host(&self) {
        self.driver("usbip-host");
        for attribute in ["match_busid", "rebind"] {
            self.write(&format!("sys/bus/usb/drivers/usbip-host/{attribute}"), "");
        }
    }

    fn driver(&self, name: &str) {
        for attribute in ["bind", "unbind"] {
            self.write(&format!("sys/bus/usb/drivers/{name}/{attribute}"), "");
        }
    }

    fn root_hub(&self, controller: &str, bus: u16, speed: &str, ports: u16) {
        let folder = format!("{controller}/usb{bus}");
        self.link(&format!("sys/bus/usb/devices/usb{bus}"), &folder);
        let interface = format!("{folder}/{bus}-0:1.0");
        self.write(&format!("{interface}/bInterfaceClass"), "09\n");
        self.link(&format!("sys/bus/usb/devices/{bus}-0:1.0"), &interface);
        let hub = Device { fixture: self, folder };
        hub.attributes(&[("idVendor", "1d6b"), ("idProduct", "0002"), ("bcdDevice", "0601"), ("bDeviceClass", "09")]);
        hub.attributes(&[("busnum", &bus.to_string()), ("devnum", "1"), ("speed", speed)]);
        hub.attributes(&[("maxchild", &ports.to_string())]);
        hub.driver(Some("usb"));
    }

    fn plug(&self, controller: &str, port: &str) -> Device<'_> {
        let bus = number(port.split('-').next());
        let mut folder = format!("{controller}/usb{bus}");
        for (end, _) in port.match_indices('.').chain([(port.len(), "")]) {
            folder = format!("{folder}/{}", port.split_at(end).0);
        }
        let device = Device { fixture: self, folder };
        // Not what the kernel would give it, but one for each place.
        let address = port.split(['-', '.']).skip(1).fold(1, |sum, part| sum * 5 + number(Some(part)));
        device.attributes(&[
            ("idVendor", "46f4"),
            ("idProduct", "0001"),
            ("bcdDevice", "0010"),
            ("bDeviceClass", "00"),
            ("authorized", "1"),
        ]);
        device.attributes(&[("busnum", &bus.to_string()), ("devnum", &(address % 127).max(1).to_string())]);
        device.attributes(&[("speed", if bus == 2 { "5000" } else { "480" })]);
        device.driver(Some("usb"));
        let interface = format!("{}/{port}:1.0", device.folder);
        self.write(&format!("{interface}/bInterfaceClass"), "08\n");
        self.link(&format!("sys/bus/usb/devices/{port}:1.0"), &interface);
        self.link(&format!("sys/bus/usb/devices/{port}"), &device.folder);
        device
    }

    fn folder_of(&self, relative: &str) -> PathBuf {
        let path = self.root.path(relative);
        if let Some(folder) = path.parent() {
            must(fs::create_dir_all(folder));
        }
        path
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

impl Device<'_> {
    /// Its folder in the tree of devices, below the root.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Sets an attribute to any bytes.
    pub fn set(&self, attribute: &str, value: impl AsRef<[u8]>) -> &Self {
        self.fixture.write(&format!("{}/{attribute}", self.folder), value);
        self
    }

    /// Takes an attribute away.
    pub fn unset(&self, attribute: &str) -> &Self {
        must(fs::remove_file(self.fixture.root.path(&self.folder).join(attribute)));
        self
    }

    /// Gives it the three strings.
    pub fn strings(&self, manufacturer: &str, product: &str, serial: &str) -> &Self {
        self.attributes(&[("manufacturer", manufacturer), ("product", product), ("serial", serial)])
    }

    /// Binds it to a driver, or to none.
    pub fn driver(&self, name: Option<&str>) -> &Self {
        let link = format!("{}/driver", self.folder);
        match name {
            Some(name) => self.fixture.link(&link, &format!("sys/bus/usb/drivers/{name}")),
            None => must(fs::remove_file(self.fixture.root.path(&link))),
        }
        self
    }

    /// Exports it: bound to usbip-host, with the attributes that brings, in this `usbip_status`.
    pub fn exported(&self, port: &str, status: u8) -> &Self {
        self.fixture.link(&format!("sys/bus/usb/drivers/usbip-host/{port}"), &self.folder);
        self.driver(Some("usbip-host")).attributes(&[("usbip_status", &status.to_string()), ("usbip_sockfd", "")])
    }

    /// Gives it a disk (`sda`, 8:0), or a partition of one (`sda/sda1`, 8:1).
    pub fn block(&self, path: &str, number: &str) -> &Self {
        let folder = format!("{}/1:1.0/host0/target0:0:0/0:0:0:0/block/{path}", self.folder);
        let name = path.rsplit('/').next().unwrap_or(path);
        self.fixture.write(&format!("{folder}/dev"), format!("{number}\n"));
        self.fixture.link(&format!("sys/dev/block/{number}"), &folder);
        self.fixture.link(&format!("sys/class/block/{name}"), &folder);
        self
    }

    /// Gives it a network interface that is up.
    pub fn network(&self, name: &str) -> &Self {
        let folder = format!("{}/1:1.0/net/{name}", self.folder);
        self.fixture.write(&format!("{folder}/flags"), "0x1003\n");
        self.fixture.link(&format!("sys/class/net/{name}"), &folder);
        self
    }

    /// Gives it a keyboard (`input3`); `handlers` says who listens: `sysrq kbd event3 leds`.
    pub fn keyboard(&self, name: &str, handlers: &str) -> &Self {
        let place = format!("{}/1:1.0/0003:46F4:0001.0001/input/{name}", self.folder);
        self.fixture.write(&format!("{place}/name"), "Keyboard\n");
        let table = self.fixture.root.path("proc/bus/input/devices");
        let before = fs::read_to_string(table).unwrap_or_default();
        let sysfs = place.trim_start_matches("sys");
        self.fixture.write(
            "proc/bus/input/devices",
            format!(
                "{before}I: Bus=0003 Vendor=46f4 Product=0001 Version=0111\nN: Name=\"Keyboard\"\nP: Phys=usb/input0\n\
                 S: Sysfs={sysfs}\nU: Uniq=\nH: Handlers={handlers} \nB: PROP=0\nB: EV=120013\n\n"
            ),
        );
        self
    }

    /// Pulls it out: the links go first, as the kernel does it.
    pub fn unplug(&self, port: &str) {
        must(fs::remove_file(self.fixture.root.path(format!("sys/bus/usb/devices/{port}"))));
        must(fs::remove_dir_all(self.fixture.root.path(&self.folder)));
    }

    fn attributes(&self, pairs: &[(&str, &str)]) -> &Self {
        for (attribute, value) in pairs {
            self.set(attribute, format!("{value}\n"));
        }
        self
    }
}

fn number(text: Option<&str>) -> u16 {
    must(text.unwrap_or_default().parse())
}

#[expect(clippy::panic, reason = "a test that cannot build its node fails")]
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("the fixture could not be made: {error:?}"))
}
