//! Ordinary pods use devices: the examples of `docs/examples`, as they are, on real nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, SOON};
use crate::cluster::Lab;
use crate::install::repository;
use crate::stick::{Function, Stick};

/// For the start of a pod with a device of another node.
const START: Duration = Duration::from_secs(60);
/// The image of the examples, and what the lab has instead.
const IMAGES: [&str; 2] = ["image: busybox", "image: localhost/patchbay/tool:lab\n          imagePullPolicy: Never"];

/// Applies an example with the name of a device that is really there, on a node.
fn apply(case: &Case<'_>, file: &str, name: &str, device: &str, node: &str) -> Result<()> {
    let path = repository().join("docs/examples").join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(text.contains(name), "{file} does not mention {name}");
    let text = text.replace(name, device).replace(IMAGES[0], IMAGES[1]);
    // The first one is the pod's; that of a container is indented deeper.
    let pinned = format!("      nodeSelector: {{kubernetes.io/hostname: {node}}}\n      securityContext:");
    let text = text.replacen("      securityContext:", &pinned, 1);
    case.lab.apply_yaml_in(&case.namespace, &text)
}

/// The log of a pod of the namespace, chosen by a label.
fn wait_log(case: &Case<'_>, selector: &str, deadline: Duration, wanted: &str) -> Result<String> {
    case.lab.wait_for(&format!("the pod with {selector} to say {wanted:?}"), deadline, || {
        let arguments = ["logs", "-n", &case.namespace, "-l", selector, "--tail=100"];
        let log = case.lab.kubectl(&arguments).map_err(|e| format!("{e:#}"))?;
        if log.contains(wanted) { Ok(log) } else { Err(log) }
    })
}

/// Namespaces of these scenarios let in only pods without any privilege.
fn begin<'l>(lab: &'l Lab, namespace: &str) -> Result<Case<'l>> {
    let case = Case::begin(lab, namespace)?;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    lab.kubectl(&["label", "namespace", namespace, label])?;
    Ok(case)
}

fn delete(case: &Case<'_>, what: &str) -> Result<()> {
    case.lab.kubectl(&["delete", "-n", &case.namespace, what, "--wait", "--timeout=60s"]).map(drop)
}

/// A job on another node asks a serial adapter something and gets the answer; then the device is free again.
pub(super) fn a_serial_adapter_answers_a_job_on_another_node(lab: &Lab) -> Result<()> {
    let case = begin(lab, "job")?;
    let modem = Stick::new("modem").strings(Some("Patchbay"), Some("Modem")).function(Function::Serial);
    let (device, _) = case.plug("node-1", &modem)?;
    case.assign(&device, "job")?;
    let far = lab.node("node-1")?.far_end(&modem)?;
    lab.node("node-1")?.run(&format!("({}) </dev/null >/dev/null 2>&1 &", modem_at(&far)))?;
    apply(&case, "job.yaml", "patchbay-modem-k3f9a", &device, "node-2")?;
    let message = case.wait_condition(&device, "Attached", "AttachedToPod")?;
    ensure!(
        message.contains("pod job/ask-modem-") && message.contains("node-2") && message.contains("port usb"),
        "the message names neither pod nor node nor port: {message}"
    );
    wait_log(&case, "job-name=ask-modem", START, "modem heard ATI")?;
    lab.kubectl(&["wait", "-n", "job", "job/ask-modem", "--for=condition=complete", "--timeout=60s"])?;
    case.wait_condition(&device, "Attached", "Available")?;
    delete(&case, "job/ask-modem")?;
    case.end()
}

/// Shell script of a modem that says what it has heard. It hangs up whenever its cable is pulled, as when the device changes
/// drivers, and ends with its device. Where the device has no driver nobody hangs up, and the gadget's kernel waits with the removal
/// until nobody has the line open: so the modem looks once a second whether there is a line still.
fn modem_at(far: &str) -> String {
    format!(
        "while [ -c {far} ]; do stty -F {far} raw -echo; exec 3<>{far}; \
         if read -t 1 line <&3 && [ -n \"$line\" ]; then echo \"modem heard $line\" >&3; else usleep 50000; fi; done"
    )
}

