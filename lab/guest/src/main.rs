//! The first process of the lab's test guest. It tells, one line each on the console, what the guest sees of USB:
//!
//! ```text
//! guest: booted up=2.31
//! guest: usb add 2-1 1d6b:0104 speed=5000 serial=SN0001 product="Stick" up=9.02
//! guest: disk add sda size=8388608 serial=SN0001 up=9.11
//! guest: disk sda sha256=<64 digits> bytes=8388608 up=9.80
//! guest: disk sda reads ok=20 bad=0 errors=0 up=10.80      each second from then on
//! guest: disk remove sda up=31.00
//! guest: usb remove 2-1 up=31.01
//! ```
//!
//! It uses what it sees:
//!
//! | device | what it does | what it tells |
//! |---|---|---|
//! | a disk called Scratch Disk | writes, syncs, reads again | `disk sda written at=1048576 bytes=1048576 sha256=<64 digits>` |
//! | a disk called Ledger Disk | writes a block anew after each of the later reads | as for others |
//! | a disk called Bench Disk | reads as fast as it can | `disk sda measured block_us=812 bytes_per_second=43012345`, again and again |
//! | serial line | answers each byte with its inverse | `tty add ttyACM0`, `tty ttyACM0 listens`, `tty ttyACM0 heard bytes=4096 sha256=<64 digits>` |
//! | keyboard, mouse, tablet | listens | `input add event0 name="..."`, `input event0 listens`, `input event0 type=1 code=30 value=1` |
//! | smart-card reader | asks for the state of its slot | `card 1-2:1.0 message=81 slot=0 sequence=1 status=2 error=0` |
//! | speaker | plays a sound | `sound dsp played frames=24000` |
//!
//! `up` is the guest's time since its start in seconds. What was there before the start is told like what comes
//! later. The process must never end: the kernel would panic. It does so on purpose when it cannot work, because a
//! guest that ends is seen and one that is silent is not.

mod card;
mod disk;
mod input;
mod ioctl;
mod modules;
mod serial;
mod sound;
mod sysfs;
mod uevent;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::{MountFlags, mount};

use crate::sysfs::Path;
use crate::uevent::{Action, Uevent};

/// Prints one line of the report.
macro_rules! tell {
    ($($text:tt)*) => { println!("guest: {} up={}", format_args!($($text)*), crate::uptime()) };
}
pub(crate) use tell;

fn main() -> io::Result<()> {
    for (kind, target) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev")] {
        mount(kind, target, kind, MountFlags::empty(), None::<&CStr>)?;
    }
    // Before the modules, so that nothing they bring is missed.
    let events = uevent::Socket::open()?;
    modules::load(modules::ORDER);
    tell!("booted");

    let mut guest = Guest::default();
    for path in sysfs::present() {
        if let Some(event) = Uevent::of_present(&path) {
            guest.see(&event);
        }
    }
    loop {
        match events.next() {
            Ok(Some(event)) => guest.see(&event),
            Ok(None) => {}
            Err(error) => tell!("uevents lost: {error}"),
        }
    }
}

/// What the guest has told so far.
#[derive(Default)]
struct Guest {
    /// Paths of devices that were told. A device that is there at the start also has its event in the queue.
    told: BTreeMap<String, Option<Reader>>,
}

/// A thread that reads a disk until it is told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
}

impl Guest {
    fn see(&mut self, event: &Uevent) {
        let Some(device) = Device::of(event) else { return };
        match event.action {
            Action::Add if !self.told.contains_key(&event.path) => {
                let reader = device.added(&Path::of_device(&event.path));
                self.told.insert(event.path.clone(), reader);
            }
            Action::Remove => {
                if let Some(reader) = self.told.remove(&event.path) {
                    if let Some(reader) = reader {
                        reader.stop.store(true, Ordering::Relaxed);
                    }
                    device.removed();
                }
            }
            Action::Add | Action::Other => {}
        }
    }
}

/// The devices a test can ask for.
enum Device {
    /// A USB device, by its bus id.
    Usb(String),
    /// A part of a USB device, by its bus id.
    Interface(String),
    /// A USB disk, by its name in `/dev`.
    Disk(String),
    /// A USB serial line, by its name in `/dev`.
    Tty(String),
    /// An event source of a USB keyboard, mouse and so on, by its name in `/dev/input`.
    Input(String),
    /// A USB sound device that takes frames as they are (the kernel's OSS interface), by its name in `/dev`.
    Sound(String),
}

