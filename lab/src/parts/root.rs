//! What a node starts from: a small initial ramdisk, and the disk that all nodes share.
//!
//! The disk is a plain ext4 file system without a journal that is only ever read, so any number of nodes can have it
//! open. The scripts in it are those of `lab/parts/node`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::programs::Kubernetes;
use super::{Builder, host, minutes};
use crate::cache::Inputs;
use crate::cpio;
use crate::progress;
use crate::tree::Tree;

/// The plugins for the network of pods.
const NETWORK_PLUGINS: &[&str] = &["bridge", "host-local", "loopback"];
/// The stock tools, for comparison with them.
const USB_TOOLS: &[(&str, &str)] =
    &[("usbip", "usr/sbin/usbip"), ("usbipd", "usr/sbin/usbipd"), ("lsusb", "usr/bin/lsusb")];

/// The initial ramdisk of a User-Mode Linux node.
///
/// # Errors
/// If a part of it is missing.
pub(super) fn initramfs(builder: &Builder) -> Result<PathBuf> {
    let tree = early(builder)?;
    let inputs = Inputs::new().text("files", &tree.describe()?);
    let entry = builder.cache.entry("initramfs", inputs, |to| write_ramdisk(&tree, &to.join("initramfs")))?;
    Ok(entry.join("initramfs"))
}

/// What the initial ramdisk of every node has in it.
///
/// # Errors
/// If a part of it is missing.
pub(super) fn early(builder: &Builder) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.busybox(&host::program("busybox")?, &builder.cache.log("initramfs"))?;
    for folder in ["dev", "proc", "sys", "lower", "upper", "root"] {
        tree.folder(folder, 0o755);
    }
    tree.device("dev/console", 0o600, 5, 1).device("dev/null", 0o666, 1, 3);
    tree.copy("init", 0o755, &builder.source("node/init"));
    tree.copy("machine", 0o644, &builder.source("node/machine"));
    Ok(tree)
}

/// Writes an initial ramdisk.
///
/// # Errors
/// If the tree cannot be read or the file not be written.
pub(super) fn write_ramdisk(tree: &Tree, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::new(file);
    cpio::write(tree, &mut out)?;
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}

/// The disk of a node, with the given Kubernetes and containerd.
///
/// # Errors
/// If a part of it is missing or the disk cannot be made.
pub(super) fn disk(builder: &Builder, kubernetes: &Kubernetes, containerd: &Path) -> Result<PathBuf> {
    let tree = node(builder, &kubernetes.folder, containerd)?;
    let inputs = Inputs::new().text("files", &tree.describe()?).text("format", FORMAT);
    let entry = builder.cache.entry(&kubernetes.release.entry("root"), inputs, |to| {
        progress::step("making the disk of the nodes", || write_disk(builder, &tree, to, "root"))
    })?;
    Ok(entry.join("root.ext4"))
}

/// Makes the disk `<name>.ext4` in a folder.
///
/// # Errors
/// If the tree cannot be read or `mke2fs` fails.
pub(super) fn write_disk(builder: &Builder, tree: &Tree, to: &Path, name: &str) -> Result<()> {
    let (files, disk) = (to.join("files"), to.join(format!("{name}.ext4")));
    fs::create_dir(&files).with_context(|| format!("cannot make {}", files.display()))?;
    tree.write_to(&files)?;
    let mut bytes = 0;
    for (_, entry) in tree.entries() {
        // Whole blocks, and one for the inode and the name.
        bytes += entry.size()?.next_multiple_of(4096) + 4096;
    }
    let megabytes = bytes / 1_000_000 * 11 / 10 + 16;
    builder
        .command(host::program("mke2fs")?, name)
        .args(FORMAT.split_whitespace())
        .args(["-d"])
        .args([&files, &disk])
        .args([format!("{megabytes}M")])
        .deadline(minutes(5))
        .run()?;
    fs::remove_dir_all(&files).with_context(|| format!("cannot remove {}", files.display()))
}

/// Options of `mke2fs`: no journal and no reserved room, because nobody writes; the same numbers each time.
pub(super) const FORMAT: &str = "-q -t ext4 -O ^has_journal,^metadata_csum -m 0 -E root_owner=0:0,hash_seed=5b8e3c70-0000-4000-8000-000000000001 \
                      -U 5b8e3c70-0000-4000-8000-000000000000";

fn node(builder: &Builder, kubernetes: &Path, containerd: &Path) -> Result<Tree> {
    let log = builder.cache.log("root");
    let mut tree = Tree::new();
    tree.busybox(&host::program("busybox")?, &log)?;
    for program in ["init", "modprobe", "insmod"] {
        tree.link(&format!("sbin/{program}"), "../bin/busybox");
    }
    for folder in
        ["dev", "host", "lib/modules", "mnt", "proc", "run", "sys", "var", "etc/cni/net.d", "etc/kubernetes/manifests"]
    {
        tree.folder(folder, 0o755);
    }
    tree.folder("root", 0o700).folder("tmp", 0o1777);

    tree.copy("usr/bin/kubelet", 0o755, &kubernetes.join("kube"));
    for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        tree.copy(&format!("usr/bin/{program}"), 0o755, &containerd.join(program));
    }
    tree.program("usr/sbin/runc", &host::program("runc")?, &log)?;
    for plugin in NETWORK_PLUGINS {
        tree.program(&format!("opt/cni/bin/{plugin}"), &Path::new("/usr/lib/cni").join(plugin), &log)?;
    }
    for (name, path) in USB_TOOLS {
        // Not everywhere: see the list of packages.
        if let Ok(source) = host::program(name) {
            tree.program(path, &source, &log)?;
        }
    }

    for script in ["rc", "agent", "containerd-up", "kubelet-up"] {
        tree.copy(&format!("sbin/{script}"), 0o755, &builder.source("node").join(script));
    }
    for (file, path) in [
        ("machine", "sbin/machine"),
        ("inittab", "etc/inittab"),
        ("containerd.toml", "etc/containerd/config.toml"),
        ("kubelet.yaml", "etc/kubernetes/kubelet.yaml"),
    ] {
        tree.copy(path, 0o644, &builder.source("node").join(file));
    }
    for (path, content) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
        ("etc/os-release", "ID=patchbay-lab\nNAME=\"Patchbay lab\"\nPRETTY_NAME=\"Patchbay lab node\"\n"),
        ("etc/resolv.conf", ""),
    ] {
        tree.file(path, 0o644, content);
    }
    Ok(tree)
}
