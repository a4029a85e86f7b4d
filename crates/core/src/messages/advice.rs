//! What to do, as sentences and commands.

use serde::Serialize;

use crate::controller::why::Remedy;

/// Shows the agents.
pub const AGENTS: &str = "kubectl get pods -n patchbay -l app.kubernetes.io/component=agent -o wide";

/// Shows the controllers.
const CONTROLLERS: &str = "kubectl get pods -n patchbay -l app.kubernetes.io/component=controller";

/// A line of advice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// A sentence.
    Say(String),
    /// A command to type.
    Run(String),
}

/// A sentence.
pub fn say(text: impl Into<String>) -> Line {
    Line::Say(text.into())
}

/// A command.
pub fn run(text: impl Into<String>) -> Line {
    Line::Run(text.into())
}

/// What to do; nothing where what is wrong says it already.
pub fn lines(remedy: &Remedy) -> Vec<Line> {
    match remedy {
        Remedy::AsSaid => vec![],
        Remedy::Wait => vec![
            say("Nothing: it goes on by itself. If it does not within a minute, look at the controller:"),
            run(CONTROLLERS),
        ],
        Remedy::PlugIn { anywhere: true } => {
            vec![say("Plug it in, into any port of any node. What is there:"), run("kubectl usb list -A")]
        }
        Remedy::PlugIn { anywhere: false } => vec![say(
            "Plug it into the same port of the same node: without a serial number it is another device in any other one.",
        )],
        Remedy::HealNode(node) => vec![say("Bring the node back:"), run(format!("kubectl describe node {node}"))],
        Remedy::CheckAgent(node) => vec![
            say(format!("Look at Patchbay's agent on node {node}:")),
            run(format!("{AGENTS} --field-selector spec.nodeName={node}")),
        ],
        Remedy::CheckController => {
            vec![say("It takes a moment. If it stays so, look at Patchbay's controller:"), run(CONTROLLERS)]
        }
        Remedy::Assign { device, namespace: Some(namespace) } => {
            vec![say("An administrator assigns it:"), run(format!("kubectl usb assign {device} {namespace}"))]
        }
        Remedy::Assign { device, namespace: None } => {
            vec![say("An administrator assigns it:"), run(format!("kubectl usb assign {device} NAMESPACE"))]
        }
        Remedy::Reassign { device, namespace } => vec![
            say("An administrator takes it from there, and out of whatever has it:"),
            run(format!("kubectl usb assign {device} {namespace} --overwrite")),
        ],
        Remedy::MakeNamespace { namespace, device } => vec![
            say("Create the namespace, or assign the device to another one:"),
            run(format!("kubectl create namespace {namespace}")),
            run(format!("kubectl usb assign {device} NAMESPACE --overwrite")),
        ],
        Remedy::List { device, namespace, vm } => {
            let vm = vm.as_ref().map_or("VM", |vm| vm.as_str());
            vec![say("Attach it:"), run(format!("kubectl usb attach {device} {vm} -n {namespace}"))]
        }
        Remedy::Start { namespace, vm } => vec![
            say("Start the machine with a VirtualMachineOperation of type Start (docs/operations.md). It is now:"),
            run(format!("kubectl get virtualmachine {vm} -n {namespace}")),
        ],
        Remedy::Release { device, namespace, vm } => {
            vec![say("Wait, or take it from there:"), run(format!("kubectl usb detach {device} {vm} -n {namespace}"))]
        }
        Remedy::EndPod(subject) => vec![
            say(format!("Wait until {subject} has ended, or end it:")),
            run(match subject.split_once(' ').and_then(|(kind, name)| Some((kind, name.split_once('/')?))) {
                Some(("pod", (namespace, name))) => format!("kubectl delete pod {name} -n {namespace}"),
                Some((_, (namespace, name))) => format!("kubectl describe resourceclaim {name} -n {namespace}"),
                None => "kubectl get resourceclaims -A".to_owned(),
            }),
        ],
        Remedy::FreePort(_) => vec![say("Who has the ports:"), run("kubectl usb tree")],
        Remedy::DescribePod { namespace, pod } => {
            vec![say("Kubernetes says why:"), run(format!("kubectl describe pod {pod} -n {namespace}"))]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ended_and_a_claim_is_looked_at() {
        let of = |subject: &str| lines(&Remedy::EndPod(subject.to_owned())).pop();
        assert_eq!(of("pod blue/reader"), Some(run("kubectl delete pod reader -n blue")));
        assert_eq!(of("claim blue/mine"), Some(run("kubectl describe resourceclaim mine -n blue")));
    }

    #[test]
    fn where_a_name_is_not_known_somebody_puts_it_in() {
        let remedy = Remedy::List { device: "webcam".into(), namespace: "blue".into(), vm: None };
        assert_eq!(lines(&remedy).pop(), Some(run("kubectl usb attach webcam VM -n blue")));
        assert_eq!(lines(&Remedy::AsSaid), []);
    }
}
