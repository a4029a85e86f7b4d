//! The crate as a library: what its README and its example promise.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaimTemplate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(home().join(path)).unwrap()
}

/// All files below a folder of the crate.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![home().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    assert!(!found.is_empty(), "{folder} has no files");
    found
}

#[test]
fn the_crate_knows_nothing_of_the_devices_it_is_used_for() {
    let word = ["u", "s", "b"].concat();
    let texts = ["src", "proto", "examples"].into_iter().flat_map(files);
    for path in texts.chain([home().join("README.md"), home().join("Cargo.toml")]) {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            assert!(!line.to_lowercase().contains(&word), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn every_test_that_the_readme_names_exists() {
    let tests: BTreeSet<String> = ["src", "tests"]
        .into_iter()
        .flat_map(files)
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let names = text.lines().filter_map(|line| line.split_once("fn ")?.1.split_once('('));
            names.map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let readme = read("README.md");
    // Names of tests are sentences: no other name there has that many words.
    let is_sentence = |text: &&str| {
        text.matches('_').count() >= 3 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: BTreeSet<_> = readme.split('`').filter(is_sentence).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(tests.contains(name), "the README names the test {name}, which does not exist");
    }
}

/// One object of the example's manifest, if it has all its fields from the API.
fn object<T: Serialize + DeserializeOwned>(manifest: &[Value], kind: &str, name: &str) -> T {
    let object = manifest
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"));
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    // A field that the API does not know would be lost on the way.
    assert_eq!(serde_json::to_value(&typed).unwrap(), *object);
    typed
}

/// The value of a text constant in a source.
fn constant<'s>(source: &'s str, name: &str) -> &'s str {
    let declared = source.split_once(&format!("const {name}: &str = \"")).unwrap().1;
    declared.split_once('"').unwrap().0
}

#[test]
fn the_examples_manifest_is_valid_and_fits_its_source() {
    let manifest: Vec<Value> = serde_saphyr::from_multiple(&read("examples/two_devices.yaml")).unwrap();
    let source = read("examples/two_devices.rs");
    let constant = |name| constant(&source, name);
    let (driver, kubelet) = (constant("DRIVER"), constant("KUBELET"));

    let _: Namespace = object(&manifest, "Namespace", "two-devices");
    let _: ServiceAccount = object(&manifest, "ServiceAccount", "driver");
    let _: ClusterRoleBinding = object(&manifest, "ClusterRoleBinding", "two-devices-driver");
    let _: Pod = object(&manifest, "Pod", "which-one");
    let _: ResourceClaimTemplate = object(&manifest, "ResourceClaimTemplate", "one-of-two");
    let class: DeviceClass = object(&manifest, "DeviceClass", "two-devices");
    let selector = serde_json::to_string(&class.spec).unwrap();
    assert!(selector.contains(driver), "{selector}");

    let role: ClusterRole = object(&manifest, "ClusterRole", "two-devices-driver");
    let rights = role.rules.unwrap().into_iter().flat_map(|rule| {
        let verbs = rule.verbs;
        rule.resources.unwrap().into_iter().map(move |resource| (resource, verbs.join(" ")))
    });
    // As in the README's table.
    let expected = [("resourceclaims", "get"), ("resourceslices", "list watch create update delete"), ("nodes", "get")];
    assert_eq!(rights.collect::<Vec<_>>(), expected.map(|(r, v)| (r.to_owned(), v.to_owned())));

    let set: DaemonSet = object(&manifest, "DaemonSet", "driver");
    let pod = set.spec.unwrap().template.spec.unwrap();
    let container = &pod.containers[0];
    let mounts: BTreeSet<_> = container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    let plugin = format!("{kubelet}/plugins/{driver}");
    let registry = format!("{kubelet}/plugins_registry");
    assert_eq!(mounts, [plugin.as_str(), registry.as_str(), constant("CDI")].into());
    let paths = pod.volumes.iter().flatten().filter_map(|volume| Some(volume.host_path.as_ref()?.path.as_str()));
    assert_eq!(paths.collect::<BTreeSet<_>>(), mounts, "mounted at the node's own paths");

    let probe = container.liveness_probe.as_ref().unwrap();
    let get = serde_json::to_value(probe.http_get.as_ref().unwrap()).unwrap();
    assert_eq!(get["path"], patchbay_dra::liveness::PATH);
    let port = constant("LIVENESS").rsplit_once(':').unwrap().1;
    assert_eq!(get["port"].to_string(), port);
    let patience = u64::try_from(probe.timeout_seconds.unwrap()).unwrap();
    assert!(patience > patchbay_dra::liveness::PROBE_DEADLINE.as_secs());
}
