//! The parts of a lab: everything that is built once and then only used. Kubernetes, containerd and Helm from Go modules,
//! a User-Mode Linux kernel from Debian's kernel source, Debian's own kernel, the disk that nodes start from, and
//! container images.
//!
//! [`build`] makes what is missing in the [cache](crate::cache) and returns where everything is; with all of it
//! there it takes about a second. Each kind of part is a module here with its own list of inputs. The heavy ones are
//! built one after the other: each uses all processors by itself.

mod debian;
mod host;
mod images;
mod kernel;
mod module;
mod programs;
mod release;
mod root;
mod stock;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;

pub use images::Image;
pub use release::Release;

/// Where everything is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parts {
    /// A folder of programs for the host: `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `etcd`,
    /// `kubectl`, `kubelet`, `helm`, `containerd`, `containerd-shim-runc-v2`, `ctr`.
    pub bin: PathBuf,
    /// Our own program, static.
    pub patchbay: PathBuf,
    /// The kubectl plugin, static.
    pub kubectl_usb: PathBuf,
    /// The User-Mode Linux kernel, a program of the host.
    pub linux: PathBuf,
    /// The initial ramdisk of a User-Mode Linux node.
    pub initramfs: PathBuf,
    /// The disk all nodes start from (ext4, never written).
    pub root: PathBuf,
    /// Debian's kernel as an ELF file.
    pub vmlinux: PathBuf,
    /// The modules of Debian's kernel: what belongs into `/lib/modules`.
    pub modules: PathBuf,
    /// The initial ramdisk of a node with that kernel.
    pub stock_initramfs: PathBuf,
    /// The disk such a node has on `/lib/modules`, with those of its modules that it needs.
    pub stock_modules: PathBuf,
    /// Container images, in the order in which a node must import them: an archive leaves out the layers of those
    /// before it.
    pub images: Vec<Image>,
    /// Which Kubernetes it is.
    pub release: Release,
    /// Its version, like `v1.34.4`.
    pub kubernetes: String,
}

impl Parts {
    /// The images that do not change when the programs of this repository do: worth keeping on a disk of the node.
    pub fn base_images(&self) -> impl Iterator<Item = &Image> {
        self.images.iter().filter(|image| image.stable)
    }
}

/// Installs the packages of this machine that building and testing need; with all of them there it takes a moment.
///
/// # Errors
/// When some are missing and this process may not install them; the error has the command that a person should run.
pub fn packages() -> Result<()> {
    host::packages(&Builder::new()?)
}

/// Builds what is missing for a lab with this Kubernetes.
///
/// # Errors
/// The first part that cannot be built, with what to do about it.
pub fn build(release: Release) -> Result<Parts> {
    let builder = Builder::new()?;
    host::packages(&builder)?;
    let kube = programs::kubernetes(&builder, release)?;
    let containerd = programs::containerd(&builder)?;
    let helm = programs::helm(&builder)?;
    let debian = debian::Debian::open(&builder)?;
    let linux = kernel::build(&builder, &debian)?;
    let stock = stock::build(&builder, &debian)?;
    let initramfs = root::initramfs(&builder)?;
    let root = root::disk(&builder, &kube, &containerd)?;
    let [patchbay, kubectl_usb] = programs::own(&builder, ["patchbay", "kubectl-usb"])?;
    let images = images::build(&builder, &stock, &patchbay)?;
    Ok(Parts {
        patchbay,
        kubectl_usb,
        bin: programs::links(
            &builder,
            &kube,
            &[(containerd.as_path(), programs::CONTAINERD), (helm.as_path(), programs::HELM)],
        )?,
        linux,
        initramfs,
        root,
        vmlinux: stock.join("vmlinux"),
        modules: stock.join("modules"),
        stock_initramfs: stock::initramfs(&builder, &stock)?,
        stock_modules: stock::modules(&builder, &stock)?,
        images,
        release,
        kubernetes: kube.version,
    })
}

/// Writes images for any cluster, as OCI archives into `folder`: our program, the engine of virtual machines, and a guest to try
/// them with.
///
/// # Errors
/// As [`build`], or if the folder cannot be written.
pub fn images(folder: &Path) -> Result<[PathBuf; 3]> {
    let builder = Builder::new()?;
    host::packages(&builder)?;
    let kernel = stock::build(&builder, &debian::Debian::open(&builder)?)?;
    let [patchbay] = programs::own(&builder, ["patchbay"])?;
    images::write(&builder, &kernel, &patchbay, folder)
}

/// Builds Helm, if it is missing, and nothing else.
///
/// # Errors
/// If its modules cannot be downloaded or compiled.
pub fn helm() -> Result<PathBuf> {
    Ok(programs::helm(&Builder::new()?)?.join("helm"))
}

/// What every builder needs: the cache and this repository.
struct Builder {
    cache: Cache,
    repository: PathBuf,
}

impl Builder {
    fn new() -> Result<Self> {
        // The lab is run from the repository it was built in.
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the lab has no repository")?;
        Ok(Self { cache: Cache::open()?, repository: repository.to_owned() })
    }

    /// A file or folder of `lab/parts`.
    fn source(&self, path: &str) -> PathBuf {
        self.repository.join("lab/parts").join(path)
    }

    /// A program with its output in the log of the part it helps to build.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>, part: &str) -> crate::command::Command {
        crate::command::Command::new(program, &self.cache.log(part))
    }
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}
