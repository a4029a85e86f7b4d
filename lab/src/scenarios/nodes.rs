//! The lab itself: nodes, pods, logs.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::Lab;

const SOON: Duration = Duration::from_secs(60);
const TOOL: &str = "localhost/patchbay/tool:lab";

/// All of it is the Kubernetes that was asked for. A pod runs on each node, reaches the API server by the service's address,
/// its log can be read, and it goes away.
pub(super) fn become_ready_and_run_a_pod(lab: &Lab) -> Result<()> {
    let kubernetes = &lab.parts().kubernetes;
    let programs = lab.kubectl(&["version"])?;
    let said = |program: &str| programs.lines().any(|line| line == format!("{program} Version: {kubernetes}"));
    ensure!(said("Client") && said("Server"), "not all of these are {kubernetes}:\n{programs}");
    let kubelets = lab.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.kubeletVersion}"])?;
    ensure!(kubelets.split(' ').all(|kubelet| kubelet == kubernetes), "kubelets are {kubelets}, not {kubernetes}");

    for node in lab.nodes() {
        lab.apply_yaml(&pod(node.name()))?;
    }
    for node in lab.nodes() {
        let name = format!("hello-{}", node.name());
        lab.wait_for(&format!("the log of {name}"), SOON, || {
            let log = lab.kubectl(&["logs", "-n", "lab-pods", &name]).map_err(|error| format!("{error:#}"))?;
            let wanted = format!("hello from {}", node.name());
            if log.contains(&wanted) && log.contains("the API server answers") { Ok(()) } else { Err(log) }
        })?;
    }
    lab.kubectl(&["delete", "namespace", "lab-pods", "--wait", "--timeout=60s"])?;
    Ok(())
}

/// The tools that other scenarios trust: what they kill is dead, what they cut is cut, and what is left is found.
pub(super) fn tools_do_what_they_say(lab: &Lab) -> Result<()> {
    let (one, two) = (lab.node("node-1")?, lab.node("node-2")?);

    one.run("sleep 86399 </dev/null >/dev/null 2>&1 &")?;
    ensure!(one.runs("86399")?, "a process that runs is not found");
    one.kill("86399")?;
    ensure!(one.kill("86399").is_err(), "a process that was killed is found again");

    let ping = format!("ping -c 1 -W 1 {}", two.ip());
    let reaches = || Ok::<_, anyhow::Error>(one.sh(&ping, SOON)?.code == 0);
    ensure!(reaches()?, "{} does not reach {}", one.name(), two.name());
    one.cut_from(two);
    ensure!(!reaches()?, "a frame passed a cut");
    one.heal_from(two);
    ensure!(reaches()?, "a mended cable does not work");

    let error = one.sh("echo before; sleep 1000", Duration::from_secs(1)).err().map(|error| format!("{error:#}"));
    ensure!(error.is_some_and(|error| error.contains("before")), "a command without end came to an end");
    ensure!(one.run("echo after")? == "after", "the channel did not survive a command without end");

    let long = "x".repeat(100_000);
    ensure!(one.run(&format!("printf %s {long} | wc -c"))?.trim() == "100000", "a long script was cut short");
    one.put(&[0, 159, 10, 255], "/run/lab test")?;
    ensure!(one.run("hexdump -C '/run/lab test' | head -n 1")?.contains("00 9f 0a ff"), "a file came out different");

    lab.apply_yaml(LEAK)?;
    let leaks = lab.assert_no_leaks(Duration::ZERO).err().map(|error| format!("{error:#}"));
    lab.kubectl(&["delete", "resourceclaim", "left-over"])?;
    ensure!(
        leaks.is_some_and(|leaks| leaks.contains("ResourceClaim default/left-over")),
        "a claim that was left was not found"
    );
    Ok(())
}

const LEAK: &str = "apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: left-over, namespace: default}
spec: {devices: {requests: [{name: nothing, exactly: {deviceClassName: nothing}}]}}
";

fn pod(node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: lab-pods}}
---
apiVersion: v1
kind: Pod
metadata: {{name: hello-{node}, namespace: lab-pods}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: hello
    image: {TOOL}
    imagePullPolicy: Never
    env: [{{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
    command: [sh, -c]
    args:
    - |
      trap 'exit 0' TERM
      echo hello from $NODE
      nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo the API server answers
      sleep 1000000 & wait
"
    )
}
