//! What may come in from others, here and in `fuzz/`: known licences, from crates.io alone, in versions that are named.
//!
//! Advisories are not judged: their database is on the network.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];
/// Crates that may have another one as well. The fuzzer, which is in no program of ours, has a part of LLVM in it.
const EXCEPTIONS: &[(&str, &str)] = &[("libfuzzer-sys", "NCSA")];
/// There is one TLS stack, with one crypto provider.
const BANNED: &[&str] = &["aws-lc-sys", "openssl-sys"];
/// What programs are built for.
const TARGETS: &[&str] = &["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    /// None for one that is in a folder.
    source: Option<String>,
    license: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    req: String,
    path: Option<PathBuf>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All that a workspace is made of, build and development included.
fn packages(workspace: &str) -> Vec<Package> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]).arg(repository().join(workspace));
    cargo.args(TARGETS.iter().flat_map(|target| ["--filter-platform", target]));
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let packages = serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages;
    assert!(packages.len() > 100, "{workspace}: {} packages only", packages.len());
    packages
}

fn may_come_in(package: &Package, licence: &str) -> Result<(), String> {
    let expression = Expression::parse_mode(licence, ParseMode::LAX).map_err(|error| error.reason.to_string())?;
    let exceptions = EXCEPTIONS.iter().filter(|(name, _)| package.name == *name).map(|(_, licence)| *licence);
    let allowed: Vec<String> = LICENCES.iter().copied().chain(exceptions).map(str::to_owned).collect();
    let fine = |wanted: &LicenseReq| allowed.contains(&wanted.to_string());
    if expression.evaluate(fine) { Ok(()) } else { Err(format!("the licence {licence} is not among those we know")) }
}

/// What is wrong with a package.
fn wrong(package: &Package) -> Option<String> {
    let Some(source) = &package.source else {
        if !package.manifest_path.starts_with(repository()) {
            return Some("it is in a folder of its own".to_owned());
        }
        let mut others = package.dependencies.iter().filter(|dependency| dependency.path.is_none());
        return others.find(|d| d.req == "*").map(|d| format!("it takes any version of {}", d.name));
    };
    if source != CRATES_IO {
        return Some(format!("it comes from {source}"));
    }
    if BANNED.contains(&package.name.as_str()) {
        return Some("it is banned".to_owned());
    }
    let Some(licence) = &package.license else { return Some("it names no licence".to_owned()) };
    may_come_in(package, licence).err()
}

#[test]
fn what_comes_in_is_from_crates_io_and_has_a_licence_that_is_known() {
    for workspace in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let packages = packages(workspace);
        let wrong: Vec<_> = packages.iter().filter_map(|p| Some(format!("{}: {}", p.name, wrong(p)?))).collect();
        assert!(wrong.is_empty(), "{workspace}:\n{}", wrong.join("\n"));
    }
}

#[test]
fn what_may_not_come_in_is_noticed() {
    let package = |name: &str, source: &str, licence: Option<&str>| Package {
        name: name.to_owned(),
        source: Some(source.to_owned()),
        license: licence.map(str::to_owned),
        manifest_path: PathBuf::new(),
        dependencies: Vec::new(),
    };
    assert_eq!(wrong(&package("a", CRATES_IO, Some("MIT OR GPL-3.0-only"))), None);
    assert_eq!(wrong(&package("a", CRATES_IO, Some("MIT/Apache-2.0"))), None);
    assert_eq!(wrong(&package("libfuzzer-sys", CRATES_IO, Some("(MIT OR Apache-2.0) AND NCSA"))), None);
    for bad in [
        package("a", CRATES_IO, Some("MIT AND GPL-3.0-only")),
        package("a", CRATES_IO, Some("MIT AND NCSA")),
        package("a", CRATES_IO, Some("what I like")),
        package("a", CRATES_IO, None),
        package("a", "git+https://example.invalid/a", Some("MIT")),
        package("openssl-sys", CRATES_IO, Some("MIT")),
    ] {
        assert!(wrong(&bad).is_some(), "{}, {:?}", bad.name, bad.license);
    }
    let any = Dependency { name: "b".to_owned(), req: "*".to_owned(), path: None };
    let ours = Package {
        source: None,
        manifest_path: repository().join("crates/a/Cargo.toml"),
        dependencies: vec![any],
        ..package("a", "", None)
    };
    assert!(wrong(&ours).is_some());
}
