//! Our programs as processes, each with the rights of its service account.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use patchbay_lab::process::{Child, Program};
use patchbay_lab::wait::wait_for;

use crate::stage::{SOON, Stage};

/// Words of the log of a controller that may write.
const LEADS: &str = "this controller leads";

/// A running program, killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: Log,
}

/// What one program has written into a log that earlier ones of its name may have begun.
struct Log {
    path: PathBuf,
    begin: usize,
}

impl Log {
    fn text(&self) -> String {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.get(self.begin..).unwrap_or_default().to_owned()
    }

    fn last_line(&self) -> String {
        self.text().lines().last().unwrap_or("(nothing)").to_owned()
    }
}

impl Running {
    /// Starts `patchbay <arguments>` as a service account of the namespace `patchbay`. `name` is for its log, which later
    /// programs of the name go on with.
    pub(crate) fn start(stage: &Stage, account: &str, name: &str, arguments: &[&str]) -> Self {
        Self::as_user(stage, &stage.account(account), name, arguments)
    }

    /// Starts an agent as the pod of a node that its service account has there.
    pub(crate) fn agent(stage: &Stage, node: &str, arguments: &[&str]) -> Self {
        Self::as_user(stage, &stage.agent_of(node), "agent", arguments)
    }

    /// The same as the user of a kubeconfig.
    pub(crate) fn as_user(stage: &Stage, kubeconfig: &Path, name: &str, arguments: &[&str]) -> Self {
        let path = stage.logs().join(format!("{name}.log"));
        let begin = std::fs::read_to_string(&path).unwrap_or_default().len();
        let program = Program::new(name, &stage.parts().patchbay, &path).args(arguments).env("KUBECONFIG", kubeconfig);
        Self { child: program.start().unwrap(), log: Log { path, begin } }
    }

    /// Starts a controller.
    pub(crate) fn controller(stage: &Stage, identity: &str) -> Self {
        Self::start(stage, "controller", identity, &controller(identity))
    }

    /// Starts a controller that reaches the API server as `kubeconfig` says, and waits until it leads.
    pub(crate) fn leader_with(stage: &Stage, kubeconfig: &Path, identity: &str) -> Self {
        let mut controller = Self::as_user(stage, kubeconfig, identity, &controller(identity));
        controller.leads(SOON);
        controller
    }

    /// Starts a controller and waits until it leads.
    pub(crate) fn leader(stage: &Stage, identity: &str) -> Self {
        Self::leader_with(stage, &stage.account("controller"), identity)
    }

    /// Waits until it leads.
    pub(crate) fn leads(&mut self, deadline: Duration) {
        self.says(LEADS, deadline);
    }

    /// Waits for words in its log.
    pub(crate) fn says(&mut self, words: &str, deadline: Duration) {
        let (child, log) = (&mut self.child, &self.log);
        wait_for(&format!("{words:?} in {}", log.path.display()), deadline, || {
            if log.text().contains(words) {
                return Ok(());
            }
            child.check().map_err(|error| format!("{error:#}"))?;
            Err(log.last_line())
        })
        .unwrap();
    }

    /// Whether its log has these words.
    pub(crate) fn has_said(&self, words: &str) -> bool {
        self.log.text().contains(words)
    }

    /// The lines of its log about what somebody should look at.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let text = self.log.text();
        let odd = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ") || line.starts_with("patchbay:");
        text.lines().filter(odd).map(str::to_owned).collect()
    }

    /// The process, for faults.
    pub(crate) fn process(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the program to end", deadline, || child.exited().ok_or_else(|| "it runs".to_owned())).unwrap()
    }

    /// Asks it to end, which it does without complaints.
    pub(crate) fn stop(&mut self) {
        self.child.terminate();
        let status = self.ended(Duration::from_secs(10));
        assert!(status.success(), "{status}: {}", self.log.last_line());
    }
}

fn controller(identity: &str) -> [&str; 5] {
    ["controller", "--image=none", "--namespace=patchbay", "--identity", identity]
}
