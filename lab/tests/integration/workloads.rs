//! The Deployment and the DaemonSet of our programs, as they are installed. Their pods run nothing: the programs run beside
//! them, and the test says in the kubelets' place how the pods are.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use patchbay_api::installation::{COMPONENT, NAMESPACE};
use patchbay_lab::api::request;
use patchbay_lab::helm;
use serde_json::{Value, json};

use crate::stage::{Stage, eventually, list};

/// As many as the chart has, unless it is told otherwise.
const CONTROLLERS: usize = 2;

/// Makes both.
pub(crate) fn make(stage: &Stage) {
    let (name, chart) = (helm::RELEASE, helm::chart().display().to_string());
    let only = ["--show-only", "templates/controller.yaml", "--show-only", "templates/agent.yaml"];
    let arguments = ["template", name, &chart, "--set", "image.repository=none"];
    stage.apply_yaml(&stage.helm().run(&[&arguments[..], &only].concat()).unwrap());
}

/// Installs both, and waits until they have ready controllers and a ready agent on each of so many nodes.
pub(crate) fn install(stage: &Stage, nodes: usize) {
    make(stage);
    for (component, count) in [("controller", CONTROLLERS), ("agent", nodes)] {
        let pods = eventually(&format!("{count} pods of {component}s"), || {
            let pods = pods(stage, component)?;
            if pods.len() == count { Ok(pods) } else { Err(format!("{} pods", pods.len())) }
        });
        for pod in pods {
            say(stage, &pod, true, &json!({"restartCount": 0, "state": {"running": {}}}));
        }
    }
    eventually("available controllers", || {
        let deployment =
            crate::stage::get(&stage.within::<k8s_openapi::api::apps::v1::Deployment>(NAMESPACE), "controller")?;
        let available = deployment.status.and_then(|status| status.available_replicas);
        if available == i32::try_from(CONTROLLERS).ok() { Ok(()) } else { Err(format!("{available:?} are available")) }
    });
}

/// The pod of the agent of a node.
pub(crate) fn agent_on(stage: &Stage, node: &str) -> Pod {
    let pods = pods(stage, "agent").unwrap();
    let here = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
    pods.into_iter().find(here).unwrap()
}

fn pods(stage: &Stage, component: &str) -> Result<Vec<Pod>, String> {
    let of = format!("{COMPONENT}={component}");
    let pods = list(&stage.within::<Pod>(NAMESPACE), &ListParams::default().labels(&of))?;
    let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    Ok(pods.into_iter().filter(placed).collect())
}

/// Says how a pod is, as its kubelet would.
pub(crate) fn say(stage: &Stage, pod: &Pod, ready: bool, container: &Value) {
    let name = pod.spec.as_ref().unwrap().containers[0].name.clone();
    let mut status = json!({"name": name, "image": "none", "imageID": "", "ready": ready});
    status.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let now = Timestamp::now();
    let condition =
        |kind: &str| json!({"type": kind, "status": if ready { "True" } else { "False" }, "lastTransitionTime": now});
    let status = json!({"status": {
        "phase": "Running", "containerStatuses": [status],
        "conditions": [condition("Ready"), condition("ContainersReady")],
    }});
    let pods = stage.within::<Pod>(NAMESPACE);
    let patch = Patch::Strategic(status);
    request("say how it is", pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch)).unwrap();
}
