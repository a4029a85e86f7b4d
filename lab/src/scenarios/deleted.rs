//! Objects that people delete by hand while a device is attached: all of them come back, and so does the device.

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::leaks::ATTACHMENT;
use crate::product;
use crate::published;
use crate::stick::Stick;

use super::kubelet::remove_by_force;
use super::reading;

const NAMESPACE: &str = "by-hand";

/// All slices, the attachment pod, the claim of the port, the claim of the device; pods and claims with and without force.
pub(super) fn objects_come_back(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, NAMESPACE)?;
    let stick = Stick::new(NAMESPACE);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;

    let since = || {
        let time = r#"jsonpath={.status.conditions[?(@.type=="Attached")].lastTransitionTime}"#;
        lab.kubectl(&["get", "usbdevice", "-n", NAMESPACE, &device, "-o", time])
    };
    let (before, attached) = (published::pools(lab)?, since()?);
    guest.forget();
    lab.kubectl(&["delete", "resourceslices", "--all", "--wait=false"])?;
    published::wait_anew(lab, &before, "", SOON)?;
    let ports = ["get", "resourceclaim", "-n", NAMESPACE, "-l", "usb.virtualization.deckhouse.io/port", "-o", "name"];
    let port = lab.kubectl(&ports)?;
    // Protected for as long as it is in use: it goes with its pod.
    lab.kubectl(&["delete", "-n", NAMESPACE, &port, "--wait=false"])?;
    reading::has_gone_on(&guest, SOON).context("the slices and the claim of the port were deleted")?;
    case.wait_condition(&device, "Ready", "Ready")?;
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    ensure!(since()? == attached, "the device was attached since {attached}, and is now since {}", since()?);

    replaced_by_force(&case)?;
    reading::settles(&mut guest).context("the attachment pod was deleted by force")?;
    case.wait_status(VM, &device, true)?;

    let claim = format!("resourceclaim/usb-{device}");
    let port_by_force = || {
        let name = "jsonpath={.items[0].status.resourceClaimStatuses[0].resourceClaimName}";
        let port = lab.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", ATTACHMENT, "-o", name])?;
        remove_by_force(lab, NAMESPACE, &format!("resourceclaim/{port}"))
    };
    let delete: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("the device's claim was deleted", &|| {
            lab.kubectl(&["delete", "-n", NAMESPACE, &claim, "--wait=false"]).map(drop)
        }),
        ("the port's claim was deleted by force", &port_by_force),
        ("the device's claim was deleted by force", &|| remove_by_force(lab, NAMESPACE, &claim)),
    ];
    for (what, delete) in delete {
        guest.forget();
        delete()?;
        guest.loses_disk(SOON).context(what)?;
        guest.reads(&stick, SOON).context(what)?;
        case.wait_status(VM, &device, true).context(what)?;
    }
    guest.forget();
    case.set_devices(VM, &[])?;
    guest.loses_disk(SOON)?;
    case.end()
}

/// A device that nobody has assigned is forgotten ten minutes after it was pulled out, and not sooner. Those ten minutes are written
/// into its status by hand.
pub(super) fn absent_devices_are_forgotten(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "forgotten")?;
    let stick = Stick::new("forgotten");
    let (device, _) = case.plug("node-1", &stick)?;
    case.unplug("node-1", &stick)?;
    case.wait_node_condition(&device, "Ready", "NotFound")?;
    let absent_for = |minutes: i64| -> Result<()> {
        let object: Value = serde_json::from_str(&lab.kubectl(&["get", "nodeusbdevice", &device, "-o", "json"])?)?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let ready = conditions.into_iter().flatten().position(|condition| condition["type"] == "Ready");
        let path = format!("/status/conditions/{}/lastTransitionTime", ready.context("no condition Ready")?);
        let time = (Timestamp::now() - SignedDuration::from_mins(minutes)).strftime("%FT%TZ").to_string();
        let patch = json!([{"op": "replace", "path": path, "value": time}]).to_string();
        // Our policy lets nobody else, and kubectl needs rights that the controller has no use for.
        let controller = [&format!("--as={}controller", product::ACCOUNTS), "--as-group=system:masters"];
        let status = ["patch", "nodeusbdevice", &device, "--subresource=status", "--type=json", "-p", &patch];
        lab.kubectl(&[&status[..], &controller[..]].concat()).map(drop)
    };
    absent_for(9)?;
    case.wait_node_condition(&device, "Ready", "NotFound")?;
    absent_for(10)?;
    case.wait_gone(&format!("nodeusbdevice/{device}"))?;
    case.end()
}

/// Deletes the attachment pod by force and waits until another one has the device in the guest. Whether the guest notices
/// depends on what the agent sees first: that the one has gone, or that the next is there.
fn replaced_by_force(case: &Case<'_>) -> Result<()> {
    let (lab, of_pods) = (case.lab, ["pod", "-n", NAMESPACE, "-l", ATTACHMENT]);
    let plugged = r#"{.items[*].metadata.uid} {.items[*].status.conditions[?(@.type=="usb.virtualization.deckhouse.io/Plugged")].status}"#;
    let seen = || lab.kubectl(&[&["get"], &of_pods[..], &["-o", &format!("jsonpath={plugged}")]].concat());
    let before = seen()?;
    ensure!(before.ends_with(" True"), "it is not plugged: {before}");
    lab.kubectl(&[&["delete"], &of_pods[..], &["--force", "--grace-period=0"]].concat())?;
    lab.wait_for("another attachment pod to have the device", SOON, || {
        let now = seen().map_err(|error| format!("{error:#}"))?;
        if now != before && now.ends_with(" True") { Ok(()) } else { Err(now) }
    })
}
