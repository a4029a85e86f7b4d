//! kubectl, as a person at the lab's terminal would use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::Command;

/// Time one command may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Server side; the lab is right about all fields.
const APPLY: [&str; 4] = ["apply", "--server-side", "--force-conflicts", "-f"];

/// kubectl with the administrator's identity.
#[derive(Debug, Clone)]
pub struct Kubectl {
    /// The program.
    pub program: PathBuf,
    /// Who it acts as.
    pub kubeconfig: PathBuf,
    /// What it complains about.
    pub log: PathBuf,
}

impl Kubectl {
    /// Runs a command and returns what it prints.
    ///
    /// # Errors
    /// When it fails; the error has what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.command().args(arguments).text()
    }

    /// Applies a file of objects.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, file: &Path) -> Result<()> {
        self.command().args(APPLY).args([file]).output().map(drop)
    }

    /// Applies objects given as YAML.
    ///
    /// # Errors
    /// As [`Kubectl::apply`].
    pub fn apply_yaml(&self, yaml: &str) -> Result<()> {
        self.apply(&self.file(yaml)?).with_context(|| format!("applying\n{yaml}"))
    }

    /// The same in a namespace, for objects that name none.
    ///
    /// # Errors
    /// As [`Kubectl::apply`].
    pub fn apply_yaml_in(&self, namespace: &str, yaml: &str) -> Result<()> {
        let command = self.command().args(["-n", namespace]).args(APPLY).args([self.file(yaml)?]);
        command.output().map(drop).with_context(|| format!("applying\n{yaml}"))
    }

    fn file(&self, yaml: &str) -> Result<PathBuf> {
        let folder = self.kubeconfig.parent().context("the kubeconfig has no folder")?;
        let file = folder.join(format!("apply-{:?}.yaml", std::thread::current().id()));
        std::fs::write(&file, yaml).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    fn command(&self) -> Command {
        Command::new(&self.program, &self.log).env("KUBECONFIG", &self.kubeconfig).deadline(DEADLINE)
    }
}
