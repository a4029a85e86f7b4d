//! Many pods come to one node at the same moment, and the driver is asked for all their claims at once.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::stick::Stick;

/// Time for twenty pods of one node to run.
const CROWD: Duration = Duration::from_secs(90);

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// Twenty pods come to one node at the same moment, each with a claim: ports as attachments reserve them, devices of that node,
/// a device that is not theirs, and the attachment of a virtual machine. All are answered, and the refused one holds up nobody.
pub(super) fn twenty_claims_at_once(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "many")?;
    let guest = case.vm(VM, IMPORTER, &[])?;
    let stick = Stick::new("many");
    let (device, _) = case.plug(HOME, &stick)?;
    case.assign(&device, "many")?;
    let mut yaml = String::new();
    for number in 0..3 {
        let (device, _) = case.plug(IMPORTER, &Stick::new(&format!("many-{number}")))?;
        case.assign(&device, "many")?;
        yaml += &pod(&format!("device-{number}"), &format!("resourceClaimTemplateName: {device}"));
    }
    let (foreign, _) = case.plug(IMPORTER, &Stick::new("many-foreign"))?;
    yaml += &claim("refused", "usb-devices", "", &format!("id == {foreign:?}"));
    yaml += &pod("refused", "resourceClaimName: refused");
    // One SuperSpeed port is left for the machine.
    for (hub, count) in [("usb2", 8), ("usb3", 7)] {
        for name in (0..count).map(|number| format!("{hub}-{number}")) {
            let label = format!("usb.virtualization.deckhouse.io/port: {hub}");
            yaml += &claim(&name, "usbip-ports", &label, &format!("hub == {hub:?}"));
            yaml += &pod(&name, &format!("resourceClaimName: {name}"));
        }
    }
    lab.apply_yaml(&yaml)?;
    case.set_devices(VM, &[&device])?;
    guest.reads(&stick, CROWD)?;
    case.wait_status(VM, &device, true)?;
    lab.wait_for("all pods but one to run", CROWD, || {
        let left = waiting(lab)?;
        if left == ["refused"] { Ok(()) } else { Err(format!("{left:?} do not")) }
    })?;
    lab.wait_for("the reason why that one does not", SOON, || {
        let field = "--field-selector=involvedObject.name=refused";
        let events = ["get", "events", "-n", "many", field, "-o", "jsonpath={.items[*].message}"];
        let told = lab.kubectl(&events).map_err(|error| format!("{error:#}"))?;
        if told.contains("is not assigned to namespace many") { Ok(()) } else { Err(told) }
    })?;
    lab.kubectl(&["delete", "pod", "-n", "many", "-l", "crowd", "--grace-period=1"])?;
    case.end()
}

/// A claim of one device of a class, with a label or none.
fn claim(name: &str, class: &str, label: &str, attribute: &str) -> String {
    let expression = format!("device.attributes['usb.virtualization.deckhouse.io'].{attribute}");
    format!(
        "apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: {name}, namespace: many, labels: {{{label}}}}}
spec:
  devices:
    requests:
    - name: it
      exactly:
        deviceClassName: {class}.virtualization.deckhouse.io
        selectors: [{{cel: {{expression: {expression:?}}}}}]
---
"
    )
}

/// A pod on the importer with a claim.
fn pod(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: many, labels: {{crowd: member}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {IMPORTER}}}
  terminationGracePeriodSeconds: 1
  resourceClaims: [{{name: it, {claim}}}]
  containers:
  - name: sleep
    image: localhost/patchbay/tool:lab
    imagePullPolicy: Never
    command: [sh, -c, 'trap \"exit 0\" TERM; sleep 1000000 & wait']
    resources: {{claims: [{{name: it}}]}}
---
"
    )
}

/// The pods of the crowd that do not run.
fn waiting(lab: &Lab) -> Result<Vec<String>, String> {
    let text = lab
        .kubectl(&["get", "pods", "-n", "many", "-l", "crowd", "-o", "json"])
        .map_err(|error| format!("{error:#}"))?;
    let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let pods = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let waits = |pod: &&Value| pod.pointer("/status/phase").and_then(Value::as_str) != Some("Running");
    let name = |pod: &Value| pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(pods.iter().filter(waits).map(name).collect())
}