impl Device {
    fn of(event: &Uevent) -> Option<Self> {
        let name = event.path.rsplit('/').next()?.to_owned();
        let through_usb = event.path.contains("/usb");
        match (event.subsystem.as_str(), event.kind.as_str()) {
            // Root hubs are called usb1, usb2 and so on, and are part of the machine.
            ("usb", "usb_device") if !name.starts_with("usb") => Some(Self::Usb(name)),
            ("usb", "usb_interface") => Some(Self::Interface(name)),
            ("block", "disk") if through_usb => Some(Self::Disk(name)),
            ("tty", _) if through_usb => Some(Self::Tty(name)),
            ("input", _) if through_usb && name.starts_with("event") => Some(Self::Input(name)),
            ("sound", _) if through_usb && name.starts_with("dsp") => Some(Self::Sound(name)),
            _ => None,
        }
    }

    fn added(&self, path: &Path) -> Option<Reader> {
        match self {
            Self::Usb(name) => {
                let text = |attribute| path.attribute(attribute).unwrap_or_default();
                let (vendor, product, speed) = (text("idVendor"), text("idProduct"), text("speed"));
                tell!(
                    "usb add {name} {vendor}:{product} speed={speed} serial={} product=\"{}\"",
                    text("serial"),
                    text("product")
                );
            }
            Self::Interface(name) => {
                let class = path.attribute("bInterfaceClass").and_then(|class| u8::from_str_radix(&class, 16).ok());
                let number = |attribute| path.attribute_of_usb_device(attribute).unwrap_or_default();
                match class {
                    Some(card::CLASS) => card::ask(name, &number("busnum"), &number("devnum")),
                    // The second of a list that is loaded already is no news.
                    Some(sound::CLASS) if !std::fs::exists("/sys/module/snd_usb_audio").unwrap_or(false) => {
                        modules::load(modules::SOUND);
                    }
                    _ => {}
                }
            }
            Self::Disk(name) => {
                let size = path.attribute("size").and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0) * 512;
                let serial = path.attribute_of_usb_device("serial").unwrap_or_default();
                tell!("disk add {name} size={size} serial={serial}");
                let stop = Arc::new(AtomicBool::new(false));
                let purpose = disk::Use::of(path.attribute_of_usb_device("product").as_deref());
                disk::watch(name, &serial, size, purpose, Arc::clone(&stop));
                return Some(Reader { stop });
            }
            Self::Tty(name) => {
                tell!("tty add {name}");
                serial::answer(name);
            }
            Self::Input(name) => {
                tell!("input add {name} name=\"{}\"", path.attribute("device/name").unwrap_or_default());
                input::listen(name);
            }
            Self::Sound(name) => sound::play(name),
        }
        None
    }

    fn removed(&self) {
        match self {
            Self::Usb(name) => tell!("usb remove {name}"),
            Self::Disk(name) => tell!("disk remove {name}"),
            Self::Tty(name) => tell!("tty remove {name}"),
            Self::Input(name) => tell!("input remove {name}"),
            Self::Interface(_) | Self::Sound(_) => {}
        }
    }
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since the start, as `2.31`.
fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, subsystem: &str, kind: &str) -> Option<String> {
        let event = Uevent { action: Action::Add, path: path.into(), subsystem: subsystem.into(), kind: kind.into() };
        Device::of(&event).map(|device| match device {
            Device::Usb(name)
            | Device::Interface(name)
            | Device::Disk(name)
            | Device::Tty(name)
            | Device::Input(name)
            | Device::Sound(name) => name,
        })
    }

    #[test]
    fn only_what_comes_over_usb_is_told_and_root_hubs_are_not() {
        let stick = "/devices/pci0000:00/0000:00:02.0/usb2/2-1";
        assert_eq!(device(stick, "usb", "usb_device").as_deref(), Some("2-1"));
        assert_eq!(device("/devices/pci0000:00/0000:00:02.0/usb2", "usb", "usb_device"), None);
        assert_eq!(device(&format!("{stick}/2-1:1.0"), "usb", "usb_interface").as_deref(), Some("2-1:1.0"));
        let disk = format!("{stick}/2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda");
        assert_eq!(device(&disk, "block", "disk").as_deref(), Some("sda"));
        assert_eq!(device(&format!("{disk}/sda1"), "block", "partition"), None);
        assert_eq!(device("/devices/virtual/block/loop0", "block", "disk"), None);
        let keys = format!("{stick}/2-1:1.0/0003:1D6B:0104.0001/input/input3");
        assert_eq!(device(&keys, "input", ""), None);
        assert_eq!(device(&format!("{keys}/event1"), "input", "").as_deref(), Some("event1"));
        assert_eq!(device("/devices/platform/serial8250/tty/ttyS1", "tty", ""), None);
        let card = format!("{stick}/2-1:1.0/sound/card0");
        assert_eq!(device(&format!("{card}/dsp"), "sound", "").as_deref(), Some("dsp"));
        assert_eq!(device(&format!("{card}/pcmC0D0p"), "sound", ""), None);
    }
}
