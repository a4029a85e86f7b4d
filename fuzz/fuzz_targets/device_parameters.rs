//! The opaque configuration for a device, as somebody has written it into a claim.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_core::device_parameters::DeviceParameters;
use patchbay_fuzz::{same, shown};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    // The API server takes what is JSON and hands it on.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    match DeviceParameters::read(&value) {
        Ok(parameters) => {
            let again = serde_json::to_value(parameters.written()).expect("parameters are JSON");
            same(&Ok(parameters), &DeviceParameters::read(&again));
        }
        Err(error) => shown(&error.to_string(), 600),
    }
});
