//! Programs that come from the host's package manager.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{Builder, minutes};
use crate::cache::Inputs;
use crate::progress;

/// Debian and Ubuntu packages without which no part can be built.
const NEEDED: &[&str] = &[
    "bc",
    "bison",
    "busybox-static",
    "containernetworking-plugins",
    "debian-archive-keyring",
    "e2fsprogs",
    "flex",
    "g++",
    "gcc",
    "iproute2",
    "libc6-dev",
    "libelf-dev",
    "make",
    "qemu-system-x86",
    "runc",
    "util-linux",
    "xz-utils",
];
/// Packages of the stock USB/IP tools, and a browser. Only comparisons with those tools and the test of `kubectl usb ui` need
/// these, and Ubuntu has them under other names.
const WANTED: &[&str] = &["chromium", "usbip", "usbutils"];

/// Where the host's programs are; not everybody has the system's folders in `PATH`.
const FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Installs the packages that are missing, if this process may.
///
/// # Errors
/// If something is missing and cannot be installed; the error has the command that a person should run.
pub(super) fn packages(builder: &Builder) -> Result<()> {
    let missing = not_installed(builder, NEEDED)?;
    let wanted = not_installed(builder, WANTED)?;
    let may_install = rustix::process::geteuid().is_root();
    if !missing.is_empty() && !may_install {
        bail!(
            "packages are missing; install them with\n  \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
            missing.join(" ")
        );
    }
    if !missing.is_empty() {
        return install(builder, &missing, &wanted);
    }
    if !wanted.is_empty() && may_install {
        // Tried once, not in every run: there may be no such packages here.
        let inputs = Inputs::new().text("packages", &wanted.join(" "));
        builder.cache.entry("wanted-packages", inputs, |_| install(builder, &[], &wanted))?;
    }
    Ok(())
}

fn install(builder: &Builder, missing: &[&str], wanted: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        builder
            .command("apt-get", "packages")
            .args(["-o", "DPkg::Lock::Timeout=120"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .deadline(minutes(15))
            .advice("Check the network and the package sources of this machine, then try again.")
    };
    progress::step(&format!("installing {} packages", missing.len() + wanted.len()), || {
        apt(&["update"]).run()?;
        let known = |package: &&&str| apt(&["install", "--simulate", package]).run().is_ok();
        let install = apt(&["install", "-y", "--no-install-recommends"]);
        install.args(missing).args(wanted.iter().filter(known)).run()
    })
}

/// The packages of the list that are not installed.
fn not_installed<'a>(builder: &Builder, packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // A package nobody has heard of makes dpkg-query fail, and is left out of its answer.
    let script = "dpkg-query -W -f '${Package} ${db:Status-Status}\\n' \"$@\" 2>/dev/null || true";
    let list = builder.command("sh", "packages").args(["-c", script, "sh"]).args(packages).text()?;
    Ok(missing(&list, packages))
}

fn missing<'a>(list: &str, packages: &[&'a str]) -> Vec<&'a str> {
    let installed = |package: &str| list.lines().any(|line| line == format!("{package} installed"));
    packages.iter().copied().filter(|package| !installed(package)).collect()
}

/// The path of a program of the host.
///
/// # Errors
/// If it is nowhere.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    match FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!("the program {name} is not there: install the package that has it and try again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_only_when_it_is_installed() {
        let list = "make installed\nrunc config-files\ngcc installed\ngcc-12 installed";
        assert_eq!(missing(list, &["make", "runc", "gcc", "bc"]), ["runc", "bc"]);
    }
}
