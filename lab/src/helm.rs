//! Helm, as an administrator would use it, and the chart of this repository.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::command::Command;
use crate::install::repository;

/// The name and the namespace of the one release.
pub const RELEASE: &str = "patchbay";

/// Time one command may take: what waits for pods waits for them to end, too.
const DEADLINE: Duration = Duration::from_secs(120);

/// Helm with the administrator's identity.
#[derive(Debug, Clone)]
pub struct Helm {
    /// The program.
    pub program: PathBuf,
    /// Who it acts as.
    pub kubeconfig: PathBuf,
    /// What it complains about.
    pub log: PathBuf,
}

impl Helm {
    /// Runs a command on the release's namespace and returns what it prints.
    ///
    /// # Errors
    /// When it fails; the error has what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let command = Command::new(&self.program, &self.log).env("KUBECONFIG", &self.kubeconfig);
        command.args(["--namespace", RELEASE]).args(arguments).deadline(DEADLINE).text()
    }

    /// Installs a chart, or brings what is installed to what it says, with the image that the nodes of the lab have under `tag`
    /// and with these values, written as `path=value`.
    ///
    /// # Errors
    /// When the chart makes no sense, or the API server refuses something in it.
    pub fn install(&self, chart: &Path, tag: &str, values: &[&str]) -> Result<()> {
        let (chart, tag) = (chart.display().to_string(), format!("image.tag={tag}"));
        let mut arguments = vec!["upgrade", "--install", "--create-namespace", RELEASE, &chart];
        let image = ["image.repository=localhost/patchbay/patchbay", "image.pullPolicy=Never", &tag];
        arguments.extend(image.iter().chain(values).flat_map(|value| ["--set", *value]));
        self.run(&arguments).map(drop)
    }
}

/// The chart of this repository.
pub fn chart() -> PathBuf {
    repository().join("charts/patchbay")
}
