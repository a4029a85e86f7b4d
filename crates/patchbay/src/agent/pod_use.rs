//! What the claim of an ordinary pod asks of this node, read from its allocation.
//!
//! Such a claim has a device and, with it, a port of this node or the device's token. The claims of an attachment have one
//! of the two each: they ask for nothing here, the attachment pod does.

use patchbay_core::device_parameters::DeviceParameters;
use patchbay_core::importer::Source;
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, Uid};
use patchbay_dra::{AllocatedDevice, Record, State};

/// What a pod gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodUse {
    /// Where its device comes from.
    pub(super) source: Source,
    /// It also wants the disks that the device has.
    pub(super) disks: bool,
}

impl PodUse {
    /// Reads what is allocated to a claim. None when it is an attachment's.
    ///
    /// # Errors
    /// It cannot be used by a pod; in words for whoever wrote the claim.
    pub(super) fn read(
        node: &NodeName,
        claim: &ClaimRef,
        allocated: &[AllocatedDevice],
    ) -> Result<Option<Self>, String> {
        let ports = patchbay_api::slice::port_pool(node);
        let (ports, devices): (Vec<_>, Vec<_>) = allocated.iter().partition(|d| d.pool == ports);
        let (device, port) = match (devices.as_slice(), ports.as_slice()) {
            ([device], [port]) => (device, port),
            ([_], []) | ([], [_]) => return Ok(None),
            ([], _) => return Err("the claim asks for several ports and no device: ask for one of each".to_owned()),
            ([_, _, ..], _) => return Err("the claim asks for several USB devices: make one claim for each".to_owned()),
            ([_], _) => return Err("the claim asks for several ports: one is enough".to_owned()),
        };
        let (home, name) = (NodeName::new(&device.pool), DeviceName::new(&device.device));
        let source = match port.device.parse() {
            Ok(_) if home == *node => Source::Local { device: name },
            Ok(port) => Source::Remote { device: name, home, claim: claim.clone(), port },
            Err(_) if home == *node => Source::Local { device: name },
            Err(_) => {
                return Err(format!(
                    "device {name} is on node {home}: here its claim needs a port, and has {}",
                    port.device
                ));
            }
        };
        Ok(Some(Self { source, disks: disks(device)? }))
    }

    /// Reads a record of the journal that stands for a pod that has, or is to have, its device. One that is being prepared
    /// counts once the driver has left a word in it: until then the claim has not been checked, and may be refused.
    pub(super) fn of_record(node: &NodeName, uid: &str, record: &Record) -> Option<Self> {
        let wanted = match record.state {
            State::Preparing => !record.data.is_null(),
            State::Prepared => true,
            State::Unpreparing => false,
        };
        let claim = ClaimRef {
            namespace: Namespace::new(&record.namespace),
            name: ClaimName::new(&record.name),
            uid: Uid::new(uid),
        };
        Self::read(node, &claim, &record.allocated).ok().flatten().filter(|_| wanted)
    }

    /// The name the device is published by.
    pub(super) fn device(&self) -> &DeviceName {
        match &self.source {
            Source::Local { device } | Source::Remote { device, .. } => device,
        }
    }
}

/// Whether the parameters ask for disks; the last ones count.
fn disks(device: &AllocatedDevice) -> Result<bool, String> {
    let read = device.config.iter().map(|config| DeviceParameters::read(&config.parameters));
    let all: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    Ok(all.last().is_some_and(|parameters| parameters.block_devices))
}

#[cfg(test)]
mod tests {
    use patchbay_dra::{ConfigSource, DeviceConfig};
    use serde_json::{Value, json};

    use super::*;

    fn allocated(pool: &str, device: &str) -> AllocatedDevice {
        serde_json::from_value(json!({"request": "r", "driver": "d", "pool": pool, "device": device})).unwrap()
    }

    fn read(allocated: &[AllocatedDevice]) -> Result<Option<PodUse>, String> {
        let claim = ClaimRef { namespace: "ns".into(), name: "c".into(), uid: "u".into() };
        PodUse::read(&"node-2".into(), &claim, allocated)
    }

    fn with(parameters: Value) -> Result<bool, String> {
        let mut device = allocated("node-2", "stick");
        device.config = vec![DeviceConfig { source: ConfigSource::Claim, parameters }];
        read(&[device, allocated("node-2-ports", "local-stick")]).map(|found| found.unwrap().disks)
    }

    #[test]
    fn a_device_with_a_port_is_remote_and_one_with_its_token_is_local() {
        let remote = read(&[allocated("node-1", "stick"), allocated("node-2-ports", "usb3-1")]).unwrap().unwrap();
        let Source::Remote { device, home, port, claim } = remote.source else { panic!("{remote:?}") };
        assert_eq!((device.as_str(), home.as_str(), port.to_string()), ("stick", "node-1", "usb3-1".to_owned()));
        assert_eq!(claim.uid.as_str(), "u");
        let local = read(&[allocated("node-2", "stick"), allocated("node-2-ports", "local-stick")]).unwrap().unwrap();
        assert_eq!(local, PodUse { source: Source::Local { device: "stick".into() }, disks: false });
    }

    #[test]
    fn the_claims_of_attachments_ask_for_nothing() {
        assert_eq!(read(&[allocated("node-1", "stick")]), Ok(None));
        assert_eq!(read(&[allocated("node-2-ports", "usb3-1")]), Ok(None));
    }

    #[test]
    fn claims_that_nobody_could_serve_are_refused_in_words() {
        let two = [allocated("node-1", "a"), allocated("node-1", "b"), allocated("node-2-ports", "usb3-1")];
        assert!(read(&two).unwrap_err().contains("one claim for each"));
        let token = [allocated("node-1", "a"), allocated("node-2-ports", "local-b")];
        assert!(read(&token).unwrap_err().contains("needs a port"));
    }

    #[test]
    fn a_claim_that_has_not_been_checked_brings_no_device() {
        let devices = [allocated("node-1", "stick"), allocated("node-2-ports", "usb3-1")];
        let counts = |state: &str, data: Value| {
            let record = json!({"namespace": "ns", "name": "c", "state": state, "allocated": devices, "data": data});
            PodUse::of_record(&"node-2".into(), "u", &serde_json::from_value(record).unwrap()).is_some()
        };
        assert!(!counts("Preparing", Value::Null));
        assert!(counts("Preparing", json!("checked")) && counts("Prepared", Value::Null));
        assert!(!counts("Unpreparing", json!("checked")));
    }

    #[test]
    fn disks_are_given_to_those_who_ask() {
        let ask = |block_devices| with(serde_json::to_value(DeviceParameters { block_devices }.written()).unwrap());
        assert_eq!((ask(true), ask(false)), (Ok(true), Ok(false)));
        assert!(with(json!({"apiVersion": "v1", "kind": "DeviceParameters"})).unwrap_err().contains("is understood"));
    }
}
