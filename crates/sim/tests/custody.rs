//! Devices that are kept from the drivers of their node while nobody uses them: never from under a guest or pod, always when
//! everybody is at rest.

#![expect(clippy::panic, reason = "a story is told by failing with it")]

use patchbay_core::names::{DeviceName, Namespace, NodeName, PodName, VmName};
use patchbay_sim::Scenario;
use patchbay_sim::fault::FaultKind;
use patchbay_sim::user::Edit;

mod holds;

use holds::holds;

fn assign(namespace: Option<&str>) -> Edit {
    Edit::Assign(DeviceName::new("stick"), namespace.map(Namespace::new))
}

fn edits() -> Vec<Edit> {
    let (blue, vm, stick) = (Namespace::new("blue"), VmName::new("vm-a"), DeviceName::new("stick"));
    vec![
        assign(None),
        assign(Some("blue")),
        assign(Some("green")),
        Edit::List(blue.clone(), vm.clone(), stick.clone()),
        Edit::Unlist(blue.clone(), vm.clone(), stick),
        Edit::Restart(blue.clone(), vm.clone()),
        Edit::Delete(blue, vm),
    ]
}

/// A stick in node-1, for a machine on `node`.
fn machine(node: &str) -> Scenario {
    Scenario::new().device("stick", "node-1").assigned("stick", "blue").vm("blue", "vm-a", node, &["stick"]).custody()
}

#[test]
fn a_device_is_withheld_before_and_after_a_machine_has_it() {
    for node in ["node-1", "node-2"] {
        holds(&format!("{node}: cold start"), 50, &machine(node));
        holds(&format!("{node}: any edit"), 500, &machine(node).settled().edits(1, edits()));
        holds(&format!("{node}: two edits"), 500, &machine(node).settled().prompt().edits(2, edits()));
        holds(&format!("{node}: any accident"), 500, &machine(node).settled().faults(1, FaultKind::ALL));
        for kind in FaultKind::ALL {
            // A cable that moves and an edit make too many worlds of a session.
            let edits = if (node, kind) == ("node-2", FaultKind::Cable) { Vec::new() } else { edits() };
            let scenario = machine(node).settled().prompt().edits(1, edits).faults(1, [kind]);
            holds(&format!("{node}: an edit and {kind:?}"), 30, &scenario);
        }
    }
}

#[test]
fn a_device_is_withheld_before_and_after_a_pod_has_it() {
    let (blue, reader) = (Namespace::new("blue"), PodName::new("reader"));
    for node in ["node-1", "node-2"] {
        let made = Edit::MakePod(blue.clone(), reader.clone(), DeviceName::new("stick"), Some(NodeName::new(node)));
        let edits = vec![
            made,
            Edit::EndPod(blue.clone(), reader.clone()),
            Edit::DeletePod(blue.clone(), reader.clone()),
            assign(None),
        ];
        let start = || Scenario::new().device("stick", "node-1").assigned("stick", "blue").pods().custody().settled();
        holds(&format!("a pod on {node}: two edits"), 100, &start().edits(2, edits.clone()));
        holds(&format!("a pod on {node}: three edits"), 100, &start().prompt().edits(3, edits.clone()));
        for kind in FaultKind::ALL {
            let scenario = start().prompt().edits(2, edits.clone()).faults(1, [kind]);
            holds(&format!("a pod on {node}: two edits and {kind:?}"), 20, &scenario);
        }
    }
}
