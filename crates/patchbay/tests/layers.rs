//! The crates form layers, and the core stays pure: a dependency against the grain fails here.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate with the ones of ours it may use. What is not listed may not exist.
const LAYERS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("sim", &["core"]),
    ("usb", &["core"]),
    ("usbip", &["core", "usb"]),
    ("link", &["core"]),
    ("qmp", &[]),
    ("dra", &[]),
    ("api", &["core"]),
    ("kubectl-usb", &["api", "core"]),
    ("patchbay", &["api", "core", "dra", "link", "qmp", "usb", "usbip"]),
];

/// The only crates of others that the core may use: they compute and do nothing else.
const CORE_MAY_USE: &[&str] = &["rustc-hash", "serde", "sha2", "thiserror"];

/// What would let the world into the core.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "async fn",
    "HashMap",
    "HashSet",
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The names below `[dependencies]` and `[build-dependencies]`; development dependencies may point anywhere.
fn dependencies(manifest: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut counts = false;
    for line in fs::read_to_string(manifest).unwrap().lines() {
        if let Some(section) = line.strip_prefix('[') {
            counts = section.starts_with("dependencies") || section.starts_with("build-dependencies");
        } else if let Some((name, _)) = line.split_once(['.', '=', ' ']).filter(|_| counts) {
            names.push(name.trim().to_owned());
        }
    }
    names
}

#[test]
fn crates_depend_only_downwards() {
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    for entry in fs::read_dir(crates()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let allowed =
            layers.get(name.as_str()).unwrap_or_else(|| panic!("crates/{name} has no place in LAYERS: give it one"));
        for dependency in dependencies(&folder.join("Cargo.toml")) {
            let Some(ours) = dependency.strip_prefix("patchbay-") else { continue };
            assert!(allowed.contains(&ours), "crates/{name} must not use crates/{ours}: see LAYERS");
        }
    }
}

#[test]
fn the_core_is_pure() {
    for dependency in dependencies(&crates().join("core/Cargo.toml")) {
        assert!(CORE_MAY_USE.contains(&dependency.as_str()), "crates/core must not use {dependency}");
    }
    let mut folders = vec![crates().join("core/src")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            seen += 1;
            let text = fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
                // Of maps by hash this one has no seed: the same entries are in the same order everywhere. And a text that is
                // shared cannot be changed by anybody.
                let line = line.replace("FxHashMap", "").replace("std::sync::Arc;", "");
                for word in IMPURE {
                    assert!(
                        !line.contains(word),
                        "{}:{}: {word} does not belong into the core",
                        path.display(),
                        number + 1
                    );
                }
            }
        }
    }
    assert!(seen > 5, "no source of the core was found");
}
