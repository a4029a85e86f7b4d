//! How far an attachment is, from what its machine says.

use patchbay_api::VirtualMachine;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// That the device be in the guest.
    In,
    /// That it be out.
    Out,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is so: where the device is in the guest, or that it is not.
    Done(String),
    /// It is not so yet, for this reason.
    Waits(String),
    /// It will never be.
    Never(String),
}

/// How far it is; `vm` is None when there is no such machine any more. What the machine said before its list was of this
/// generation is about another list.
pub(crate) fn progress(vm: Option<&VirtualMachine>, device: &str, generation: i64, wanted: Wanted) -> Progress {
    let Some(vm) = vm else {
        return match wanted {
            Wanted::In => Progress::Never("the virtual machine was deleted".to_owned()),
            Wanted::Out => Progress::Done("the virtual machine was deleted".to_owned()),
        };
    };
    let still = vm.spec.usb_devices.iter().any(|d| d.name == device);
    if still != (wanted == Wanted::In) {
        return Progress::Never("somebody has changed the list of the virtual machine meanwhile".to_owned());
    }
    let status = vm.status.as_ref();
    let entry = status.and_then(|s| s.usb_devices.iter().flatten().find(|e| e.name == device));
    let current = status.and_then(|s| s.observed_generation).is_some_and(|seen| seen >= generation);
    let unseen = || "waiting for the controller".to_owned();
    match (wanted, entry) {
        (Wanted::In, Some(entry)) if entry.attached && current => {
            let place = entry.address.as_ref().map(|a| format!("guest bus {} port {}", a.bus, a.port));
            Progress::Done(place.unwrap_or_else(|| entry.message.clone()))
        }
        (Wanted::In, Some(entry)) if !entry.attached => Progress::Waits(entry.message.clone()),
        (Wanted::Out, None) if current => Progress::Done("it is out of the guest".to_owned()),
        (Wanted::Out, Some(entry)) if entry.attached => Progress::Waits("it is still in the guest".to_owned()),
        _ => Progress::Waits(unseen()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn vm(listed: bool, observed: i64, entries: &Value) -> VirtualMachine {
        let list = if listed { json!([{"name": "webcam"}]) } else { json!([]) };
        serde_json::from_value(json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualMachine",
            "metadata": {"name": "linux-vm", "namespace": "blue", "generation": 2},
            "spec": {"image": "none", "usbDevices": list},
            "status": {"observedGeneration": observed, "usbDevices": entries},
        }))
        .unwrap()
    }

    fn entry(attached: bool, message: &str) -> Value {
        let address = attached.then(|| json!({"bus": 0, "port": "9"}));
        json!([{"name": "webcam", "attached": attached, "ready": true, "address": address, "message": message}])
    }

    #[test]
    fn a_device_comes_in() {
        let at = |vm: VirtualMachine| progress(Some(&vm), "webcam", 2, Wanted::In);
        let waits = |text: &str| Progress::Waits(text.to_owned());
        assert_eq!(at(vm(true, 1, &json!([]))), waits("waiting for the controller"));
        assert_eq!(at(vm(true, 1, &entry(true, "attached"))), waits("waiting for the controller"), "it is of before");
        assert_eq!(at(vm(true, 2, &entry(false, "no free port"))), waits("no free port"));
        assert_eq!(at(vm(true, 2, &entry(true, "attached"))), Progress::Done("guest bus 0 port 9".to_owned()));
        assert!(matches!(at(vm(false, 2, &json!([]))), Progress::Never(_)));
        assert!(matches!(progress(None, "webcam", 2, Wanted::In), Progress::Never(_)));
    }

    #[test]
    fn a_device_goes_out() {
        let at = |vm: VirtualMachine| progress(Some(&vm), "webcam", 2, Wanted::Out);
        let waits = |text: &str| Progress::Waits(text.to_owned());
        assert_eq!(at(vm(false, 1, &entry(true, "attached"))), waits("it is still in the guest"));
        assert_eq!(at(vm(false, 1, &json!([]))), waits("waiting for the controller"));
        assert_eq!(at(vm(false, 2, &json!([]))), Progress::Done("it is out of the guest".to_owned()));
        assert!(matches!(at(vm(true, 2, &json!([]))), Progress::Never(_)));
        assert!(matches!(progress(None, "webcam", 2, Wanted::Out), Progress::Done(_)));
    }
}
