//! How the product comes into the lab: with the repository's own chart, as everywhere.

use std::path::Path;

use anyhow::{Context, Result};

use crate::helm::{Helm, chart};
use crate::policies;

/// The tag of the images that the nodes of a lab have.
pub const TAG: &str = "lab";

/// Scenarios choose on which node the controller runs, and read what the programs tell in numbers.
const VALUES: [&str; 2] = ["controller.replicas=1", "metrics.enabled=true"];

/// The repository this program was built from.
pub fn repository() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().unwrap_or(lab)
}

/// Installs the chart, and waits until its policies are in force.
///
/// # Errors
/// When Helm or the API server refuses something in it.
pub fn install(helm: &Helm) -> Result<()> {
    helm.install(&chart(), TAG, &VALUES).context("cannot install the chart")?;
    policies::wait_in_force(&helm.kubeconfig)
}
