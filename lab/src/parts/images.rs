//! The container images of the lab.
//!
//! | image | layers | for |
//! |---|---|---|
//! | `pause` | a tiny program | the first process of every pod |
//! | `tool` | busybox | tests |
//! | `machine` | QEMU, test guest | its layers: nobody runs it |
//! | `patchbay` | our program | agent, controller, attachment pods |
//! | `engine` | QEMU, our program | virtual machines, the base of their images |
//! | `guest` | QEMU, test guest, our program | the virtual machine of the scenarios |
//!
//! Our program changes with every build and QEMU with its guest, a hundred megabytes, hardly ever. So the program is
//! the top layer of the images it is in. An archive leaves out the layers of the images before it in this list: a
//! node imports them in this order, or was given a disk on which the first ones are imported.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::module::Modules;
use super::{Builder, host, programs, root};
use crate::cache::Inputs;
use crate::oci::{self, Layer, Process};
use crate::progress;
use crate::tree::Tree;

/// An image in an OCI archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its full name, like `localhost/patchbay/pause:lab`.
    pub reference: String,
    /// The archive, for `ctr images import`.
    pub archive: PathBuf,
    /// The digest of its manifest.
    pub digest: String,
    /// Whether it is the same for all builds of this repository's programs.
    pub stable: bool,
}

/// The most that the image of controller and agent may have, in bytes.
const MOST: u64 = 25_000_000;
/// The user that all images of ours run as.
const USER: &str = "65532:65532";
/// Where QEMU looks for its modules; it finds all else next to itself.
const QEMU_MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";
/// The emulator and the devices of the node: what QEMU loads at run time. Newer ones have some of it built in.
const QEMU_NEEDS: &[&str] = &["accel-tcg-x86_64.so", "hw-usb-host.so"];
/// Firmware of the machine types `q35` and `microvm` for a kernel that is started directly.
const FIRMWARE: &[&str] = &[
    "usr/share/qemu/bios-microvm.bin",
    "usr/share/qemu/kvmvapic.bin",
    "usr/share/qemu/linuxboot_dma.bin",
    "usr/share/qemu/pvh.bin",
    "usr/share/qemu/qboot.rom",
    "usr/share/seabios/bios-256k.bin",
    "usr/share/seabios/bios-microvm.bin",
];
/// What the test guest loads, with parameters. Everything a scenario plugs in has its driver here.
const GUEST_MODULES: &[&str] = &[
    "virtio_pci",
    "xhci_pci",
    "usb_storage delay_use=0",
    "uas",
    "sd_mod",
    "cdc_acm",
    "ftdi_sio",
    "usbhid",
    "hid_generic",
    "evdev",
];
/// What the test guest loads when the first sound device is plugged in.
const GUEST_SOUND: &[&str] = &["snd_pcm_oss", "snd_usb_audio"];

/// Makes all images, given the folder of Debian's kernel and our program.
///
/// # Errors
/// If a part of one is missing or cannot be built.
pub(super) fn build(builder: &Builder, kernel: &Path, patchbay: &Path) -> Result<Vec<Image>> {
    let qemu = layer(builder, "qemu-layer", &qemu(builder)?)?;
    let machine = layer(builder, "machine-layer", &machine(builder, kernel)?)?;
    let program = program(builder, patchbay)?;
    let pause = layer(builder, "pause-layer", Tree::new().copy("pause", 0o755, &pause(builder)?))?;
    let tool = layer(builder, "tool-layer", &tool(builder)?)?;

    let modules = modules();
    let environment = [modules.as_str()];
    let virtual_machine = virtual_machine(&environment);
    let mut maker = Maker { builder, imported: Vec::new(), images: Vec::new() };
    maker.make(
        "pause",
        true,
        &Process { entrypoint: &["/pause"], user: "65535:65535", environment: &[] },
        &[&pause],
    )?;
    maker.make("tool", true, &Process { entrypoint: &["/bin/sh"], ..Process::default() }, &[&tool])?;
    maker.make("machine", true, &Process::default(), &[&qemu, &machine])?;
    maker.make("patchbay", false, &PROGRAM, &[&program])?;
    maker.make("engine", false, &virtual_machine, &[&qemu, &program])?;
    maker.make("guest", false, &virtual_machine, &[&qemu, &machine, &program])?;
    Ok(maker.images)
}

