//! `list`: devices, one a line.

use anstyle::Style;
use jiff::Timestamp;
use kube::ResourceExt;
use patchbay_api::device_status::{Condition, DeviceStatus};
use patchbay_api::{NodeUSBDevice, USBDevice};
use patchbay_core::conditions::{ConditionType, Reason};

use crate::age::age;
use crate::style::{BAD, GOOD, PLAIN, STRONG, WAITING};
use crate::table::{Cell, render};

const WIDE: [&str; 6] = ["ID", "PRODUCT", "SERIAL", "SPEED", "AGE", "MESSAGE"];

/// A device of the list.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    namespace: Option<String>,
    created: Option<Timestamp>,
    status: DeviceStatus,
}

impl From<&NodeUSBDevice> for Row {
    fn from(object: &NodeUSBDevice) -> Self {
        Self {
            name: object.name_any(),
            namespace: object.spec.assigned_namespace.clone().filter(|n| !n.is_empty()),
            created: object.creation_timestamp().map(|t| t.0),
            status: object.status.clone().unwrap_or_default(),
        }
    }
}

impl From<&USBDevice> for Row {
    fn from(object: &USBDevice) -> Self {
        Self {
            name: object.name_any(),
            namespace: object.namespace(),
            created: object.creation_timestamp().map(|t| t.0),
            status: object.status.clone().unwrap_or_default(),
        }
    }
}

/// The table; empty when there are no devices.
pub(crate) fn table(rows: &[Row], wide: bool, now: Timestamp) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = Row::HEAD.iter().chain(WIDE.iter().filter(|_| wide)).map(|h| Cell::new(h, STRONG)).collect();
    let lines = rows.iter().map(|row| row.cells(wide, now));
    render(&std::iter::once(head).chain(lines).collect::<Vec<_>>())
}

impl Row {
    /// What the columns are called.
    pub(crate) const HEAD: [&str; 7] = ["NAME", "NODE", "PORT", "NAMESPACE", "USED BY", "READY", "ATTACHED"];

    /// The device's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The columns, and what is said of the device.
    pub(crate) fn told(&self) -> Vec<Cell> {
        let mut cells = self.cells(false, Timestamp::UNIX_EPOCH);
        cells.push(Cell::from(self.message()));
        cells
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<Cell> {
        let known = self.status.attributes.as_ref();
        let mut cells = vec![
            Cell::from(self.name.as_str()),
            Cell::from(self.status.node_name.as_deref()),
            Cell::from(known.map(|k| k.port_path.as_str())),
            Cell::from(self.namespace.as_deref()),
            Cell::from(self.user().as_str()),
            self.truth(ConditionType::Ready),
            self.truth(ConditionType::Attached),
        ];
        if wide {
            let product = known.map(|k| [k.manufacturer.as_deref().unwrap_or_default(), &k.name].join(" "));
            cells.extend([
                Cell::from(known.map(|k| format!("{}:{}", k.vendor_id, k.product_id)).as_deref()),
                Cell::from(product.as_deref()),
                Cell::from(known.and_then(|k| k.serial.as_deref())),
                Cell::from(known.map(|k| k.speed.as_str())),
                Cell::from(age(self.created, now).as_str()),
                Cell::from(self.message()),
            ]);
        }
        cells
    }

    fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.status.conditions.iter().flatten().find(|c| c.type_ == kind.as_str())
    }

    /// True, False, or the reason where it says more than that.
    fn truth(&self, kind: ConditionType) -> Cell {
        let Some(condition) = self.condition(kind) else { return Cell::new("Unknown", WAITING) };
        match (condition.status.as_str(), condition.reason.as_str()) {
            ("True", _) => Cell::new("True", GOOD),
            (_, reason) if reason == Reason::Available.as_str() => Cell::from("False"),
            (_, reason) => Cell::new(reason, colour(reason)),
        }
    }

    fn user(&self) -> String {
        let attached = self.condition(ConditionType::Attached);
        match &self.status.virtual_machine {
            Some(vm) => format!("vm/{vm}"),
            None if attached.is_some_and(|c| c.reason == Reason::AttachedToPod.as_str()) => "pod".to_owned(),
            None => String::new(),
        }
    }

