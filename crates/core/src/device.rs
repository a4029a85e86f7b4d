//! A USB device: what its descriptors and its place say.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::host_use::HostUse;
use crate::names::DeviceName;
use crate::speed::Speed;

/// A vendor, product or release number: 16 bits, written as four lower-case hex digits (`046d`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexId(pub u16);

/// Text that is no four-digit hex number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not four hex digits")]
pub struct HexIdError(String);

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Debug for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for HexId {
    type Err = HexIdError;

    fn from_str(text: &str) -> Result<Self, HexIdError> {
        let digits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = if digits { u16::from_str_radix(text, 16).ok() } else { None };
        value.map(Self).ok_or_else(|| HexIdError(text.to_owned()))
    }
}

impl TryFrom<String> for HexId {
    type Error = HexIdError;

    fn try_from(text: String) -> Result<Self, HexIdError> {
        text.parse()
    }
}

impl From<HexId> for String {
    fn from(id: HexId) -> Self {
        id.to_string()
    }
}

/// Where a device is plugged in: the kernel's name for the place, `<bus>-<port>[.<port>]...`, such as `2-1.4`.
/// The USB/IP tools call the same text a bus id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortPath(String);

/// Text that is no port path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no port path such as 2-1.4")]
pub struct PortPathError(String);

impl PortPath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for PortPath {
    type Err = PortPathError;

    fn from_str(text: &str) -> Result<Self, PortPathError> {
        let number = |t: &str| (1..=5).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
        // The kernel's own limit is six hubs deep; 31 is the size of its busid field in the USB/IP protocol.
        let well_formed = text.len() <= 31
            && text.split_once('-').is_some_and(|(bus, ports)| number(bus) && ports.split('.').all(number));
        if well_formed { Ok(Self(text.to_owned())) } else { Err(PortPathError(text.to_owned())) }
    }
}

impl TryFrom<String> for PortPath {
    type Error = PortPathError;

    fn try_from(text: String) -> Result<Self, PortPathError> {
        text.parse()
    }
}

impl From<PortPath> for String {
    fn from(path: PortPath) -> Self {
        path.0
    }
}

/// A device's number on its node's kernel, as in `/dev/bus/usb/BBB/DDD`. Changes with every re-enumeration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BusAddress {
    /// The bus, from 1.
    pub bus: u16,
    /// The device on the bus, 1 to 127.
    pub device: u16,
}

impl BusAddress {
    /// What USB/IP calls devid: bus in the upper, device number in the lower 16 bits.
    pub fn devid(self) -> u32 {
        u32::from(self.bus) << 16 | u32::from(self.device)
    }
}

impl fmt::Display for BusAddress {
    /// Three digits each, `002/017`, as the file system has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}/{:03}", self.bus, self.device)
    }
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// `idVendor`.
    #[serde(rename = "vendorID")]
    pub vendor_id: HexId,
    /// `idProduct`.
    #[serde(rename = "productID")]
    pub product_id: HexId,
    /// `bcdDevice`, the device's release.
    pub bcd: HexId,
    /// Its address on the node it is plugged into.
    pub address: BusAddress,
    /// The serial number string, cleaned. None when the device has none.
    pub serial: Option<String>,
    /// The manufacturer string, cleaned; from the list of USB ids when the device has none.
    pub manufacturer: Option<String>,
    /// The product string, cleaned; from the list of USB ids when the device has none.
    pub product: Option<String>,
    /// What to call it in a sentence. Never empty.
    pub name: String,
    /// Its speed.
    pub speed: Speed,
    /// Where it is plugged in.
    pub port_path: PortPath,
    /// `bDeviceClass`; 0 when each interface has its own.
    pub class: u8,
}

/// A device of a node under the name it is published by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// The DRA device's name.
    pub name: DeviceName,
    /// What is known of it.
    pub attributes: Attributes,
    /// What its node does with it, so that nobody else can use it although it is there; None when others can.
    pub not_ready: Option<HostUse>,
}

