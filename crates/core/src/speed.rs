//! USB speeds, and the two halves of a vhci controller they belong to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A device's speed. Written as sysfs writes it, in Mbit/s: `1.5`, `12`, `480`, `5000`, `10000`, `20000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Speed {
    /// 1.5 Mbit/s.
    Low,
    /// 12 Mbit/s.
    Full,
    /// 480 Mbit/s.
    High,
    /// 5 Gbit/s.
    Super,
    /// 10 Gbit/s.
    SuperPlus,
    /// 20 Gbit/s, two lanes.
    SuperPlusBy2,
}

/// Text that is no USB speed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no USB speed in Mbit/s")]
pub struct SpeedError(String);

impl Speed {
    /// All speeds, slowest first.
    pub const ALL: [Self; 6] = [Self::Low, Self::Full, Self::High, Self::Super, Self::SuperPlus, Self::SuperPlusBy2];

    /// The text in sysfs (`drivers/usb/core/sysfs.c`, `speed_show`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "1.5",
            Self::Full => "12",
            Self::High => "480",
            Self::Super => "5000",
            Self::SuperPlus => "10000",
            Self::SuperPlusBy2 => "20000",
        }
    }

    /// The half of a vhci controller a device of this speed attaches to.
    pub const fn hub(self) -> Hub {
        match self {
            Self::Low | Self::Full | Self::High => Hub::Usb2,
            Self::Super | Self::SuperPlus | Self::SuperPlusBy2 => Hub::Usb3,
        }
    }

    /// The number `vhci_hcd/attach` wants (`enum usb_device_speed` of `include/uapi/linux/usb/ch9.h`).
    /// A stock vhci takes its super-speed ports for 5 only, so everything faster is imported as 5.
    pub const fn vhci_code(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Full => 2,
            Self::High => 3,
            Self::Super | Self::SuperPlus | Self::SuperPlusBy2 => 5,
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, SpeedError> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| SpeedError(text.to_owned()))
    }
}

impl TryFrom<String> for Speed {
    type Error = SpeedError;

    fn try_from(text: String) -> Result<Self, SpeedError> {
        text.parse()
    }
}

impl From<Speed> for String {
    fn from(speed: Speed) -> Self {
        speed.as_str().to_owned()
    }
}

/// One half of a vhci controller: USB 2.0 and USB 3.0 devices never share a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hub {
    /// Low, full and high speed.
    Usb2,
    /// Super speed and above.
    Usb3,
}

impl Hub {
    /// Both halves.
    pub const ALL: [Self; 2] = [Self::Usb2, Self::Usb3];

    /// `usb2` or `usb3`, as in names and attributes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usb2 => "usb2",
            Self::Usb3 => "usb3",
        }
    }

    /// For sentences: `USB 2.0` or `USB 3.0`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Usb2 => "USB 2.0",
            Self::Usb3 => "USB 3.0",
        }
    }
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One vhci port of a node, as a DRA device: `usb2-0`, `usb3-4`.
///
/// The number counts the ports of one half over all controllers of the node, in the order of the kernel's `status` files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName {
    /// Which half.
    pub hub: Hub,
    /// Which of that half's ports, from 0.
    pub index: u16,
}

/// Text that names no port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no port name such as usb2-0")]
pub struct PortNameError(String);

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hub, self.index)
    }
}

impl FromStr for PortName {
    type Err = PortNameError;

    fn from_str(text: &str) -> Result<Self, PortNameError> {
        let parse = || {
            let (hub, index) = text.split_once('-')?;
            let hub = Hub::ALL.into_iter().find(|h| h.as_str() == hub)?;
            Some(Self { hub, index: index.parse().ok()? })
        };
        parse().filter(|p| p.to_string() == text).ok_or_else(|| PortNameError(text.to_owned()))
    }
}

impl TryFrom<String> for PortName {
    type Error = PortNameError;

    fn try_from(text: String) -> Result<Self, PortNameError> {
        text.parse()
    }
}

impl From<PortName> for String {
    fn from(port: PortName) -> Self {
        port.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_speed_survives_its_own_text() {
        for speed in Speed::ALL {
            assert_eq!(speed.as_str().parse(), Ok(speed));
        }
        assert!("9600".parse::<Speed>().is_err());
    }

    #[test]
    fn speeds_up_to_high_belong_to_the_usb_2_hub() {
        let hubs: Vec<_> = Speed::ALL.into_iter().map(Speed::hub).collect();
        assert_eq!(hubs, [Hub::Usb2, Hub::Usb2, Hub::Usb2, Hub::Usb3, Hub::Usb3, Hub::Usb3]);
    }

    #[test]
    fn port_names_are_strict() {
        assert_eq!("usb3-12".parse(), Ok(PortName { hub: Hub::Usb3, index: 12 }));
        for bad in ["usb1-0", "usb2", "usb2-", "usb2-00", "usb2--1", "usb2-+1", " usb2-1"] {
            assert!(bad.parse::<PortName>().is_err(), "{bad}");
        }
    }
}