/// A scanner is read by a pod on another node. It is pulled out and put back: the pod's status says so, the container is
/// restarted by the kubelet and reads on.
pub(super) fn a_scanner_is_read_and_read_on_after_it_was_pulled_out(lab: &Lab) -> Result<()> {
    let case = begin(lab, "scanner")?;
    let scanner = Stick::new("scanner").strings(Some("Patchbay"), Some("Scanner")).function(Function::Keyboard);
    let (device, _) = case.plug("node-1", &scanner)?;
    case.assign(&device, "scanner")?;
    apply(&case, "statefulset.yaml", "patchbay-scanner-k3f9a", &device, "node-2")?;
    case.wait_condition(&device, "Attached", "AttachedToPod")?;
    // Pressed again and again: nobody hears a key while no program has opened the device.
    let press = |key: u8| -> Result<()> {
        let node = lab.node("node-1")?;
        let far = node.far_end(&scanner)?;
        let type_it = format!("timeout 1 printf '\\0\\0\\{key}\\0\\0\\0\\0\\0' >{far}; true");
        lab.wait_for(&format!("the pod to tell of key {key}"), START, || {
            node.run(&type_it).map_err(|e| format!("{e:#}"))?;
            let arguments = ["logs", "-n", &case.namespace, "-l", "app=scanner", "--tail=100"];
            let log = lab.kubectl(&arguments).map_err(|e| format!("{e:#}"))?;
            if log.contains(&format!("report 00000{key}0000000000")) { Ok(()) } else { Err(log) }
        })
    };
    press(4)?;
    let claims = lab.kubectl(&["get", "resourceclaims", "-n", "scanner", "-o", "yaml"])?;
    ensure!(claims.contains("AttachedToPod"), "the claim's status does not say that its device is attached:\n{claims}");

    case.unplug("node-1", &scanner)?;
    case.wait_condition(&device, "Ready", "NotFound")?;
    let message = case.wait_condition(&device, "Attached", "Available")?;
    ensure!(message.contains("scanner-0"), "the message does not name the pod that waits: {message}");
    // The kubelet of 1.34 looks up health by the name of the claim in the pod, which is never that of a claim from a template.
    if !lab.parts().kubernetes.starts_with("v1.34.") {
        lab.wait_for("the status of the pod to call its device unhealthy", SOON, || {
            let arguments = ["get", "pod", "-n", "scanner", "scanner-0", "-o", "yaml"];
            let pod = lab.kubectl(&arguments).map_err(|e| format!("{e:#}"))?;
            if pod.contains("health: Unhealthy") { Ok(()) } else { Err(pod) }
        })?;
    }
    case.plug("node-1", &scanner)?;
    // The container has ended or will, and its next start has the device under its new number. The kubelet takes its time
    // over a container that ends again and again.
    lab.wait_for("the container to have the device again", Duration::from_secs(120), || {
        let pods = ["get", "usbdevice", "-n", "scanner", &device, "-o", "jsonpath={.status.conditions[*].reason}"];
        let reasons = lab.kubectl(&pods).map_err(|e| format!("{e:#}"))?;
        if reasons.contains("AttachedToPod") { Ok(()) } else { Err(reasons) }
    })?;
    press(5)?;
    delete(&case, "statefulset/scanner")?;
    lab.kubectl(&["wait", "-n", "scanner", "pod/scanner-0", "--for=delete", "--timeout=60s"])?;
    case.wait_condition(&device, "Attached", "Available")?;
    case.end()
}

/// A disk is read by a pod on the disk's own node, without a port or USB/IP, and by one on another node.
pub(super) fn a_disk_is_read_at_home_and_on_another_node(lab: &Lab) -> Result<()> {
    let case = begin(lab, "backup")?;
    let disk = Stick::new("backup").strings(Some("Patchbay"), Some("Backup Disk"));
    let (device, _) = case.plug("node-1", &disk)?;
    case.assign(&device, "backup")?;
    for node in ["node-1", "node-2"] {
        apply(&case, "deployment.yaml", "patchbay-backup-disk-k3f9a", &device, node)?;
        let message = case.wait_condition(&device, "Attached", "AttachedToPod")?;
        ensure!(message.contains("port usb3") == (node == "node-2"), "a port on {node}? {message}");
        let log = wait_log(&case, "app=backup", START, "/block0")?;
        ensure!(log.contains(&disk.sha256()), "the pod reads something else than {}: {log}", disk.sha256());
        delete(&case, "deployment/backup")?;
        lab.kubectl(&["wait", "-n", "backup", "pods", "-l", "app=backup", "--for=delete", "--timeout=60s"])?;
        case.wait_condition(&device, "Attached", "Available")?;
    }
    case.end()
}

/// Two pods and a virtual machine want one device: one has it, the others wait, and it is said for whom.
pub(super) fn pods_and_machines_wait_for_each_other_and_say_for_whom(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "queue")?;
    let stick = Stick::new("queue");
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, "queue")?;
    lab.apply_yaml_in("queue", &holder("first", &device))?;
    case.wait_condition(&device, "Attached", "AttachedToPod")?;
    lab.apply_yaml_in("queue", &holder("second", &device))?;
    let mut guest = case.vm("linux-vm", "node-2", &[&device])?;
    let message = case.wait_status("linux-vm", &device, false)?;
    ensure!(message.contains("in use by pod queue/first"), "the machine does not say who has it: {message}");
    lab.wait_for("the device to say who waits", SOON, || {
        let message = case.wait_condition(&device, "Attached", "AttachedToPod").map_err(|e| format!("{e:#}"))?;
        if message.contains("queue/second waits") { Ok(()) } else { Err(message) }
    })?;
    // The second one gives up: the machine is next.
    delete(&case, "pod/second")?;
    delete(&case, "pod/first")?;
    let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), START)?;
    ensure!(seen == stick.sha256(), "the guest reads {seen}, the stick holds {}", stick.sha256());
    lab.apply_yaml_in("queue", &holder("third", &device))?;
    lab.wait_for("the device to say that a pod waits for the machine", SOON, || {
        let message =
            case.wait_condition(&device, "Attached", "AttachedToVirtualMachine").map_err(|e| format!("{e:#}"))?;
        if message.contains("queue/third waits") { Ok(()) } else { Err(message) }
    })?;
    guest.forget();
    case.set_devices("linux-vm", &[])?;
    guest.wait_line("that the disk is gone", SOON, |l| l.text.contains("guest: disk remove").then_some(()))?;
    case.wait_condition(&device, "Attached", "AttachedToPod")?;
    delete(&case, "pod/third")?;
    case.end()
}

/// A pod that holds a device and does nothing.
fn holder(name: &str, device: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  resourceClaims: [{{name: device, resourceClaimTemplateName: {device}}}]
  containers:
  - name: hold
    image: localhost/patchbay/tool:lab
    imagePullPolicy: Never
    command: [sh, -c, \"trap 'exit 0' TERM; sleep 1000000 & wait\"]
    resources: {{claims: [{{name: device}}]}}
"
    )
}
