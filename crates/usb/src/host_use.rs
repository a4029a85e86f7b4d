//! Which devices the host itself is using.
//!
//! Taking away the disk a node runs from, or the network it is reached by, would take the node away. So a device is in use
//! when the host has a file system or swap space on any block device below it (also through device mapper and RAID), or a
//! network interface below it that carries traffic: up, with a carrier, and with an address or part of a bridge or bond.
//!
//! Everything is best effort: what cannot be read is taken as not in use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::root::{SysDir, SysRoot};

/// What the host uses: where in the tree of devices, and in words.
pub(crate) struct HostUse(Vec<(PathBuf, String)>);

/// How many layers of device mapper and RAID are looked through.
const MAX_LAYERS: usize = 8;

impl HostUse {
    pub(crate) fn read(root: &SysRoot) -> Self {
        let mut uses = Vec::new();
        for (block, point) in mounts(root) {
            let words = format!("the host has a file system on it mounted at {point}: unmount it first");
            physical(&block, MAX_LAYERS, &mut |path| uses.push((path, words.clone())));
        }
        for block in swaps(root) {
            let words = "the host has swap space on it: swapoff first".to_owned();
            physical(&block, MAX_LAYERS, &mut |path| uses.push((path, words.clone())));
        }
        for (interface, path) in networks(root) {
            uses.push((
                path,
                format!("the host uses it as network interface {interface}: take the interface down first"),
            ));
        }
        Self(uses)
    }

    /// Why the device at this real path cannot be taken from the host; None when it can.
    pub(crate) fn reason(&self, device: &Path) -> Option<String> {
        let found = self.0.iter().find(|(path, _)| path.starts_with(device));
        found.map(|(_, words)| words.clone())
    }
}

/// Reports the real path of a block device, and of those it is made of.
fn physical(block: &SysDir, layers: usize, report: &mut impl FnMut(PathBuf)) {
    let Ok(path) = block.real() else { return };
    report(path);
    let slaves = block.join("slaves");
    for name in slaves.names().unwrap_or_default() {
        if layers > 0 {
            physical(&slaves.join(name), layers - 1, report);
        }
    }
}

/// Mounted block devices and where they are mounted. Process 1 sees the host's mounts where the agent's own view is that
/// of its container.
fn mounts(root: &SysRoot) -> Vec<(SysDir, String)> {
    let table = ["proc/1/mountinfo", "proc/self/mountinfo"].iter().find_map(|p| fs::read(root.path(p)).ok());
    let table = String::from_utf8_lossy(&table.unwrap_or_default()).into_owned();
    table.lines().filter_map(|line| mounted(root, line)).collect()
}

/// One line of mountinfo (`proc_pid_mountinfo(5)`): id, parent, major:minor, root, mount point, options, then any number
/// of optional fields, a dash, type, source. File systems of several devices (btrfs) have a made-up major 0; their source
/// names a block device.
fn mounted(root: &SysRoot, line: &str) -> Option<(SysDir, String)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut fields = head.split(' ').skip(2);
    let (number, point) = (fields.next()?, fields.nth(1)?);
    let block = if number.starts_with("0:") {
        class_block(root, tail.split(' ').nth(1)?)?
    } else {
        root.dir("sys/dev/block").join(number)
    };
    Some((block, unescape(point)))
}

fn swaps(root: &SysRoot) -> Vec<SysDir> {
    let table = fs::read_to_string(root.path("proc/swaps")).unwrap_or_default();
    let sources = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    sources.filter_map(|source| class_block(root, source)).collect()
}

/// The block device behind `/dev/sda1`.
fn class_block(root: &SysRoot, source: &str) -> Option<SysDir> {
    let name = source.strip_prefix("/dev/")?;
    (!name.contains('/')).then(|| root.dir("sys/class/block").join(name))
}

/// Spaces, tabs, newlines and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Network interfaces that carry traffic, and where they are.
fn networks(root: &SysRoot) -> Vec<(String, PathBuf)> {
    let addressed = addressed(root);
    let class = root.dir("sys/class/net");
    let mut found = Vec::new();
    for name in class.names().unwrap_or_default() {
        let interface = class.join(&name);
        // The carrier of an interface that is down cannot be read at all.
        let live = interface.text("carrier").is_ok_and(|c| c == "1");
        if live && (addressed.contains(&name) || interface.link("master").is_some()) {
            found.extend(interface.real().ok().map(|path| (name, path)));
        }
    }
    found
}

/// Interfaces with an address: a route of IPv4 leads through them, or they have an address of IPv6 that is not merely
/// link local (each interface that is up has one of those). Columns: `net/ipv4/fib_trie.c`, `net/ipv6/addrconf.c`.
fn addressed(root: &SysRoot) -> BTreeSet<String> {
    const LINK_LOCAL: &str = "20";
    let routes = fs::read_to_string(root.path("proc/net/route")).unwrap_or_default();
    let inet6 = fs::read_to_string(root.path("proc/net/if_inet6")).unwrap_or_default();
    let by_route = routes.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let by_address = inet6.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(3);
        let (scope, name) = (columns.next()?, columns.nth(1)?);
        (scope != LINK_LOCAL).then_some(name)
    });
    by_route.chain(by_address).map(str::to_owned).collect()
}
