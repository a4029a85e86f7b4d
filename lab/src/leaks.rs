//! What must be gone when nothing is attached: vhci ports, usbip-host bindings and sessions, and CDI files on the nodes, and
//! what their agents have written down of them; claims and attachment pods in the API. And what must not have happened: that a
//! node's kernel has killed something for want of memory.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::api;
use crate::cluster::Lab;
use crate::wait::wait_for;

/// The label of attachment pods.
pub const ATTACHMENT: &str = "usb.virtualization.deckhouse.io/attachment";

/// Prints `port <line of vhci's status>`, `host <bus id> <usbip_status>`, `cdi <file>`, `file <name> <content in one line>` and
/// `memory <line of the kernel's log>`.
const SCRIPT: &str = "for f in /sys/devices/platform/vhci_hcd.*/status*; do [ -e $f ] && sed 's/^/port /' $f; done\n\
    for d in /sys/bus/usb/drivers/usbip-host/*-*; do [ -e $d ] && echo host ${d##*/} $(cat $d/usbip_status); done\n\
    for f in /var/run/cdi/*; do [ -e $f ] && echo cdi ${f##*/}; done\n\
    dmesg | grep -i 'out of memory: killed' | sed 's/^/memory /'\n\
    cd /var/lib/patchbay 2>/dev/null || exit 0\n\
    for f in journal records; do [ -e $f.json ] && { echo -n \"file $f \"; tr -d '\\n' <$f.json; echo; }; done; true";
/// What agents write down of attachments: the file, the field, and what each entry of it is.
const RECORDS: &[(&str, &str, &str)] = &[
    ("journal", "claims", "prepared claim"),
    ("records", "ports", "recorded port"),
    ("records", "exports", "recorded export"),
];

/// Waits until nothing is left.
///
/// # Errors
/// After the deadline: what is left, and where.
pub fn assert_none(lab: &Lab, deadline: Duration) -> Result<()> {
    wait_for("everything an attachment uses to be given back", deadline, || {
        let leaks = find(lab).map_err(|error| format!("{error:#}"))?;
        if leaks.is_empty() { Ok(()) } else { Err(leaks.join("; ")) }
    })
}

/// Everything that is left, one line each. A node that is off has nothing.
fn find(lab: &Lab) -> Result<Vec<String>> {
    let mut leaks = Vec::new();
    let claims: Api<ResourceClaim> = Api::all(lab.api());
    for claim in api::request("list the claims", claims.list(&ListParams::default()))? {
        leaks.push(format!("ResourceClaim {}/{}", claim.namespace().unwrap_or_default(), claim.name_any()));
    }
    let pods: Api<Pod> = Api::all(lab.api());
    for pod in api::request("list the attachment pods", pods.list(&ListParams::default().labels(ATTACHMENT)))? {
        leaks.push(format!("attachment pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
    }
    for node in lab.nodes().iter().filter(|node| node.is_on()) {
        let seen = node.run(SCRIPT)?;
        let found = seen.lines().flat_map(|line| of_line(line).into_iter().chain(of_file(line)));
        leaks.extend(found.map(|leak| format!("{leak} on {}", node.name())));
    }
    Ok(leaks)
}

fn of_line(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        // hub, port, status (004 is free), speed, devid, socket, bus id; the first line is a heading.
        ["port", hub, port, status, _, devid, ..] if *hub != "hub" && *status != "004" => {
            Some(format!("vhci port {port} ({hub}) is in use (status {status}, device {devid})"))
        }
        ["memory", ..] => Some(format!("something was killed for want of memory: {line}")),
        ["cdi", file] => Some(format!("CDI file {file} is there")),
        ["host", bus, "2"] => Some(format!("{bus} has a session")),
        ["host", bus, ..] => Some(format!("{bus} is bound to usbip-host")),
        _ => None,
    }
}

fn of_file(line: &str) -> Vec<String> {
    let Some((name, text)) = line.strip_prefix("file ").and_then(|rest| rest.split_once(' ')) else {
        return Vec::new();
    };
    let Ok(content) = serde_json::from_str::<Value>(text) else { return vec![format!("{name}.json makes no sense")] };
    let of_field = |(file, field, what): &(&str, &str, &str)| {
        let entries = content.get(field).and_then(Value::as_object).filter(|_| *file == name);
        entries.into_iter().flatten().map(|(key, entry)| format!("{what} {key} {entry}")).collect::<Vec<_>>()
    };
    RECORDS.iter().flat_map(of_field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_have_written_down_is_a_leak_and_empty_files_are_none() {
        assert!(of_file(r#"file journal {"version":1,"claims":{}}"#).is_empty());
        assert!(of_file(r#"file records {"version":1,"names":{"stick":"1-1"},"ports":{},"exports":{}}"#).is_empty());
        assert_eq!(of_file(r#"file records { "ports": { "usb3-0": "u1" } }"#), [r#"recorded port usb3-0 "u1""#]);
        assert_eq!(of_file(r#"file journal {"claims":{"u1":{"name":"c"}}}"#), [r#"prepared claim u1 {"name":"c"}"#]);
        assert_eq!(of_file("file journal {\"cla"), ["journal.json makes no sense"]);
        assert!(of_file("port hs  0000 004 000 00000000 000000 0-0").is_empty());
    }

    #[test]
    fn free_ports_and_headings_are_no_leaks_and_used_ports_are() {
        assert_eq!(of_line("port hub port sta spd dev      sockfd local_busid"), None);
        assert_eq!(of_line("port hs  0000 004 000 00000000 000000 0-0"), None);
        assert_eq!(
            of_line("port ss  0008 006 005 00020002 000003 4-1").unwrap(),
            "vhci port 0008 (ss) is in use (status 006, device 00020002)"
        );
    }

    #[test]
    fn what_was_killed_for_want_of_memory_is_told() {
        let line = "memory [  376.10] Memory cgroup out of memory: Killed process 280 (patchbay) total-vm:292212kB";
        assert!(of_line(line).unwrap().ends_with("Killed process 280 (patchbay) total-vm:292212kB"));
    }

    #[test]
    fn a_bound_device_is_a_leak_with_and_without_a_session() {
        assert_eq!(of_line("host 2-1 1").unwrap(), "2-1 is bound to usbip-host");
        assert_eq!(of_line("host 2-1 2").unwrap(), "2-1 has a session");
    }
}
