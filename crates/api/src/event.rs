//! `Event`: what `kubectl describe` and `kubectl events` tell of a device or a machine.
//!
//! Written as `events.k8s.io/v1` has it: made once, and counted in its series when the same is told again.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Resource;
use patchbay_core::controller::events::{Notice, Subject};
use patchbay_core::names::Uid;
use serde_json::{Value, json};

use crate::{NodeUSBDevice, USBDevice, VirtualMachine, keys};

/// The most bytes of a note.
const NOTE: usize = 1024;

/// The most bytes of the name of who tells it.
const INSTANCE: usize = 128;

/// The namespace of Events about objects that have none.
const CLUSTER: &str = "default";

/// Where Events about an object are.
pub fn namespace(about: &Subject) -> &str {
    match about {
        Subject::NodeDevice(_) | Subject::Node(_) => CLUSTER,
        Subject::Device(namespace, _) | Subject::Vm(namespace, _) => namespace.as_str(),
    }
}

/// The Event that tells `notice` of the object with this uid. `instance` is the process that tells it; no two Events of one
/// object may be of the same `time`, because it becomes part of the name.
pub fn build(notice: &Notice, uid: &Uid, time: Timestamp, instance: &str) -> Event {
    let regarding = regarding(&notice.about, uid);
    let subject = regarding.name.as_deref().unwrap_or_default();
    let kind = if notice.is_warning() { "Warning" } else { "Normal" };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{subject}.{:x}", time.as_nanosecond())),
            namespace: Some(namespace(&notice.about).to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(time)),
        type_: Some(kind.to_owned()),
        reason: Some(notice.reason().to_owned()),
        note: Some(cut(&notice.note, NOTE)),
        action: Some(notice.deed.as_str().to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(keys::CONTROLLER.to_owned()),
        reporting_instance: Some(cut(instance, INSTANCE)),
        ..Event::default()
    }
}

/// The merge patch that says that an Event was told `count` times, at least twice, and when last.
pub fn series_patch(count: i32, last: Timestamp) -> Value {
    json!({"series": {"count": count, "lastObservedTime": MicroTime(last)}})
}

fn regarding(about: &Subject, uid: &Uid) -> ObjectReference {
    let (kind, namespace, name) = match about {
        // As kubelets do: `kubectl describe node` looks for a uid that is the name.
        Subject::Node(name) => {
            return ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(name.to_string()),
                uid: Some(name.to_string()),
                ..ObjectReference::default()
            };
        }
        Subject::NodeDevice(name) => (NodeUSBDevice::kind(&()), None, name.to_string()),
        Subject::Device(namespace, name) => (USBDevice::kind(&()), Some(namespace), name.to_string()),
        Subject::Vm(namespace, name) => (VirtualMachine::kind(&()), Some(namespace), name.to_string()),
    };
    ObjectReference {
        api_version: Some(keys::API_VERSION.to_owned()),
        kind: Some(kind.into_owned()),
        namespace: namespace.map(ToString::to_string),
        name: Some(name),
        uid: Some(uid.to_string()),
        ..ObjectReference::default()
    }
}

fn cut(text: &str, most: usize) -> String {
    let (cut, _) = text.split_at(text.floor_char_boundary(most.min(text.len())));
    cut.to_owned()
}

#[cfg(test)]
mod tests {
    use patchbay_core::conditions::Reason;
    use patchbay_core::controller::events::Deed;

    use super::*;

    const INSTANCE: &str = "patchbay-controller-7d9f-x2x4z";

    fn time() -> Timestamp {
        "2026-01-31T12:00:00.000007Z".parse().unwrap()
    }

    fn notice(about: Subject, note: &str) -> Notice {
        Notice { about, deed: Deed::Attach, reason: Reason::NoFreeUSBIPPort, note: note.to_owned() }
    }

    #[test]
    fn an_event_is_about_the_very_object() {
        let about = Subject::Vm("my-project".into(), "linux-vm".into());
        let note = "0 of 1 USB devices are attached; webcam: all 8 USB 2.0 USB/IP ports of node node-2 are in use";
        insta::assert_json_snapshot!("event", build(&notice(about, note), &"u1".into(), time(), INSTANCE));
        insta::assert_json_snapshot!("event_series", series_patch(3, time()));
    }

    #[test]
    fn events_of_what_has_no_namespace_are_in_the_default_one() {
        let event = build(&notice(Subject::NodeDevice("webcam".into()), ""), &"u1".into(), time(), INSTANCE);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.namespace), (Some("NodeUSBDevice"), None));
        let event = build(&notice(Subject::Device("blue".into(), "webcam".into()), ""), &"u1".into(), time(), INSTANCE);
        assert_eq!(event.metadata.namespace.as_deref(), Some("blue"));
        assert_eq!(event.reason.as_deref(), Some("NoFreeUSBIPPort"));
        assert_eq!(event.regarding.unwrap().kind.as_deref(), Some("USBDevice"));
    }

    #[test]
    fn the_event_of_a_node_is_found_where_kubectl_looks_for_it() {
        let about = Subject::Node("node-1".into());
        let notice = Notice { about, deed: Deed::Discover, reason: Reason::NotFound, note: "it is absent".to_owned() };
        let event = build(&notice, &"of the device".into(), time(), INSTANCE);
        let regarding = event.regarding.unwrap();
        let found = (regarding.kind.as_deref(), regarding.name.as_deref(), regarding.uid.as_deref());
        assert_eq!(found, (Some("Node"), Some("node-1"), Some("node-1")));
        assert_eq!(
            (event.metadata.namespace.as_deref(), event.reason.as_deref()),
            (Some("default"), Some("USBDeviceNotFound"))
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_two_characters() {
        let about = Subject::NodeDevice("webcam".into());
        let long = format!("{}é{}", "x".repeat(1023), "y".repeat(1000));
        let event = build(&notice(about, &long), &"u1".into(), time(), &"i".repeat(200));
        assert_eq!(event.note.unwrap(), "x".repeat(1023));
        assert_eq!(event.reporting_instance.unwrap().len(), 128);
    }
}
