//! The chart's objects without the chart: for a control plane on which no pods of ours run.

use anyhow::Result;
use patchbay_api::installation;

use crate::helm::chart;
use crate::kubectl::Kubectl;
use crate::policies;

/// What of the chart is installed: all but the pods that run our programs. In these templates nothing is filled in.
const MANIFESTS: &[&str] = &["crds.yaml", "rbac.yaml", "user-roles.yaml", "classes.yaml", "policies.yaml"];

/// Makes the namespace and applies them, and waits until the policies are in force.
///
/// # Errors
/// When the API server refuses one.
pub fn apply(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&["create", "namespace", installation::NAMESPACE])?;
    let templates = chart().join("templates");
    let files: Vec<String> = MANIFESTS.iter().map(|file| templates.join(file).display().to_string()).collect();
    let mut apply = vec!["apply", "--server-side"];
    apply.extend(files.iter().flat_map(|file| ["-f", file.as_str()]));
    kubectl.run(&apply)?;
    policies::wait_in_force(&kubectl.kubeconfig)
}
