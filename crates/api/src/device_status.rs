//! The status that `NodeUSBDevice` and `USBDevice` share.

use patchbay_core::conditions::{Condition as CoreCondition, ConditionType, Reason};
use patchbay_core::controller::world;
use patchbay_core::device::{Attributes as CoreAttributes, BusAddress, HexId};
use patchbay_core::names::{DeviceName, NodeName, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta;

/// What is known of a USB device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// The node the device is plugged into, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub node_name: Option<String>,
    /// The name the device is published by, where it differs from the name of this object: a second device with the same
    /// serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub device_name: Option<String>,
    /// What the device says of itself, and where it is plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Attributes")]
    pub attributes: Option<Attributes>,
    /// The virtual machine that has the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub virtual_machine: Option<String>,
    /// The generation of the object that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// Whether the device is ready, assigned, and attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<Condition>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Option<Vec<Condition>>,
}

/// What a USB device says of itself, and where it is plugged in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attributes {
    /// Vendor ID, four hexadecimal digits.
    #[serde(rename = "vendorID")]
    pub vendor_id: String,
    /// Product ID, four hexadecimal digits.
    #[serde(rename = "productID")]
    pub product_id: String,
    /// Release number of the device (bcdDevice), four hexadecimal digits.
    pub bcd: String,
    /// USB bus on its node, three decimal digits as in /dev/bus/usb.
    pub bus: String,
    /// Number on that bus, three decimal digits as in /dev/bus/usb.
    pub device_number: String,
    /// Serial number, when the device has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub serial: Option<String>,
    /// Manufacturer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub manufacturer: Option<String>,
    /// Product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub product: Option<String>,
    /// What to call the device.
    pub name: String,
    /// Speed in Mbit/s: 1.5, 12, 480, 5000, 10000 or 20000.
    pub speed: String,
    /// Bus and ports the device is plugged into, for example 2-1.4.
    pub port_path: String,
    /// Device class, two hexadecimal digits; 00 when each interface has its own.
    pub class: String,
}

/// One aspect of the current state of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it is so.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When the status changed last.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
}

impl From<&world::DeviceStatus> for DeviceStatus {
    fn from(status: &world::DeviceStatus) -> Self {
        Self {
            node_name: status.node.as_ref().map(ToString::to_string),
            device_name: status.device_name.as_ref().map(ToString::to_string),
            attributes: status.attributes.as_ref().map(Attributes::from),
            virtual_machine: status.vm.as_ref().map(ToString::to_string),
            observed_generation: Some(status.observed_generation),
            conditions: Some(status.conditions.iter().map(Condition::from).collect()),
        }
    }
}

impl From<&DeviceStatus> for world::DeviceStatus {
    /// What we would not have written counts as not written, so that it is written anew.
    fn from(status: &DeviceStatus) -> Self {
        let conditions = status.conditions.iter().flatten();
        let mut conditions: Vec<_> = conditions.filter_map(|c| c.read(ConditionType::OF_DEVICE)).collect();
        conditions.sort_by_key(|c| c.kind);
        Self {
            node: status.node_name.as_deref().map(NodeName::new),
            device_name: status.device_name.as_deref().map(DeviceName::new),
            attributes: status.attributes.as_ref().and_then(Attributes::read),
            conditions,
            observed_generation: status.observed_generation.unwrap_or(0),
            vm: status.virtual_machine.as_deref().map(VmName::new),
        }
    }
}

impl From<&CoreAttributes> for Attributes {
    fn from(device: &CoreAttributes) -> Self {
        Self {
            vendor_id: device.vendor_id.to_string(),
            product_id: device.product_id.to_string(),
            bcd: device.bcd.to_string(),
            bus: format!("{:03}", device.address.bus),
            device_number: format!("{:03}", device.address.device),
            serial: device.serial.clone(),
            manufacturer: device.manufacturer.clone(),
            product: device.product.clone(),
            name: device.name.clone(),
            speed: device.speed.to_string(),
            port_path: device.port_path.to_string(),
            class: format!("{:02x}", device.class),
        }
    }
}

impl Attributes {
    /// None when anything is not as we write it.
    pub(crate) fn read(&self) -> Option<CoreAttributes> {
        Some(CoreAttributes {
            vendor_id: self.vendor_id.parse::<HexId>().ok()?,
            product_id: self.product_id.parse().ok()?,
            bcd: self.bcd.parse().ok()?,
            address: BusAddress { bus: self.bus.parse().ok()?, device: self.device_number.parse().ok()? },
            serial: self.serial.clone(),
            manufacturer: self.manufacturer.clone(),
            product: self.product.clone(),
            name: self.name.clone(),
            speed: self.speed.parse().ok()?,
            port_path: self.port_path.parse().ok()?,
            class: u8::from_str_radix(&self.class, 16).ok()?,
        })
    }
}

impl From<&CoreCondition> for Condition {
    fn from(condition: &CoreCondition) -> Self {
        Self {
            type_: condition.kind.as_str().to_owned(),
            status: if condition.reason.is_true() { "True" } else { "False" }.to_owned(),
            reason: condition.reason.as_str().to_owned(),
            message: condition.message.clone(),
            last_transition_time: meta::timestamp(condition.since),
        }
    }
}

impl Condition {
    /// None for conditions of others, and for what is none of these `kinds`.
    pub(crate) fn read(&self, kinds: &[ConditionType]) -> Option<CoreCondition> {
        let reason = Reason::ALL.iter().copied().find(|r| r.as_str() == self.reason)?;
        // A status that contradicts the reason was not written by us.
        let honest = self.status == if reason.is_true() { "True" } else { "False" };
        honest.then_some(CoreCondition {
            kind: kinds.iter().copied().find(|k| k.as_str() == self.type_)?,
            reason,
            message: self.message.clone(),
            since: meta::parse_timestamp(&self.last_transition_time)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_status_is_read_back_as_it_was_written() {
        let full = samples::status();
        let bare = world::DeviceStatus::default();
        for status in [full, bare] {
            let json = serde_json::to_value(DeviceStatus::from(&status)).unwrap();
            let back: DeviceStatus = serde_json::from_value(json).unwrap();
            assert_eq!(world::DeviceStatus::from(&back), status);
        }
    }

    #[test]
    fn what_others_wrote_into_a_status_is_not_believed() {
        let condition = |type_: &str, status: &str, time: &str| Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: "Ready".to_owned(),
            message: String::new(),
            last_transition_time: time.to_owned(),
        };
        let status = DeviceStatus {
            attributes: Some(Attributes { speed: "fast".to_owned(), ..Attributes::from(&samples::attributes()) }),
            conditions: Some(vec![
                condition("Shiny", "True", "2026-01-01T00:00:00Z"),
                condition("Ready", "False", "2026-01-01T00:00:00Z"),
                condition("Ready", "True", "soon"),
            ]),
            ..DeviceStatus::default()
        };
        assert_eq!(world::DeviceStatus::from(&status), world::DeviceStatus::default());
    }

    #[test]
    fn an_empty_list_of_conditions_may_be_null() {
        let status: DeviceStatus = serde_json::from_value(serde_json::json!({"conditions": null})).unwrap();
        assert_eq!(status.conditions, None);
    }
}
