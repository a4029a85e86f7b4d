//! What a node itself does with a device that is plugged into it, and from whom that keeps the device.
//!
//! Taking the disk a node has mounted would take the node's files away under it, and taking the interface it is reached by
//! would take the node. So such a device is published with what the node does with it, and neither lent out nor used on the
//! node, until the node has let go.
//!
//! It travels in the attribute `notReady`, which holds 64 bytes: what people read is made where there is room for it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::{BusAddress, HexId, clean};
use crate::names::NodeName;

/// What a node does with a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HostUse {
    /// A file system on it is mounted in this place.
    Mounted(String),
    /// It has swap space on this block device.
    Swap(String),
    /// It is this network interface, which is up and has an address, or is part of one that has.
    Network(String),
    /// It is a keyboard that the console of the node listens to, under this name of the kernel's.
    Keyboard(String),
    /// Somebody has this disk of it for himself: a volume of device mapper or RAID, a mount that the node does not see.
    Held(String),
    /// What an agent of another version says.
    Other(String),
}

/// How each is written; also how it is told from the others.
const MOUNTED: &str = "mounted at ";
const SWAP: &str = "swap space on ";
const NETWORK: &str = "network interface ";
const KEYBOARD: &str = "console keyboard ";
const HELD: &str = "held: ";

/// The longest text, in bytes: what an attribute of a DRA device holds.
const MAX: usize = 64;

impl HostUse {
    /// A file system is mounted at `point`.
    pub fn mounted(point: &str) -> Self {
        Self::Mounted(short(point, MOUNTED))
    }

    /// There is swap space on the block device `name`.
    pub fn swap(name: &str) -> Self {
        Self::Swap(short(name, SWAP))
    }

    /// It is the network interface `name`.
    pub fn network(name: &str) -> Self {
        Self::Network(short(name, NETWORK))
    }

    /// It is the keyboard `name` of the console.
    pub fn keyboard(name: &str) -> Self {
        Self::Keyboard(short(name, KEYBOARD))
    }

    /// Somebody holds the block device `name`.
    pub fn held(name: &str) -> Self {
        Self::Held(short(name, HELD))
    }

    /// Reads what was written by `Display`. What is none of these is kept as it is.
    pub fn read(text: &str) -> Self {
        let rest = |word| text.strip_prefix(word).map(str::to_owned);
        rest(MOUNTED)
            .map(Self::Mounted)
            .or_else(|| rest(SWAP).map(Self::Swap))
            .or_else(|| rest(NETWORK).map(Self::Network))
            .or_else(|| rest(KEYBOARD).map(Self::Keyboard))
            .or_else(|| rest(HELD).map(Self::Held))
            .unwrap_or_else(|| Self::Other(text.to_owned()))
    }

    /// What people are told, and what they can do: `node` is the device's own.
    pub fn message(&self, node: &NodeName) -> String {
        let (what, way_out) = match self {
            Self::Mounted(point) => {
                (format!("a file system on it is mounted at {point}"), "unmount it there (umount)".to_owned())
            }
            Self::Swap(name) => (format!("it has swap space on {name}"), "switch that off there (swapoff)".to_owned()),
            Self::Network(name) => (
                format!("it is network interface {name}, which is up and has an address"),
                format!("take that down there (ip link set {name} down)"),
            ),
            Self::Keyboard(name) => (
                format!("it is {name}, a keyboard that the console there listens to"),
                "let --console-keyboards of the agent leave it out".to_owned(),
            ),
            Self::Held(name) => (
                format!("something there has {name} for itself"),
                "end what uses it: a volume of LVM, RAID or an encrypted disk, or a mount in a container".to_owned(),
            ),
            Self::Other(text) => return format!("node {node} keeps the device: {text}"),
        };
        format!("node {node} uses the device itself: {what}; {way_out}")
    }
}

impl fmt::Display for HostUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, rest) = match self {
            Self::Mounted(point) => (MOUNTED, point),
            Self::Swap(name) => (SWAP, name),
            Self::Network(name) => (NETWORK, name),
            Self::Keyboard(name) => (KEYBOARD, name),
            Self::Held(name) => (HELD, name),
            Self::Other(text) => ("", text),
        };
        write!(f, "{word}{rest}")
    }
}

/// A name or path that leaves room for the word before it; dots stand for what there is no room for. Mount points are made of
/// labels that whoever formatted the disk has chosen.
fn short(text: &str, word: &str) -> String {
    const DOTS: &str = "...";
    let room = MAX - word.len();
    let whole = clean(text, text.len()).unwrap_or_else(|| "?".to_owned());
    if whole.len() <= room {
        return whole;
    }
    let cut = clean(&whole, room - DOTS.len()).unwrap_or_default();
    cut + DOTS
}