    /// What is said of the first thing that is not as it should be; else of who has it.
    fn message(&self) -> &str {
        let all = [ConditionType::Ready, ConditionType::Assigned, ConditionType::Attached];
        let found = || all.into_iter().filter_map(|kind| self.condition(kind));
        let first = found().find(|c| c.status != "True").or_else(|| found().next_back());
        first.map_or("", |c| c.message.as_str())
    }
}

fn colour(reason: &str) -> Style {
    match Reason::ALL.iter().find(|r| r.as_str() == reason) {
        Some(Reason::DetachedForMigration | Reason::InProgress) => WAITING,
        Some(_) => BAD,
        None => PLAIN,
    }
}

/// What is said when there is no device.
pub(crate) fn nothing(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!(
            "No USB devices in namespace {namespace}. An administrator gives one to it:\n  \
             kubectl usb list -A\n  kubectl usb assign DEVICE {namespace}\n"
        ),
        None => format!(
            "No USB devices: nobody has plugged one in since Patchbay runs. Plug one in; if it does not appear within seconds, \
             check that\nthe agent runs on its node:\n  {}\n",
            crate::advice::AGENTS
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{condition, node_device, plain};

    fn rows() -> Vec<Row> {
        let mut used = node_device("webcam", 1, Some("blue"));
        let status = used.status.get_or_insert_default();
        status.virtual_machine = Some("linux-vm".to_owned());
        let attached = "Attached to virtual machine blue/linux-vm on node node-2, guest bus 0 port 9";
        status.conditions = Some(vec![
            condition("Ready", "True", "Ready", "Device is ready to use"),
            condition("Assigned", "True", "Assigned", "Namespace is assigned for the device"),
            condition("Attached", "True", "AttachedToVirtualMachine", attached),
        ]);
        let mut waits = node_device("token", 2, Some("blue"));
        let message = "all 8 USB 2.0 USB/IP ports of node node-2 are in use";
        waits.status.get_or_insert_default().conditions = Some(vec![
            condition("Ready", "True", "Ready", "Device is ready to use"),
            condition("Attached", "False", "NoFreeUSBIPPort", message),
        ]);
        let mut pulled = node_device("disk", 3, None);
        pulled.status.get_or_insert_default().conditions = Some(vec![
            condition("Ready", "False", "NotFound", "Device is absent on the host"),
            condition("Attached", "False", "Available", "Device is not in use"),
        ]);
        let new = NodeUSBDevice { status: None, ..node_device("mouse", 4, None) };
        [used, waits, pulled, new].iter().map(Row::from).collect()
    }

    #[test]
    fn each_device_has_a_line() {
        let expected = "\
NAME     NODE     PORT   NAMESPACE   USED BY       READY      ATTACHED
webcam   node-1   1-1    blue        vm/linux-vm   True       True
token    node-1   1-2    blue        -             True       NoFreeUSBIPPort
disk     node-1   1-3    -           -             NotFound   False
mouse    -        -      -           -             Unknown    Unknown
";
        assert_eq!(plain(&table(&rows(), false, Timestamp::UNIX_EPOCH)), expected);
        assert_eq!(table(&[], true, Timestamp::UNIX_EPOCH), "");
    }

    #[test]
    fn wide_lines_say_what_the_device_is_and_what_hinders_it() {
        let text = plain(&table(&rows(), true, Timestamp::from_second(60).unwrap()));
        let ends: Vec<_> = text.lines().filter_map(|line| Some(line.split_once("  046d:082d   ")?.1)).collect();
        assert_eq!(
            ends,
            [
                "Logitech Webcam C920   -        480     60s   Attached to virtual machine blue/linux-vm on node node-2, \
                 guest bus 0 port 9",
                "Logitech Webcam C920   -        480     60s   all 8 USB 2.0 USB/IP ports of node node-2 are in use",
                "Logitech Webcam C920   -        480     60s   Device is absent on the host",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_coloured() {
        let text = table(&rows(), false, Timestamp::UNIX_EPOCH);
        assert!(text.contains(&crate::style::paint(BAD, "NoFreeUSBIPPort")));
    }

    #[test]
    fn an_empty_list_says_what_to_do() {
        assert!(nothing(None).contains("kubectl get pods -n patchbay"));
        assert!(nothing(Some("blue")).contains("kubectl usb assign DEVICE blue"));
    }
}