/// Writes images, whole, as OCI archives into a folder: our program, the engine of virtual machines, and the test guest in it.
/// Returns the archives.
///
/// # Errors
/// As [`build`], or if the folder cannot be written.
pub(super) fn write(builder: &Builder, kernel: &Path, patchbay: &Path, folder: &Path) -> Result<[PathBuf; 3]> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (program, qemu) = (program(builder, patchbay)?, layer(builder, "qemu-layer", &qemu(builder)?)?);
    let machine = layer(builder, "machine-layer", &machine(builder, kernel)?)?;
    let modules = modules();
    let environment = [modules.as_str()];
    let image = |name: &str, process: &Process<'_>, layers: &[&Layer]| -> Result<PathBuf> {
        let version = env!("CARGO_PKG_VERSION");
        let archive = folder.join(format!("{name}-{version}.tar"));
        oci::write(&archive, &format!("localhost/patchbay/{name}:{version}"), process, layers, |_| false)?;
        Ok(archive)
    };
    let engine = virtual_machine(&environment);
    Ok([
        image("patchbay", &PROGRAM, &[&program])?,
        image("engine", &engine, &[&qemu, &program])?,
        image("guest", &engine, &[&qemu, &machine, &program])?,
    ])
}

/// How controller, agent and attachment pods are run; each says its command.
const PROGRAM: Process<'static> = Process { entrypoint: &["/patchbay"], user: USER, environment: &[] };

fn virtual_machine<'a>(environment: &'a [&'a str]) -> Process<'a> {
    Process { entrypoint: &["/patchbay", "vm"], user: USER, environment }
}

/// The variable that tells QEMU where its modules are.
fn modules() -> String {
    format!("QEMU_MODULE_DIR=/{QEMU_MODULES}")
}

/// All that is in the image of our program.
fn program(builder: &Builder, patchbay: &Path) -> Result<Layer> {
    let size = fs::metadata(patchbay).with_context(|| format!("cannot see {}", patchbay.display()))?.len();
    ensure!(
        size < MOST,
        "{} has {size} bytes, and the image of controller and agent may have {MOST}",
        patchbay.display()
    );
    layer(builder, "patchbay-layer", Tree::new().copy("patchbay", 0o755, patchbay))
}

/// Makes one image after the other.
struct Maker<'a> {
    builder: &'a Builder,
    /// Digests of the layers that a node has when it imports the next image.
    imported: Vec<String>,
    images: Vec<Image>,
}

impl Maker<'_> {
    fn make(&mut self, name: &str, stable: bool, process: &Process<'_>, layers: &[&Layer]) -> Result<()> {
        let reference = format!("localhost/patchbay/{name}:lab");
        let digests: Vec<String> = layers.iter().map(|layer| layer.digest()).collect();
        let (content, absent) = (digests.join(" "), self.imported.join(" "));
        let inputs = Inputs::new()
            .text("process", &format!("{process:?}"))
            .text("layers", &content)
            .text("layers left out", &absent);
        let entry = self.builder.cache.entry(&format!("image-{name}"), inputs, |to| {
            let present = |layer: &Layer| self.imported.contains(&layer.digest());
            let digest = oci::write(&to.join("image.tar"), &reference, process, layers, present)?;
            Ok(fs::write(to.join("digest"), digest)?)
        })?;
        self.imported.extend(digests);
        self.images.push(Image { reference, archive: entry.join("image.tar"), digest: read_digest(&entry)?, stable });
        Ok(())
    }
}

