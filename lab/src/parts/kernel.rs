//! The User-Mode Linux kernel: mainline as Debian packages its source, with the options of `kernel/uml.config`.
//!
//! A node with it is an ordinary program: it starts in half a second and needs no emulation. Sources before 6.16
//! lack the fast way to run user programs (seccomp), so the newest source on offer is taken, not a pinned one that
//! will vanish; which is part of the cache key.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};

use super::debian::{Debian, Offer, Version, version};
use super::{Builder, minutes};
use crate::cache::Inputs;
use crate::progress;

/// The first version with seccomp mode.
const LEAST: Version = (6, 16, 0);

/// Builds the kernel, or finds the newest one in the cache if the source cannot be looked up.
///
/// # Errors
/// If it cannot be built, or the configuration lost an option on the way.
pub(super) fn build(builder: &Builder, debian: &Debian) -> Result<PathBuf> {
    let config = builder.source("kernel/uml.config");
    let Some(offer) = debian.newest(LEAST, source_version) else {
        let cached = builder.cache.finished("uml-kernel")?.into_iter().next();
        return cached.map(|entry| entry.join("linux")).ok_or_else(|| debian.nothing("kernel source"));
    };
    let inputs = Inputs::new().text("source", &offer.version).file(&config)?;
    let entry = builder.cache.entry("uml-kernel", inputs, |to| {
        let what = format!("building the User-Mode Linux kernel {}", offer.version);
        progress::step(&what, || compile(builder, debian, offer, &config, to))
    })?;
    Ok(entry.join("linux"))
}

fn compile(builder: &Builder, debian: &Debian, offer: &Offer, config: &Path, to: &Path) -> Result<()> {
    let (package, tree, out) = (to.join("package"), to.join("tree"), to.join("out"));
    for folder in [&package, &tree, &out] {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    debian.unpack(offer, &package)?;
    let archive = package.join(format!("usr/src/{}.tar.xz", offer.package));
    let run = |program: &str| builder.command(program, "uml-kernel").deadline(minutes(90));
    run("tar").args(["--strip-components=1", "-C"]).args([&tree]).args(["-xf"]).args([&archive]).run()?;

    let make = || {
        let folder = format!("O={}", out.display());
        run("make").args(["-s", "-C"]).args([&tree]).args([&folder, "ARCH=um"])
    };
    make().args(["allnoconfig"]).args([format!("KCONFIG_ALLCONFIG={}", config.display())]).run()?;
    let got = out.join(".config");
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let wanted = read(config)?;
    let lost = lost_options(&wanted, &read(&got)?);
    if !lost.is_empty() {
        bail!(
            "the kernel {} does not take these options of {}, perhaps because others they need are new: {}",
            offer.version,
            config.display(),
            lost.join(", ")
        );
    }
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    make().args([format!("-j{jobs}"), "linux".to_owned()]).run()?;
    run("strip").args(["-o"]).args([to.join("linux"), out.join("linux")]).run()?;

    fs::copy(&got, to.join("config"))?;
    for folder in [&package, &tree, &out] {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// The number in `linux-source-7.3`.
fn source_version(package: &str) -> Option<Version> {
    version(package.strip_prefix("linux-source-")?)
}

/// The options that were asked for and are not as wanted: `make` drops, without a word, what has unmet dependencies.
fn lost_options<'a>(wanted: &'a str, got: &str) -> Vec<&'a str> {
    let has = |line: &str| got.lines().any(|other| other == line);
    let option = |line: &'a str| {
        let (name, value) = line.split_once('=')?;
        // What is off may also be absent.
        let kept = if value == "n" { !has(&format!("{name}=y")) } else { has(line) };
        (name.starts_with("CONFIG_") && !kept).then_some(line)
    };
    wanted.lines().filter_map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_were_dropped_or_switched_on_are_found() {
        let wanted =
            "# a comment=y\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=n\nCONFIG_E=8\n# CONFIG_F is not set\n";
        let got = "CONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_C is not set\nCONFIG_D=y\nCONFIG_E=80\nCONFIG_F=y\n";
        assert_eq!(lost_options(wanted, got), ["CONFIG_B=y", "CONFIG_D=n", "CONFIG_E=8"]);
    }

    #[test]
    fn only_plain_source_packages_have_a_version() {
        assert_eq!(source_version("linux-source-6.16"), Some((6, 16, 0)));
        assert_eq!(source_version("linux-source"), None);
        assert_eq!(source_version("linux-image-6.16"), None);
    }
}