/// Which keyboards the consoles of nodes have for themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keyboards {
    /// None.
    #[default]
    Free,
    /// Every one that a console listens to.
    All,
    /// Those of these vendor and product ids.
    Of(Vec<(HexId, HexId)>),
}

impl Keyboards {
    /// Whether those of these ids are among them.
    pub fn has(&self, vendor: HexId, product: HexId) -> bool {
        match self {
            Self::Free => false,
            Self::All => true,
            Self::Of(ids) => ids.contains(&(vendor, product)),
        }
    }
}

/// Neither `none` nor `all` nor a list of ids.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is neither none nor all nor a list of vendor and product ids such as 046d:c31c,04d9:a1cd")]
pub struct KeyboardsError(String);

impl FromStr for Keyboards {
    type Err = KeyboardsError;

    fn from_str(text: &str) -> Result<Self, KeyboardsError> {
        let pair = |pair: &str| {
            let (vendor, product) = pair.trim().split_once(':')?;
            Some((vendor.parse().ok()?, product.parse().ok()?))
        };
        match text {
            "none" => Ok(Self::Free),
            "all" => Ok(Self::All),
            ids => {
                let ids = ids.split(',').map(pair).collect::<Option<Vec<_>>>();
                ids.map(Self::Of).ok_or_else(|| KeyboardsError(text.to_owned()))
            }
        }
    }
}

/// What keeps others from a device that a node uses as `host`; None when nothing does.
///
/// `at` is its present address, `given` the one under which containers of ours on its node were given it: what they do with
/// the device they have is theirs, also when the node sees it. A device that has been away since is not the one they have.
pub fn kept(host: Option<&HostUse>, at: BusAddress, given: Option<BusAddress>) -> Option<&HostUse> {
    host.filter(|_| given != Some(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_are_told_what_the_node_does_and_what_to_do() {
        let node = NodeName::new("node-1");
        let says = |text: &str, words: &[&str]| {
            let message = HostUse::read(text).message(&node);
            for word in words.iter().chain(&["node-1"]) {
                assert!(message.contains(word), "{message}");
            }
        };
        says("mounted at /mnt/stick", &["/mnt/stick", "umount"]);
        says("swap space on sda2", &["sda2", "swapoff"]);
        says("network interface eth1", &["ip link set eth1 down"]);
        says("console keyboard input3", &["input3", "console", "--console-keyboards"]);
        says("held: sda", &["something there has sda", "LVM"]);
        says("on fire", &["on fire"]);
    }

    #[test]
    fn keyboards_are_named_by_ids() {
        let (ours, other) = ((HexId(0x046d), HexId(0xc31c)), (HexId(0x1050), HexId(0x0407)));
        for (text, has_ours, has_other) in [
            ("none", false, false),
            ("all", true, true),
            ("046d:c31c", true, false),
            ("04d9:a1cd, 046d:c31c", true, false),
            ("1050:c31c", false, false),
        ] {
            let keyboards: Keyboards = text.parse().unwrap();
            assert_eq!(
                (keyboards.has(ours.0, ours.1), keyboards.has(other.0, other.1)),
                (has_ours, has_other),
                "{text}"
            );
        }
        for text in ["", "some", "046d", "046d:c31c,", "046d:logitech", "046d:c31c all"] {
            let error = text.parse::<Keyboards>().unwrap_err().to_string();
            assert!(error.contains("046d:c31c"), "{error}");
        }
    }

    #[test]
    fn a_long_mount_point_is_cut_where_it_can_be_seen() {
        let long = format!("/var/lib/kubelet/pods/{}/mount", "é".repeat(60));
        let text = HostUse::mounted(&long).to_string();
        assert!(text.len() <= MAX && text.ends_with("é..."), "{text}");
    }

    #[test]
    fn what_containers_do_with_the_device_they_have_is_theirs() {
        let (host, at) = (HostUse::mounted("/data"), BusAddress { bus: 1, device: 4 });
        let again = BusAddress { bus: 1, device: 5 };
        let table = [
            (Some(&host), None, Some(&host)),
            (Some(&host), Some(at), None),
            (Some(&host), Some(again), Some(&host)),
            (None, None, None),
            (None, Some(at), None),
        ];
        for (used, given, expected) in table {
            assert_eq!(kept(used, at, given), expected, "{used:?} {given:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_disk_is_called_it_fits_and_is_read_back(name in "\\PC{0,80}|.{0,80}") {
            for host in [HostUse::mounted(&name), HostUse::swap(&name), HostUse::network(&name), HostUse::keyboard(&name), HostUse::held(&name)] {
                let text = host.to_string();
                prop_assert!(text.len() <= MAX, "{}", text);
                prop_assert_eq!(clean(&text, MAX), Some(text.clone()));
                prop_assert_eq!(HostUse::read(&text), host);
            }
        }
    }
}
