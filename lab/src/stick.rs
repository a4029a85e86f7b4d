//! USB devices that tests plug into nodes: gadgets of the node's own kernel, on its `dummy_hcd` ports.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::cache::hex;

/// How fast the device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// 1.5 Mbit/s.
    Low,
    /// 12 Mbit/s.
    Full,
    /// 480 Mbit/s.
    High,
    /// 5000 Mbit/s.
    Super,
}

impl Speed {
    /// In Mbit/s, as the kernel writes it.
    pub const fn megabits(self) -> &'static str {
        match self {
            Self::Low => "1.5",
            Self::Full => "12",
            Self::High => "480",
            Self::Super => "5000",
        }
    }
}

/// What the device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// A disk with this many bytes that follow from the seed.
    Storage {
        /// Size of the disk.
        bytes: usize,
        /// The content follows from it.
        seed: u64,
    },
    /// A serial port (CDC ACM).
    Serial,
    /// A keyboard (HID): its reports have eight bytes.
    Keyboard,
    /// A tablet (HID): its reports have five bytes, buttons and two places from 0 to 32767.
    Tablet,
    /// A smart-card reader (CCID) without a card: in nodes with Debian's kernel only.
    CardReader,
    /// A sound card that plays (UAC 1, isochronous): in nodes with Debian's kernel only, because `dummy_hcd` fails all
    /// isochronous transfers.
    Speaker,
}

impl Function {
    /// Its name among the gadget's functions; None for what a gadget cannot be.
    const fn gadget(self) -> Option<&'static str> {
        match self {
            Self::Storage { .. } => Some("mass_storage.0"),
            Self::Serial => Some("acm.0"),
            Self::Keyboard => Some("hid.0"),
            Self::Tablet => Some("hid.1"),
            Self::CardReader | Self::Speaker => None,
        }
    }

    /// Shell script that sets it up in the folder `$F`; the disk's content is in the file `$D`.
    fn set_up(self) -> String {
        let hid = |protocol: u8, length: u8, descriptor: &str| {
            format!(
                "echo {protocol} >$F/protocol; echo {protocol} >$F/subclass; echo {length} >$F/report_length\n\
                 printf '{descriptor}' >$F/report_desc\n"
            )
        };
        match self {
            Self::Storage { .. } => "echo 1 >$F/lun.0/removable; echo $D >$F/lun.0/file\n".to_owned(),
            Self::Keyboard => hid(1, 8, KEYBOARD),
            Self::Tablet => hid(0, 5, TABLET),
            Self::Serial | Self::CardReader | Self::Speaker => String::new(),
        }
    }
}

/// The report descriptor of a keyboard that a BIOS understands (Device Class Definition for HID 1.11, appendix E.6), as
/// `printf` takes it.
const KEYBOARD: &str = concat!(
    r"\005\001\011\006\241\001\005\007\031\340\051\347\025\000\045\001\165\001\225\010\201\002\225\001\165\010\201\003",
    r"\225\005\165\001\005\010\031\001\051\005\221\002\225\001\165\003\221\003\225\006\165\010\025\000\045\145\005\007",
    r"\031\000\051\145\201\000\300",
);

/// The report descriptor of a tablet: a mouse with three buttons that tells places instead of ways.
const TABLET: &str = concat!(
    r"\005\001\011\002\241\001\011\001\241\000\005\011\031\001\051\003\025\000\045\001\225\003\165\001\201\002",
    r"\225\001\165\005\201\001\005\001\011\060\011\061\025\000\046\377\177\065\000\106\377\177\165\020\225\002",
    r"\201\002\300\300",
);

/// A device, in a drawer until it is plugged into a node.
#[derive(Debug, Clone)]
pub struct Stick {
    /// Its name in the lab: one per node.
    pub name: String,
    /// USB vendor.
    pub vendor: u16,
    /// USB product.
    pub product: u16,
    /// Manufacturer string.
    pub manufacturer: Option<String>,
    /// Product string.
    pub title: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Speed.
    pub speed: Speed,
    /// What it does; a composite device does several things, no two of a kind.
    pub functions: Vec<Function>,
}

