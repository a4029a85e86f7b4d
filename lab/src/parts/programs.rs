//! Programs built from source: Kubernetes with etcd, containerd and Helm from pinned Go modules; our own from this
//! workspace. All are static, so they run on any node and in an empty image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::release::Release;
use super::{Builder, minutes};
use crate::cache::Inputs;
use crate::command::Command;
use crate::progress;

/// The names under which the one Kubernetes program is started.
const KUBERNETES: &[&str] =
    &["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet"];
/// The programs of containerd.
pub(super) const CONTAINERD: &[&str] = &["containerd", "containerd-shim-runc-v2", "ctr"];
/// The program of Helm.
pub(super) const HELM: &[&str] = &["helm"];
/// What static programs of this workspace are built for: machines like this one.
const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
/// What makes them static.
const STATIC: &str = "-C target-feature=+crt-static";
/// What packs their relative relocations: a program reads them once, when it starts, and has a tenth of itself in memory for that.
const PACKED: &str = "-C link-arg=-Wl,-z,pack-relative-relocs";
/// The first glibc in which a static program unpacks them when it starts (NEWS of glibc 2.36, `DT_RELR`).
const UNPACKS: (u32, u32) = (2, 36);

/// Kubernetes, built.
pub(super) struct Kubernetes {
    /// Which one.
    pub(super) release: Release,
    /// Has the program `kube` and links to it.
    pub(super) folder: PathBuf,
    /// As `kubectl version` tells it.
    pub(super) version: String,
}

/// Builds a release of Kubernetes, with its etcd.
///
/// # Errors
/// If the modules cannot be downloaded or compiled.
pub(super) fn kubernetes(builder: &Builder, release: Release) -> Result<Kubernetes> {
    let part = release.entry("kubernetes");
    let go = Go::new(builder, &part, "kube", release.modules())?;
    let version = go.version_of("k8s.io/kubernetes")?;
    let flags = kubernetes_flags(&version);
    let tags = "selinux,notest,grpcnotrace";
    let inputs = go.inputs(&flags, tags)?.file(&go.folder.join("main.go"))?;
    let folder = builder.cache.entry(&part, inputs, |to| {
        let what = format!("building Kubernetes {}", version.trim_start_matches('v'));
        progress::step(&what, || go.build(".", &flags, tags, &to.join("kube")))?;
        KUBERNETES.iter().try_for_each(|name| link("kube", &to.join(name)))
    })?;
    Ok(Kubernetes { release, folder, version })
}

/// Builds containerd, its shim and `ctr`.
///
/// # Errors
/// If the modules cannot be downloaded or compiled.
pub(super) fn containerd(builder: &Builder) -> Result<PathBuf> {
    let module = "github.com/containerd/containerd/v2";
    let go = Go::new(builder, "containerd", "containerd", "go.mod")?;
    let version = go.version_of(module)?;
    let flags = format!("-s -w -X {module}/version.Version={version}");
    let tags = "no_btrfs no_devmapper no_zfs netgo osusergo";
    builder.cache.entry("containerd", go.inputs(&flags, tags)?, |to| {
        let what = format!("building containerd {}", version.trim_start_matches('v'));
        progress::step(&what, || {
            CONTAINERD
                .iter()
                .try_for_each(|name| go.build(&format!("{module}/cmd/{name}"), &flags, tags, &to.join(name)))
        })
    })
}

/// Builds Helm.
///
/// # Errors
/// If the modules cannot be downloaded or compiled.
pub(super) fn helm(builder: &Builder) -> Result<PathBuf> {
    let module = "helm.sh/helm/v4";
    let go = Go::new(builder, "helm", "helm", "go.mod")?;
    let version = go.version_of(module)?;
    let flags = format!("-s -w -X {module}/internal/version.version={version}");
    let tags = "netgo osusergo";
    builder.cache.entry("helm", go.inputs(&flags, tags)?, |to| {
        let what = format!("building Helm {}", version.trim_start_matches('v'));
        progress::step(&what, || go.build(&format!("{module}/cmd/helm"), &flags, tags, &to.join("helm")))
    })
}

/// One folder with all programs the host runs: those of Kubernetes, and others with the folders they are in.
///
/// # Errors
/// If it cannot be made.
pub(super) fn links(builder: &Builder, kubernetes: &Kubernetes, others: &[(&Path, &[&str])]) -> Result<PathBuf> {
    let mut all = vec![(kubernetes.folder.as_path(), KUBERNETES)];
    all.extend(others);
    let folders = all.iter().map(|(folder, _)| folder.display().to_string()).collect::<Vec<_>>();
    let inputs = Inputs::new().text("folders", &folders.join(" "));
    builder.cache.entry(&kubernetes.release.entry("bin"), inputs, |to| {
        let mut programs =
            all.iter().flat_map(|(folder, names)| names.iter().map(move |name| (folder.join(name), name)));
        programs.try_for_each(|(program, name)| link(program, &to.join(name)))
    })
}