/// Makes text from a device fit for people and for DRA attributes: control characters become spaces, white space is
/// folded and trimmed, and what is longer than `max` bytes is cut at a character boundary. None when nothing is left.
pub fn clean(text: &str, max: usize) -> Option<String> {
    let spaced: String = text.chars().map(|c| if c.is_control() || is_invisible(c) { ' ' } else { c }).collect();
    let folded = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut = folded.floor_char_boundary(max.min(folded.len()));
    let (kept, _) = folded.split_at(cut);
    let kept = kept.trim_end();
    (!kept.is_empty()).then(|| kept.to_owned())
}

/// Characters that show nothing but change how their neighbours are read, or hide what a person cannot compare: marks for
/// the direction of writing, what Unicode calls default ignorable (`DerivedCoreProperties.txt`: zero-width characters,
/// fillers, variation selectors, tags), annotations, the replacement character of a broken encoding, and what is no
/// character at all.
pub fn is_invisible(c: char) -> bool {
    let listed = matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fdd0}'..='\u{fdef}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{ffff}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    );
    listed || u32::from(c) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn port_paths_are_strict() {
        for good in ["1-1", "2-1.4", "10-3.2.1.7"] {
            assert_eq!(good.parse::<PortPath>().unwrap().as_str(), good);
        }
        for bad in ["usb1", "1-0:1.0", "1-", "-1", "1-1..2", "1-1/../x", "", "1-1.2.3.4.5.6.7.8.9.10.11.12.13.14"] {
            assert!(bad.parse::<PortPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hex_ids_have_four_digits() {
        assert_eq!("046D".parse::<HexId>().unwrap().to_string(), "046d");
        for bad in ["46d", "0046d", "0x46", "+46d", "046g"] {
            assert!(bad.parse::<HexId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cleaning_folds_space_and_drops_escapes() {
        assert_eq!(clean("  A\u{1b}[31m  B\0\n", 64).as_deref(), Some("A [31m B"));
        assert_eq!(clean("\u{202e}\u{feff} \t", 64), None);
    }

    #[test]
    fn what_nobody_can_see_is_not_kept() {
        let table = [
            ("a line\r\nX-Header: b", Some("a line X-Header: b")),
            ("\u{1b}]0;title\u{7}x\u{9b}31m", Some("]0;title x 31m")),
            ("gnp.\u{202e}exe", Some("gnp. exe")),
            ("\u{2066}a\u{2069}\u{61c}b", Some("a b")),
            ("zero\u{200b}\u{2060}\u{ad}width", Some("zero width")),
            ("lines\u{2028}and\u{2029}paragraphs\u{85}", Some("lines and paragraphs")),
            ("tags\u{e0041}\u{e007f}", Some("tags")),
            ("\u{3164}\u{115f}\u{ffa0}", None),
            ("\u{fffe}\u{1ffff}\u{fdd0}", None),
            // What means something to others only is text.
            ("<b>&amp;{{x}}$(y)'\"", Some("<b>&amp;{{x}}$(y)'\"")),
            ("Grün 猫 ∅", Some("Grün 猫 ∅")),
        ];
        for (text, expected) in table {
            assert_eq!(clean(text, 64).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_cut_is_between_two_characters() {
        for (unit, kept) in [("x", 64), ("é", 64), ("猫", 63), ("😀", 64)] {
            let cut = clean(&unit.repeat(126), 64).unwrap();
            assert_eq!((cut.len(), cut), (kept, unit.repeat(kept / unit.len())));
        }
    }

    proptest! {
        #[test]
        fn cleaned_text_fits_and_stays_clean(text in "\\PC{0,200}|.{0,200}", max in 0usize..80) {
            if let Some(out) = clean(&text, max) {
                prop_assert!(out.len() <= max && !out.is_empty());
                prop_assert!(!out.chars().any(|c| c.is_control() || is_invisible(c)));
                prop_assert_eq!(clean(&out, max), Some(out.clone()));
            }
        }
    }
}
