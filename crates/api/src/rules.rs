//! What the API server refuses, in words that say what to do: the CEL rules of the definitions.
//!
//! The API server evaluates no rule of an object in which something is longer than its schema allows. So the schema's own
//! bounds are wider than the rules': they only keep the rules cheap.

use kube::core::{Message, Rule};
use patchbay_core::controller::MAX_DEVICES;
use patchbay_core::controller::world::OperationKind;

/// A DNS label: what names of devices and namespaces are.
const LABEL: &str = "self.size() <= 63 && self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')";

/// What may be in such a name.
const LETTERS: &str = "at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends";

fn rule(rule: &str, message: String) -> Rule {
    Rule::new(rule).message(Message::Message(message))
}

/// A rule of a text whose message begins with the text. `message` has no quotes of its own.
fn text_rule(rule: &str, message: &str) -> Rule {
    Rule::new(rule).message(Message::Expression(format!(r#"'"' + self + '" {message}'"#)))
}

/// The name of a `USBDevice`.
pub(crate) fn device_name() -> Rule {
    let message = format!("cannot be the name of a USBDevice: {LETTERS} (kubectl get usbdevices shows the names)");
    text_rule(LABEL, &message)
}

/// The name of a namespace, or nothing.
pub(crate) fn namespace() -> Rule {
    text_rule(&format!("self == '' || ({LABEL})"), &format!("cannot be the name of a namespace: {LETTERS}"))
}

/// No more devices than a machine can have.
pub(crate) fn few_devices() -> Rule {
    rule(
        &format!("self.size() <= {MAX_DEVICES}"),
        format!("a virtual machine has at most {MAX_DEVICES} USB devices: take some off the list"),
    )
}

/// Each device once. The list is a map by name, which refuses the same and names the device; this one says what to do.
pub(crate) fn different_devices() -> Rule {
    rule(
        "self.all(d, self.exists_one(e, e.name == d.name))",
        "a USB device is listed more than once: list each device once".to_owned(),
    )
}

/// What operations do.
pub(crate) fn operation_type() -> Rule {
    let known: Vec<_> = OperationKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let list = known.iter().map(|kind| format!("'{kind}'")).collect::<Vec<_>>().join(", ");
    text_rule(&format!("self in [{list}]"), &format!("is no type of operation: there are {}", known.join(", ")))
}

/// The name of a `VirtualMachine`.
pub(crate) fn machine_name() -> Rule {
    text_rule(
        "self.size() <= 63 && self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "cannot be the name of a VirtualMachine (kubectl get vm shows the names)",
    )
}

/// What is asked for once cannot become something else.
pub(crate) fn immutable() -> Rule {
    rule("self == oldSelf", "an operation cannot be changed: make another one".to_owned())
}

/// The reference of an image.
pub(crate) fn image() -> Rule {
    text_rule(
        r"self.matches('^\\S+$')",
        "cannot be an image: write it like registry.example/machines/linux:1, without spaces",
    )
}

/// Labels of nodes.
pub(crate) fn node_labels() -> Rule {
    rule(
        "self.all(k, !format.qualifiedName().validate(k).hasValue() && !format.labelValue().validate(self[k]).hasValue())",
        "no node can have such a label: keys are like kubernetes.io/hostname, values have at most 63 letters, digits and -_. \
         (kubectl get nodes --show-labels shows what there is)"
            .to_owned(),
    )
}
