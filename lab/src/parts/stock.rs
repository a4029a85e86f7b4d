//! Debian's own kernel as its users have it, out of the package: for the guests of VMs, and for nodes in QEMU.
//!
//! The entry has `vmlinux`, the kernel as an ELF file, which QEMU starts directly (a bzImage would first unpack
//! itself, seconds under emulation), and `modules`, what the package puts into `/lib/modules`. A node with this kernel
//! has a ramdisk with the modules for its disks, and a disk with those for all else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::debian::{Debian, Offer, Version, version};
use super::module::{Module, Modules};
use super::{Builder, minutes, root};
use crate::cache::Inputs;
use crate::progress;
use crate::tree::Tree;

/// What a node needs to find its disks.
const EARLY: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "overlay"];
/// What a node loads as soon as it has its root.
const LOADED: &[&str] = &[
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "9pnet_virtio",
    "9p",
    "configfs",
    "xhci_pci",
    "ehci_pci",
    "uhci_hcd",
    "sd_mod",
    "usb_storage",
    "uas",
    "cdc_acm",
    "ftdi_sio",
    "usbhid",
    "hid_generic",
    "usbip_host",
    "vhci_hcd",
    "tls",
    "chacha20poly1305",
    "chacha_generic",
    "poly1305_generic",
    "veth",
    "bridge",
    "br_netfilter",
];
/// What the kernel asks for by itself if it can use it.
const AT_HAND: &[&str] =
    &["gcm", "ctr", "ghash_generic", "seqiv", "chacha_x86_64", "poly1305_x86_64", "crct10dif_generic", "evdev"];

/// Unpacks the newest kernel of the release, or finds one in the cache if it cannot be looked up.
///
/// # Errors
/// If it cannot be downloaded or unpacked.
pub(super) fn build(builder: &Builder, debian: &Debian) -> Result<PathBuf> {
    let Some(offer) = debian.newest((0, 0, 0), image_version) else {
        let cached = builder.cache.finished("debian-kernel")?.into_iter().next();
        return cached.ok_or_else(|| debian.nothing("stock kernel"));
    };
    let inputs = Inputs::new().text("package", &offer.package).text("version", &offer.version);
    builder.cache.entry("debian-kernel", inputs, |to| {
        let what = format!("unpacking Debian's kernel {}", offer.version);
        progress::step(&what, || unpack(builder, debian, offer, to))
    })
}

/// The initial ramdisk of a node, given the folder of this kernel.
///
/// # Errors
/// If a part of it is missing.
pub(super) fn initramfs(builder: &Builder, kernel: &Path) -> Result<PathBuf> {
    let mut tree = root::early(builder)?;
    let mut order = String::new();
    for module in open(builder, kernel)?.closure(EARLY)? {
        let _ = writeln!(order, "{}", module.name);
        tree.file(&format!("modules/{}.ko", module.name), 0o644, module.code);
    }
    tree.file("modules/order", 0o644, order);
    let inputs = Inputs::new().text("files", &tree.describe()?);
    let entry =
        builder.cache.entry("stock-initramfs", inputs, |to| root::write_ramdisk(&tree, &to.join("initramfs")))?;
    Ok(entry.join("initramfs"))
}

/// The disk on a node's `/lib/modules`, given the folder of this kernel. Its file `load` names the modules to load.
///
/// # Errors
/// If a module is missing or the disk cannot be made.
pub(super) fn modules(builder: &Builder, kernel: &Path) -> Result<PathBuf> {
    let release = fs::read_dir(kernel.join("modules"))?.next().context("the kernel has no modules")??.file_name();
    let release = release.to_string_lossy();
    let modules = open(builder, kernel)?.closure(&[EARLY, LOADED, AT_HAND].concat())?;
    let mut tree = Tree::new();
    tree.file("load", 0o644, LOADED.join("\n") + "\n");
    tree.file(&format!("{release}/modules.dep"), 0o644, dependencies(&modules));
    tree.file(&format!("{release}/modules.alias"), 0o644, aliases(&modules));
    for module in modules {
        tree.file(&format!("{release}/{}.ko", module.name), 0o644, module.code);
    }
    let inputs = Inputs::new().text("files", &tree.describe()?).text("format", root::FORMAT);
    let entry = builder.cache.entry("stock-modules", inputs, |to| root::write_disk(builder, &tree, to, "modules"))?;
    Ok(entry.join("modules.ext4"))
}

fn open(builder: &Builder, kernel: &Path) -> Result<Modules> {
    Modules::open(&kernel.join("modules"), &builder.cache.log("debian-kernel"))
}

