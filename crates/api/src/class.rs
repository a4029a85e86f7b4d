//! `DeviceClass`: the two kinds of things that claims may ask for. Part of the installation.

use k8s_openapi::api::resource::v1::{CELDeviceSelector, DeviceClass, DeviceClassSpec, DeviceSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use patchbay_core::DRIVER;

use crate::claim::cel_string;
use crate::keys;

/// Both classes: devices are what has an `id`, ports, and the tokens that stand for no port, are the rest.
pub fn all() -> [DeviceClass; 2] {
    [class(keys::DEVICE_CLASS, ""), class(keys::PORT_CLASS, "!")]
}

fn class(name: &str, not: &str) -> DeviceClass {
    let driver = cel_string(DRIVER);
    let expression = format!("device.driver == {driver} && {not}has(device.attributes[{driver}].id)");
    let selector = DeviceSelector { cel: Some(CELDeviceSelector { expression }) };
    DeviceClass {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: DeviceClassSpec { selectors: Some(vec![selector]), ..DeviceClassSpec::default() },
    }
}