/// Builds programs of this workspace, static, all at once: they share most of what they are made of. Whether there is
/// something to do is for cargo to know.
///
/// # Errors
/// If one does not compile.
pub(super) fn own<const N: usize>(builder: &Builder, packages: [&str; N]) -> Result<[PathBuf; N]> {
    let all = packages.join(" and ");
    progress::step(&format!("building {all}"), || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let libc = builder.command("getconf", "libc").args(["GNU_LIBC_VERSION"]).text()?;
        builder
            .command(cargo, packages.first().copied().unwrap_or("nothing"))
            .args(["build", "--release", "--locked", "--target", TARGET])
            .args(packages.iter().flat_map(|package| ["--package", package]))
            // For the target only: what runs while building is not affected when a target is named.
            .env("RUSTFLAGS", rustflags(&libc))
            .folder(&builder.repository)
            .deadline(minutes(40))
            .run()
    })?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| builder.repository.join("target"), PathBuf::from);
    let folder = builder.repository.join(target).join(TARGET).join("release");
    Ok(packages.map(|package| folder.join(package)))
}

/// For a machine whose C library is called so, like `glibc 2.36`.
fn rustflags(libc: &str) -> String {
    let version = libc.trim().strip_prefix("glibc ").and_then(|version| version.split_once('.'));
    let version = version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    if version.is_some_and(|version: (u32, u32)| version >= UNPACKS) {
        format!("{STATIC} {PACKED}")
    } else {
        STATIC.to_owned()
    }
}

fn link(target: impl AsRef<Path>, path: &Path) -> Result<()> {
    symlink(target, path).with_context(|| format!("cannot make the link {}", path.display()))
}

/// A Go module of `lab/parts`.
struct Go<'a> {
    builder: &'a Builder,
    part: &'a str,
    folder: PathBuf,
    /// The module file in this folder.
    modules: &'static str,
    cache: PathBuf,
}

impl<'a> Go<'a> {
    fn new(builder: &'a Builder, part: &'a str, folder: &str, modules: &'static str) -> Result<Self> {
        Ok(Self { builder, part, folder: builder.source(folder), modules, cache: builder.cache.folder("go")? })
    }

    /// The pinned version of a module that this one is built from. Read from the module file: it needs no network, and
    /// no Go when everything is built.
    fn version_of(&self, module: &str) -> Result<String> {
        let path = self.folder.join(self.modules);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        required(&text, module).with_context(|| format!("{} does not require {module}", path.display()))
    }

    fn inputs(&self, flags: &str, tags: &str) -> Result<Inputs> {
        let inputs = Inputs::new().text("linker flags", flags).text("tags", tags);
        let modules = self.folder.join(self.modules);
        inputs.file(&modules)?.file(&modules.with_extension("sum"))
    }

    fn build(&self, package: &str, flags: &str, tags: &str, output: &Path) -> Result<()> {
        let arguments = ["build", "-trimpath", "-modfile", self.modules, "-tags", tags, "-ldflags", flags, "-o"];
        self.go().args(arguments).args([output]).args([package]).run()
    }

    fn go(&self) -> Command {
        self.builder
            .command("go", self.part)
            .folder(&self.folder)
            .env("GOMODCACHE", self.cache.join("mod"))
            .env("GOCACHE", self.cache.join("build"))
            .env("GOFLAGS", "-buildvcs=false")
            .env("CGO_ENABLED", "0")
            .deadline(minutes(60))
            .advice("This needs Go 1.26 or later, 10 GB of room for its cache, and the network the first time.")
    }
}

/// Finds `module vX.Y.Z` among the requirements of a `go.mod`.
fn required(text: &str, module: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next()? == module).then(|| words.next())?.filter(|version| version.starts_with('v')).map(str::to_owned)
    })
}

/// Linker flags that tell the programs which version they are; without them they say v0.0.0.
fn kubernetes_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let mut flags = "-s -w".to_owned();
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        let values = [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")];
        for (name, value) in values {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_module_of_a_release_has_the_version_of_that_release() {
        for release in Release::value_variants() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts/kube").join(release.modules());
            let text = fs::read_to_string(&path).unwrap();
            let version = required(&text, "k8s.io/kubernetes").unwrap().replacen("v1.", "v0.", 1);
            let replaced: Vec<_> = text.lines().filter_map(|line| line.split_once(" => ")).collect();
            assert!(replaced.len() > 30, "{replaced:?}");
            for (_, module) in replaced {
                assert!(module.ends_with(&version), "{} has {module}, not {version}", path.display());
            }
        }
    }

    #[test]
    fn relocations_are_packed_where_the_c_library_unpacks_them() {
        for libc in ["glibc 2.36\n", "glibc 2.41", "glibc 3.0"] {
            assert_eq!(rustflags(libc), format!("{STATIC} {PACKED}"), "{libc}");
        }
        for libc in ["glibc 2.35\n", "glibc 2", "", "musl"] {
            assert_eq!(rustflags(libc), STATIC, "{libc}");
        }
    }

    #[test]
    fn the_required_version_is_found_and_replacements_are_not() {
        let text = "module x\n\nrequire k8s.io/api v0.34.4\nrequire (\n\tk8s.io/kubernetes v1.34.4 // indirect\n)\n\
                    replace k8s.io/client-go => k8s.io/client-go v0.34.4\n";
        assert_eq!(required(text, "k8s.io/kubernetes").as_deref(), Some("v1.34.4"));
        assert_eq!(required(text, "k8s.io/api").as_deref(), Some("v0.34.4"));
        assert_eq!(required(text, "k8s.io/client-go"), None);
    }

    #[test]
    fn kubernetes_is_told_its_version() {
        let flags = kubernetes_flags("v1.34.4");
        for flag in ["k8s.io/component-base/version.gitMinor=34", "k8s.io/client-go/pkg/version.gitVersion=v1.34.4"] {
            assert!(flags.contains(&format!("-X {flag}")), "{flags}");
        }
    }
}
