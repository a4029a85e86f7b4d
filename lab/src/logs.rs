//! What a failure leaves behind: one folder with the logs of every part and the objects of the API.
//!
//! Consoles and control-plane logs are written there from the start; the rest is fetched by [`collect`].

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::cluster::Lab;
use crate::node::Node;

/// Folders of earlier labs that are kept.
const KEPT: usize = 10;
/// Time to fetch one log.
const FETCH: Duration = Duration::from_secs(15);

/// The objects worth keeping.
const OBJECTS: &[&str] = &[
    "nodes",
    "pods",
    "daemonsets",
    "deployments",
    "resourceslices",
    "resourceclaims",
    "resourceclaimtemplates",
    "deviceclasses",
    "events",
    "leases",
    "nodeusbdevices.virtualization.deckhouse.io",
    "usbdevices.virtualization.deckhouse.io",
    "virtualmachines.virtualization.deckhouse.io",
];

/// What is fetched from a node: a file's name, and the command that prints it.
const NODE_FILES: &[(&str, &str)] = &[
    ("dmesg", "dmesg"),
    ("kubelet.log", "tail -c 4000000 /var/log/kubelet.log"),
    ("containerd.log", "tail -c 1000000 /var/log/containerd.log"),
    ("pods.log", "for f in /var/log/pods/*/*/*.log; do echo \"==== $f\"; tail -c 200000 $f; done"),
    ("usb", "lsusb -t; cat /sys/devices/platform/vhci_hcd.*/status*; ls -l /sys/bus/usb/drivers/usbip-host"),
    ("processes", "ps -o pid,ppid,stat,rss,args; free; df; mount"),
];

/// A new folder for the logs of one lab. Of the older ones the last few are kept.
///
/// # Errors
/// When the cache folder cannot be written.
pub fn new_folder(cache: &Cache) -> Result<PathBuf> {
    let root = cache.folder("runs")?;
    let mut old: Vec<PathBuf> = fs::read_dir(&root)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    old.sort();
    for folder in old.iter().rev().skip(KEPT - 1) {
        let _ = fs::remove_dir_all(folder);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Milliseconds since 1970, all with 13 digits: the names sort by age.
    let folder = root.join(now.as_millis().to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Fetches what is not in the folder already. What cannot be fetched is said in its place.
pub fn collect(lab: &Lab) {
    for kind in OBJECTS {
        let text = lab.kubectl(&["get", kind, "-A", "-o", "yaml"]).unwrap_or_else(|error| format!("{error:#}"));
        write(lab, &format!("{}.yaml", kind.split('.').next().unwrap_or(kind)), text.as_bytes());
    }
    std::thread::scope(|scope| {
        for node in lab.nodes() {
            scope.spawn(move || collect_node(lab, node));
        }
    });
    let mut summary = String::from("console, control plane and audit logs were written as they happened\n");
    for node in lab.nodes() {
        let _ = writeln!(summary, "{} is {}", node.name(), if node.is_on() { "on" } else { "off" });
    }
    write(lab, "README", summary.as_bytes());
}

fn collect_node(lab: &Lab, node: &Node) {
    for (name, script) in NODE_FILES {
        let bytes = match node.sh(script, FETCH) {
            Ok(output) => output.bytes,
            Err(error) => format!("{error:#}\n").into_bytes(),
        };
        write(lab, &format!("{}.{name}", node.name()), &bytes);
    }
}

fn write(lab: &Lab, name: &str, bytes: &[u8]) {
    if let Err(error) = fs::write(lab.logs().join(name), bytes) {
        eprintln!("cannot write {name}: {error}");
    }
}
