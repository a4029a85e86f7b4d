//! What to do about a finding of the doctor, as sentences and commands.

use patchbay_api::installation::NAMESPACE;
use patchbay_core::doctor::Remedy;

use crate::advice::{Line, run, say};

/// What to do; nothing where what is wrong says it already.
pub(crate) fn lines(remedy: &Remedy) -> Vec<Line> {
    match remedy {
        Remedy::AsSaid => vec![],
        Remedy::Upgrade => vec![say("Upgrade Kubernetes: from 1.34 on Dynamic Resource Allocation is part of it.")],
        Remedy::ServeDra => vec![
            say(
                "Do not switch resource.k8s.io/v1 off: look at --runtime-config and --feature-gates of kube-apiserver.",
            ),
            run("kubectl api-resources --api-group=resource.k8s.io"),
        ],
        Remedy::Install => {
            vec![
                say("Install it again, with the chart of the version that runs (helm install, if nothing runs):"),
                run(upgrade("--force-conflicts")),
            ]
        }
        Remedy::Describe(kind @ "customresourcedefinition", name) => {
            vec![say("Kubernetes says why:"), run(format!("kubectl describe {kind} {name}"))]
        }
        Remedy::Describe(kind, name) => {
            vec![say("Kubernetes says why:"), run(format!("kubectl describe {kind} {name} -n {NAMESPACE}"))]
        }
        Remedy::Logs { pod, previous } => {
            let previous = if *previous { " --previous" } else { "" };
            vec![say("What it has written:"), run(format!("kubectl logs {pod} -n {NAMESPACE}{previous}"))]
        }
        Remedy::MoreMemory(name) => vec![
            say("Let it have more memory; no guest notices the restart:"),
            run(upgrade(&format!("--set {name}.resources.limits.memory=256Mi"))),
        ],
        Remedy::HealNode(node) => vec![say("Bring the node back:"), run(format!("kubectl describe node {node}"))],
        Remedy::ShowNode(node) => vec![
            say("Take the taint away, or add a toleration to the DaemonSet agent:"),
            run(format!("kubectl get node {node} -o jsonpath='{{.spec.taints}}'")),
        ],
        Remedy::LoadVhci(node) => vec![
            say(format!(
                "If they shall be, load the kernel module on {node}; where it is loaded, usbip port shows who has its ports:"
            )),
            run("modprobe vhci-hcd"),
        ],
        Remedy::LoadModule(node, module) => vec![
            say(format!(
                "Load the kernel module on {node}; docs/operations.md says which package of a distribution has it:"
            )),
            run(format!("modprobe {module}")),
        ],
        Remedy::ShowRequests(node) => vec![
            say(format!("The controller signs what the agent of {node} asks for; what has become of that:")),
            run("kubectl get certificatesigningrequests"),
            run(format!("kubectl logs deployment/controller -n {NAMESPACE}")),
        ],
        Remedy::OpenPort(from, to) => vec![say(format!(
            "Let {from} connect to {to} on the TCP port of the agents (agent.port of the chart, 3241 if it was not changed): \
             firewalls and security groups between the nodes are the first places to look."
        ))],
        Remedy::ShowPorts => vec![say("Who has the ports:"), run("kubectl usb tree")],
        Remedy::Why(device) => vec![run(format!("kubectl usb why {device}"))],
        Remedy::Show(kind, namespace, name) => {
            vec![say("Kubernetes says why:"), run(format!("kubectl describe {kind} {name} -n {namespace}"))]
        }
    }
}

/// The command that installs the chart again as it was, but for this.
fn upgrade(but: &str) -> String {
    format!("helm upgrade patchbay charts/patchbay -n {NAMESPACE} --reset-then-reuse-values {but}")
}
