//! The words of agents and people in the metadata and the conditions of pods.
#![no_main]

use k8s_openapi::api::core::v1::Pod;
use libfuzzer_sys::fuzz_target;
use patchbay_api::{attachment, migration, vm_pod};
use patchbay_core::conditions::PluggedState;
use patchbay_core::migration::Report;
use patchbay_fuzz::same;

fuzz_target!(|bytes: &[u8]| {
    let Ok(pod) = serde_json::from_slice::<Pod>(bytes) else { return };
    if let Some((state, _)) = attachment::plugged(&pod) {
        same(&state, &PluggedState::parse(state.reason(), &state.message()));
    }
    if let Ok(((namespace, name), read)) = attachment::read(&pod) {
        assert_eq!(
            (Some(namespace.as_str()), Some(name.as_str())),
            (pod.metadata.namespace.as_deref(), pod.metadata.name.as_deref())
        );
        assert_eq!(read.vm_pod.namespace, namespace, "an attachment of another namespace's machine");
    }
    if let Ok(read) = migration::read(&pod) {
        if let Some(report) = read.report() {
            same(&Some(report.clone()), &Report::parse(report.reason(), &report.message()));
        }
        let to = read.to.as_ref().map(migration::migrate_to);
        assert!(to.is_none_or(|to| pod.metadata.annotations.iter().flatten().any(|(_, value)| *value == to)));
    }
    let _ = vm_pod::read(&pod);
});
