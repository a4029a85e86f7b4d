//! The demonstration: a stick plugged into one node is read inside a virtual machine on another, told as a person would do
//! it: each command is shown with what it prints.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{Case, SOON};
use crate::cluster::Lab;
use crate::progress::{say, step};
use crate::stick::Stick;

const NAMESPACE: &str = "my-project";
const VM: &str = "linux-vm";

/// Runs it.
///
/// # Errors
/// At the first step that does not work; the logs are collected then.
pub fn run(lab: &Lab) -> Result<()> {
    tell(lab).inspect_err(|_| lab.collect_logs())
}

fn tell(lab: &Lab) -> Result<()> {
    show(lab, &["get", "nodes", "-o", "wide"])?;
    let case = Case::begin(lab, NAMESPACE)?;
    let mut guest = step("starting a virtual machine on node-2", || case.vm(VM, "node-2", &[]))?;
    show(lab, &["get", "virtualmachine", "-n", NAMESPACE])?;

    let stick = Stick::new("demo").strings(Some("Logitech"), Some("Flash Drive"));
    let sum = stick.sha256();
    say(&format!("A USB stick is plugged into node-1. SHA-256 of its {} bytes:\n  {sum}", stick.image().len()));
    let (device, time) = case.plug("node-1", &stick)?;
    say(&format!("{} ms later:", time.as_millis()));
    show(lab, &["get", "nodeusbdevice"])?;

    say("An administrator gives it to a namespace:");
    let assign = format!("{{\"spec\":{{\"assignedNamespace\":\"{NAMESPACE}\"}}}}");
    show(lab, &["patch", "nodeusbdevice", &device, "--type=merge", "-p", &assign])?;
    lab.wait_for("the USBDevice", SOON, || {
        lab.kubectl(&["get", "usbdevice", &device, "-n", NAMESPACE]).map_err(|e| format!("{e:#}"))
    })?;
    show(lab, &["get", "usbdevice", "-n", NAMESPACE])?;

    say("The owner of the virtual machine lists it, while the machine runs:");
    guest.forget();
    let list = format!("{{\"spec\":{{\"usbDevices\":[{{\"name\":\"{device}\"}}]}}}}");
    show(lab, &["patch", "virtualmachine", VM, "-n", NAMESPACE, "--type=merge", "-p", &list])?;
    let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), Duration::from_secs(60))?;
    for line in guest.lines().iter().filter(|l| l.text.contains("guest: ") && !l.text.contains(" reads ")) {
        println!("  {}", line.text.trim_end());
    }
    ensure!(seen == sum, "the guest read {seen}, the stick holds {sum}");
    say(&format!("Equal: the guest on node-2 has read the stick in node-1.\n  stick  {sum}\n  guest  {seen}"));
    case.wait_status(VM, &device, true)?;
    show(lab, &["get", "usbdevice", "-n", NAMESPACE])?;
    show(lab, &["get", "virtualmachine", "-n", NAMESPACE])?;
    show(lab, &["get", "pods", "-n", NAMESPACE])?;
    show(lab, &["describe", "nodeusbdevice", &device])?;

    say("And takes it off the list again:");
    guest.forget();
    let at = case.set_devices(VM, &[])?;
    let line =
        guest.wait_line("that the disk is gone", SOON, |l| l.text.contains("guest: disk remove").then(|| l.clone()))?;
    println!("  {}", line.text.trim_end());
    say(&format!("The guest saw it go after {} ms.", line.at.saturating_duration_since(at).as_millis()));
    case.wait_condition(&device, "Attached", "Available")?;
    show(lab, &["get", "nodeusbdevice"])?;
    step("checking that nothing is left", || lab.assert_no_leaks(SOON))
}

/// Shows a command and what it prints.
fn show(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let quoted = |a: &&str| if a.contains(['{', ' ']) { format!("'{a}'") } else { (*a).to_owned() };
    println!("\n$ kubectl {}", arguments.iter().map(quoted).collect::<Vec<_>>().join(" "));
    print!("{}", lab.kubectl(arguments)?);
    println!();
    Ok(())
}