impl Stick {
    /// A SuperSpeed storage stick of 8 MiB with everything a good stick has. Sticks of different names have different
    /// serial numbers and contents.
    pub fn new(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let seed = digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Self {
            name: name.to_owned(),
            vendor: 0x1d6b,
            product: 0x0104,
            manufacturer: Some("Patchbay".into()),
            title: Some("Test Stick".into()),
            serial: Some(hex(digest.get(..6).unwrap_or_default()).to_uppercase()),
            speed: Speed::Super,
            functions: vec![Function::Storage { bytes: 8 << 20, seed }],
        }
    }

    /// The same with another serial number, or none.
    #[must_use]
    pub fn serial(mut self, serial: Option<&str>) -> Self {
        self.serial = serial.map(str::to_owned);
        self
    }

    /// The same with another vendor and product.
    #[must_use]
    pub fn ids(mut self, vendor: u16, product: u16) -> Self {
        (self.vendor, self.product) = (vendor, product);
        self
    }

    /// The same with other strings, or none.
    #[must_use]
    pub fn strings(mut self, manufacturer: Option<&str>, title: Option<&str>) -> Self {
        self.manufacturer = manufacturer.map(str::to_owned);
        self.title = title.map(str::to_owned);
        self
    }

    /// The same with another speed.
    #[must_use]
    pub fn speed(mut self, speed: Speed) -> Self {
        self.speed = speed;
        self
    }

    /// The same with another function, and no other.
    #[must_use]
    pub fn function(mut self, function: Function) -> Self {
        self.functions = vec![function];
        self
    }

    /// The same with one more function: a composite device.
    #[must_use]
    pub fn and(mut self, function: Function) -> Self {
        self.functions.push(function);
        self
    }

    /// The same with a disk of another size.
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        for function in &mut self.functions {
            if let Function::Storage { bytes: size, .. } = function {
                *size = bytes;
            }
        }
        self
    }

    /// The content of its disk; nothing if it has none.
    pub fn image(&self) -> Vec<u8> {
        let disk = self.functions.iter().find_map(|function| match function {
            Function::Storage { bytes, seed } => Some(random_bytes(*bytes, *seed)),
            _ => None,
        });
        disk.unwrap_or_default()
    }

    /// The one thing it does; None for a composite device.
    pub(crate) fn only(&self) -> Option<Function> {
        match self.functions.as_slice() {
            [function] => Some(*function),
            _ => None,
        }
    }

    /// SHA-256 of its disk, in hexadecimal digits.
    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(self.image()))
    }

    /// Shell script that prepares the device in a node; its disk image is at `image` there.
    pub(crate) fn insert(&self, image: &str) -> String {
        let Self { name, vendor, product, .. } = self;
        let speed = match self.speed {
            Speed::Low => "low-speed",
            Speed::Full => "full-speed",
            Speed::High => "high-speed",
            Speed::Super => "super-speed",
        };
        let mut script = format!(
            "set -e\nmkdir -p /run/sticks\nG=/sys/kernel/config/usb_gadget/{name}\n\
             [ ! -d $G ] || {{ echo it is plugged in already; exit 1; }}\nmkdir $G $G/strings/0x409 $G/configs/c.1\n\
             echo 0x{vendor:04x} >$G/idVendor; echo 0x{product:04x} >$G/idProduct; echo {speed} >$G/max_speed; echo 120 >$G/configs/c.1/MaxPower\n"
        );
        for (file, value) in
            [("manufacturer", &self.manufacturer), ("product", &self.title), ("serialnumber", &self.serial)]
        {
            if let Some(value) = value {
                let _ = writeln!(script, "printf %s {} >$G/strings/0x409/{file}", quoted(value));
            }
        }
        let _ = writeln!(script, "D=/run/sticks/{name}.img; cp {image} $D");
        for function in &self.functions {
            let Some(folder) = function.gadget() else {
                let _ = writeln!(script, "echo only a node with Debian\\'s kernel has {function:?}; exit 1");
                continue;
            };
            let set_up = function.set_up();
            let _ = write!(script, "F=$G/functions/{folder}; mkdir $F\n{set_up}ln -s $F $G/configs/c.1/\n");
        }
        script
    }

    /// Shell script that connects the prepared device to a free port: from here on the node sees it.
    pub(crate) fn connect(&self) -> String {
        format!(
            "for u in /sys/class/udc/dummy_udc.*; do echo ${{u##*/}} >/sys/kernel/config/usb_gadget/{}/UDC && exit 0; done 2>/dev/null\n\
             echo no free USB port: all of dummy_hcd.num are taken; exit 1",
            self.name
        )
    }

    /// Shell script that prints the device node at the far end: what is written there comes out of the USB device.
    pub(crate) fn far_end(&self) -> String {
        let ends = self.functions.iter().map(|function| self.far_end_of(*function));
        ends.flatten().next().unwrap_or_else(|| "echo it has no far end; exit 1".to_owned())
    }

    /// The same for one of its functions; None for one that has no such end.
    pub(crate) fn far_end_of(&self, function: Function) -> Option<String> {
        let folder = format!("/sys/kernel/config/usb_gadget/{}/functions/{}", self.name, function.gadget()?);
        match function {
            Function::Serial => Some(format!("echo /dev/ttyGS$(cat {folder}/port_num)")),
            Function::Keyboard | Function::Tablet => Some(format!("N=$(cat {folder}/dev); echo /dev/hidg${{N#*:}}")),
            Function::Storage { .. } | Function::CardReader | Function::Speaker => None,
        }
    }

    /// Shell script that prints the port it is in, as the kernel numbers ports; nothing while the kernel has not seen it.
    pub(crate) fn port(&self) -> String {
        format!(
            "U=$(cat /sys/kernel/config/usb_gadget/{}/UDC)\n\
             ls /sys/devices/platform/dummy_hcd.${{U#dummy_udc.}}/usb* | grep -E '^[0-9]+-[1-9][0-9]*$'; true",
            self.name
        )
    }

    /// Shell script that lets the device drop off its bus and come up again at once, in the same port.
    pub(crate) fn falter(&self) -> String {
        // Not by `soft_connect`: dummy_hcd does not take up a device again that was stopped that way.
        format!(
            "G=/sys/kernel/config/usb_gadget/{}; U=$(cat $G/UDC)\n[ -n \"$U\" ] || {{ echo it is not plugged in; exit 1; }}\n\
             echo >$G/UDC && echo $U >$G/UDC",
            self.name
        )
    }

    /// Shell script that pulls the device out and takes it apart.
    pub(crate) fn remove(&self) -> String {
        format!(
            "G=/sys/kernel/config/usb_gadget/{name}; [ -d $G ] || {{ echo it is not plugged in; exit 1; }}\necho >$G/UDC\n\
             rm $G/configs/c.1/*.[01]; rmdir $G/configs/c.1 $G/functions/* $G/strings/0x409 $G; rm -f /run/sticks/{name}.img",
            name = self.name
        )
    }
}