/// `modules.dep` of `modprobe`: after each module all it needs, the one to be loaded first at the end. Modules come after
/// those they need.
fn dependencies(modules: &[Module]) -> String {
    let mut all: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut file = String::new();
    for module in modules {
        let mut needed = BTreeSet::new();
        for name in module.needs() {
            needed.extend(modules.iter().position(|other| other.name == name));
            needed.extend(all.get(name.as_str()).into_iter().flatten());
        }
        let _ = write!(file, "{}.ko:", module.name);
        for other in needed.iter().rev().filter_map(|at| modules.get(*at)) {
            let _ = write!(file, " {}.ko", other.name);
        }
        file.push('\n');
        all.insert(&module.name, needed);
    }
    file
}

/// `modules.alias` of `modprobe`.
fn aliases(modules: &[Module]) -> String {
    let lines = modules
        .iter()
        .flat_map(|module| module.aliases().into_iter().map(|alias| format!("alias {alias} {}\n", module.name)));
    lines.collect()
}

fn unpack(builder: &Builder, debian: &Debian, offer: &Offer, to: &Path) -> Result<()> {
    let package = to.join("package");
    fs::create_dir(&package).with_context(|| format!("cannot make {}", package.display()))?;
    debian.unpack(offer, &package)?;
    let release = offer.package.strip_prefix("linux-image-").unwrap_or_default();
    let image = package.join(format!("boot/vmlinuz-{release}"));
    let image = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let (tool, packed) = payload(&image).context("cannot take the kernel out of its boot image")?;

    let run = |program: &str| builder.command(program, "debian-kernel").deadline(minutes(5));
    let (compressed, full) = (to.join(format!("kernel.{tool}")), to.join("kernel"));
    fs::write(&compressed, packed)?;
    run(tool).args(["-dc"]).args([&compressed]).output_to(&full)?;
    if !fs::read(&full)?.starts_with(b"\x7fELF") {
        bail!("the kernel in the boot image of {release} is not an ELF file");
    }
    run("strip").args(["-s", "-o"]).args([to.join("vmlinux"), full.clone()]).run()?;

    // Where the release has a merged /usr the modules are there.
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| package.join(path));
    let modules = modules.iter().find(|path| path.is_dir()).context("the package has no modules")?;
    fs::rename(modules, to.join("modules"))?;
    fs::remove_file(compressed)?;
    fs::remove_file(full)?;
    fs::remove_dir_all(&package).with_context(|| format!("cannot remove {}", package.display()))
}

/// The number that rises with each build of the same kernel: 56 in `linux-image-6.1.0-56-amd64`.
fn image_version(package: &str) -> Option<Version> {
    version(package.strip_prefix("linux-image-6.1.0-")?.strip_suffix("-amd64")?)
}

/// The compressed kernel in a boot image and the program that unpacks it
/// (`Documentation/arch/x86/boot.rst`: `setup_sects`, `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Result<(&'static str, &[u8])> {
    let number = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|b| b.try_into().ok()).context("the boot image is too short")?;
        Ok::<_, anyhow::Error>(usize::try_from(u32::from_le_bytes(bytes))?)
    };
    let sectors = match number(0x1f1)? & 0xff {
        0 => 4,
        count => count,
    };
    let start = (sectors + 1) * 512 + number(0x248)?;
    // The last four bytes are the length of the kernel when unpacked, which is not part of the stream.
    let end = start + number(0x24c)?.saturating_sub(4);
    let packed = image.get(start..end).context("the boot image ends before its kernel")?;
    match packed {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Ok(("xz", packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(("zstd", packed)),
        _ => bail!("the kernel is compressed in a way this does not know"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload_length: u32) -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[0x1f1] = 3;
        image[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&payload_length.to_le_bytes());
        image[2148..2160].copy_from_slice(b"\xfd7zXZ\0abSIZE");
        image
    }

    #[test]
    fn the_payload_is_found_without_its_length() {
        assert_eq!(payload(&image(12)).unwrap(), ("xz", b"\xfd7zXZ\0ab".as_slice()));
    }

    #[test]
    fn a_boot_image_that_is_cut_off_is_refused() {
        assert!(payload(&image(4000)).is_err());
        assert!(payload(&image(12)[..600]).is_err());
    }

    #[test]
    fn modprobe_is_told_all_a_module_needs_and_loads_the_last_first() {
        let module = |name: &str, info: &str| Module { name: name.into(), code: format!("\0{info}\0").into_bytes() };
        let modules = [
            module("scsi_mod", "depends="),
            module("usb_storage", "depends=scsi-mod"),
            module("uas", "alias=usb:v*\0depends=usb-storage"),
        ];
        let expected = "scsi_mod.ko:\nusb_storage.ko: scsi_mod.ko\nuas.ko: usb_storage.ko scsi_mod.ko\n";
        assert_eq!(dependencies(&modules), expected);
        assert_eq!(aliases(&modules), "alias usb:v* uas\n");
    }

    #[test]
    fn other_flavours_of_the_kernel_are_not_taken() {
        assert_eq!(image_version("linux-image-6.1.0-56-amd64"), Some((56, 0, 0)));
        assert_eq!(image_version("linux-image-6.1.0-56-cloud-amd64"), None);
    }
}