/// A layer, from the cache if nothing in it has changed.
fn layer(builder: &Builder, name: &str, tree: &Tree) -> Result<Layer> {
    let inputs = Inputs::new().text("files", &tree.describe()?);
    let entry = builder.cache.entry(name, inputs, |to| {
        progress::step(&format!("making the {}", name.replace('-', " ")), || {
            let layer = Layer::write(&to.join("layer.tar"), tree)?;
            Ok(fs::write(to.join("digest"), layer.digest())?)
        })
    })?;
    Layer::known(&entry.join("layer.tar"), &read_digest(&entry)?)
}

fn read_digest(entry: &Path) -> Result<String> {
    let file = entry.join("digest");
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}

fn pause(builder: &Builder) -> Result<PathBuf> {
    let source = builder.source("images/pause.c");
    let entry = builder.cache.entry("pause", Inputs::new().file(&source)?, |to| {
        let flags = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-o"];
        builder.command("gcc", "pause").args(flags).args([to.join("pause"), source.clone()]).run()
    })?;
    Ok(entry.join("pause"))
}

fn tool(builder: &Builder) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.busybox(&host::program("busybox")?, &builder.cache.log("tool-layer"))?;
    tree.folder("etc", 0o755).folder("tmp", 0o1777);
    Ok(tree)
}

/// The host's QEMU with all it needs to run a machine without display, sound or disk formats.
fn qemu(builder: &Builder) -> Result<Tree> {
    let log = builder.cache.log("qemu-layer");
    let mut tree = Tree::new();
    tree.program("usr/bin/qemu-system-x86_64", &host::program("qemu-system-x86_64")?, &log)?;
    for module in QEMU_NEEDS {
        let path = format!("{QEMU_MODULES}/{module}");
        let source = Path::new("/").join(&path);
        if source.exists() {
            tree.program(&path, &source, &log)?;
        }
    }
    for path in FIRMWARE {
        let source = Path::new("/").join(path);
        if source.exists() {
            tree.copy(path, 0o644, &source);
        }
    }
    tree.folder("tmp", 0o1777);
    Ok(tree)
}

/// The test guest: Debian's kernel, and a ramdisk with modules and the one program that runs in it.
fn machine(builder: &Builder, kernel: &Path) -> Result<Tree> {
    let [program] = programs::own(builder, ["patchbay-guest"])?;
    let modules = Modules::open(&kernel.join("modules"), &builder.cache.log("guest"))?;
    let names: Vec<&str> = GUEST_MODULES.iter().filter_map(|line| line.split(' ').next()).collect();
    let mut ramdisk = Tree::new();
    for folder in ["dev", "proc", "sys"] {
        ramdisk.folder(folder, 0o755);
    }
    // The kernel opens it for the first program before that could mount anything.
    ramdisk.device("dev/console", 0o600, 5, 1).copy("init", 0o755, &program);
    let mut loaded = BTreeSet::new();
    for (list, names) in [("order", names.as_slice()), ("sound", GUEST_SOUND)] {
        let mut lines = String::new();
        for module in modules.closure(names)?.into_iter().filter(|module| loaded.insert(module.name.clone())) {
            let parameters =
                GUEST_MODULES.iter().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == module.name));
            lines.push_str(&format!("{} {}\n", module.name, parameters.map_or("", |(_, parameters)| parameters)));
            ramdisk.file(&format!("modules/{}.ko", module.name), 0o644, module.code);
        }
        ramdisk.file(&format!("modules/{list}"), 0o644, lines);
    }
    let inputs = Inputs::new().text("files", &ramdisk.describe()?);
    let entry = builder.cache.entry("guest", inputs, |to| root::write_ramdisk(&ramdisk, &to.join("initrd")))?;

    let mut tree = Tree::new();
    tree.copy("machine/machine.json", 0o644, &builder.source("images/machine.json"));
    tree.copy("machine/vmlinux", 0o644, &kernel.join("vmlinux"));
    tree.copy("machine/initrd", 0o644, &entry.join("initrd"));
    Ok(tree)
}