/// A word of the shell, whatever characters it has.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Bytes that look random and follow from the seed (the generator is splitmix64).
fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticks_of_one_name_are_equal_and_of_different_names_differ() {
        let (red, again, blue) = (Stick::new("red"), Stick::new("red"), Stick::new("blue"));
        assert_eq!((red.sha256(), red.serial.clone()), (again.sha256(), again.serial));
        assert_ne!(red.sha256(), blue.sha256());
        assert_ne!(red.serial, blue.serial);
        assert_eq!(red.image().len(), 8 << 20);
    }

    #[test]
    fn a_smaller_disk_holds_the_beginning_of_the_larger_one() {
        let (stick, small) = (Stick::new("red"), Stick::new("red").size(4096));
        assert_eq!(stick.image().get(..4096), Some(small.image().as_slice()));
    }

    #[test]
    fn strings_of_any_characters_reach_the_gadget_as_they_are() {
        let hard = "it's $HOME `x`\\";
        let script = format!("printf %s {}", quoted(hard));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), hard);
    }

    #[test]
    fn a_stick_without_strings_sets_none() {
        let script = Stick::new("bare").strings(None, None).serial(None).insert("/host/bare.img");
        assert!(!script.contains("printf"), "{script}");
    }

    #[test]
    fn a_composite_device_has_a_folder_for_each_function() {
        let script = Stick::new("many").and(Function::Serial).and(Function::Keyboard).insert("/host/many.img");
        let folders = ["mass_storage.0", "acm.0", "hid.0"];
        assert!(folders.iter().all(|folder| script.contains(&format!("F=$G/functions/{folder};"))), "{script}");
    }

    #[test]
    fn the_far_end_is_that_of_the_first_function_that_has_one() {
        assert!(Stick::new("many").and(Function::Serial).far_end().contains("acm.0/port_num"));
        assert!(Stick::new("disk").far_end().contains("exit 1"));
    }
}
