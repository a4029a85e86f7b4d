//! What an agent publishes, as another node's or the controller reads it.
#![no_main]

use k8s_openapi::api::resource::v1::ResourceSlice;
use libfuzzer_sys::fuzz_target;
use patchbay_api::slice::{Contents, Pools, device, read};
use patchbay_core::names::NodeName;
use patchbay_fuzz::{same, shown};

fuzz_target!(|bytes: &[u8]| {
    let Ok(object) = serde_json::from_slice::<ResourceSlice>(bytes) else { return };
    let Ok(slice) = read(&object) else { return };
    let listed = object.spec.devices.as_ref().map_or(0, Vec::len);
    if let Contents::Devices(devices) = &slice.contents {
        assert_eq!(devices.len() + slice.skipped.len(), listed);
        for found in devices {
            let attributes = &found.attributes;
            let strings = [&attributes.manufacturer, &attributes.product, &attributes.serial];
            strings.into_iter().flatten().chain([&attributes.name]).for_each(|text| shown(text, 64));
            found.not_ready.iter().for_each(|host| shown(&host.to_string(), 64));
        }
        // Published again it is read as the same.
        let mut again = object.clone();
        again.spec.devices = Some(devices.iter().map(|found| device(found, &NodeName::new("node-1"))).collect());
        same(&slice.contents, &read(&again).expect("a slice of ours").contents);
    }
    let pools = Pools::default().update([&slice]);
    assert_eq!(pools.len(), 1);
});
