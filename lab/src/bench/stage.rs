//! Where controller and agent run by themselves: a control plane with our manifests, and nodes that are objects.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use patchbay_api::installation::NAMESPACE;
use patchbay_usb::fixture::Fixture;

use super::http;
use crate::api;
use crate::audit::Request;
use crate::kubectl::Kubectl;
use crate::manifests;
use crate::object_node::{self, Heart};
use crate::parts::Parts;
use crate::plane::{Options, Plane};
use crate::process::{Child, Program, free_port};
use crate::wait::wait_for;

/// For what happens by itself.
const SOON: Duration = Duration::from_secs(30);

/// The control plane ends with this.
pub(super) struct Stage {
    plane: Plane,
    client: Client,
    program: PathBuf,
    folder: PathBuf,
    logs: PathBuf,
}

/// One of our programs.
struct Running {
    child: Child,
    log: PathBuf,
}

/// A controller.
pub(super) struct Controller {
    running: Running,
    /// Where it tells its numbers.
    pub(super) metrics: SocketAddr,
    /// When it was started.
    pub(super) started: Instant,
}

/// An agent, and the node on which it thinks it is.
pub(super) struct Agent {
    running: Running,
    _heart: Heart,
    health: SocketAddr,
    /// When it was started.
    pub(super) started: Instant,
}

impl Stage {
    /// Starts a control plane in a folder, with its logs in another. `grace` is for how long a node may say nothing before it is
    /// taken for lost; None: as long as on any cluster.
    ///
    /// # Errors
    /// When something does not start.
    pub(super) fn open(parts: &Parts, folder: &Path, logs: &Path, grace: Option<Duration>) -> Result<Self> {
        let plane = Plane::start(Options { logs: logs.to_owned(), grace, ..Options::alone(&parts.bin, folder)? })?;
        let log = logs.join("kubectl.log");
        manifests::apply(&Kubectl { program: parts.bin.join("kubectl"), kubeconfig: plane.admin(), log })?;
        Ok(Self {
            client: api::connect(&plane.admin())?,
            plane,
            program: parts.patchbay.clone(),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
        })
    }

    /// The administrator's client.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A folder that goes with the stage.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The API server's audit log.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.plane.audit_log()
    }

    /// The API server's port.
    pub(super) fn port(&self) -> u16 {
        self.plane.port()
    }

    /// Fails if a program of the control plane has ended.
    ///
    /// # Errors
    /// With the end of that program's log.
    pub(super) fn check(&mut self) -> Result<()> {
        self.plane.check()
    }

    /// Starts a controller and waits until it leads. Each has a name, and so a log, of its own.
    ///
    /// # Errors
    /// When it does not lead in time.
    pub(super) fn controller(&self, name: &str) -> Result<Controller> {
        let kubeconfig = self.folder.join(format!("{name}.kubeconfig"));
        fs::write(&kubeconfig, self.plane.account(NAMESPACE, "controller")?)?;
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let arguments = [
            "controller".to_owned(),
            "--image=none".to_owned(),
            format!("--namespace={NAMESPACE}"),
            format!("--identity={name}"),
            format!("--metrics={metrics}"),
        ];
        let started = Instant::now();
        let mut running = Running::start(&self.program, &kubeconfig, name, &arguments, &self.logs)?;
        running.says("this controller leads")?;
        Ok(Controller { running, metrics, started })
    }

    /// Makes the object of a node, and a token for its agent.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub(super) fn node(&self, name: &str) -> Result<Heart> {
        object_node::create(&Api::<Node>::all(self.client()), name)?;
        let heart = Heart::start(self.client(), name);
        let kubeconfig = object_node::account_on(&self.plane, self.client(), "agent", name)?;
        fs::write(self.kubeconfig(name), kubeconfig)?;
        Ok(heart)
    }

    /// The kubeconfig of the agent of a node.
    pub(super) fn kubeconfig(&self, node: &str) -> PathBuf {
        self.folder.join(format!("agent-{node}.kubeconfig"))
    }

    /// Starts the agent of a node that looks like this, with the options that the chart gives it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn agent(&self, node: &str, heart: Heart, made_up: &Fixture) -> Result<Agent> {
        let path = |name: &str| self.folder.join(node).join(name).display().to_string();
        let health = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let arguments = [
            "agent".to_owned(),
            format!("--node={node}"),
            format!("--root={}", made_up.root().path("").display()),
            format!("--kubelet={}", path("kubelet")),
            format!("--cdi={}", path("cdi")),
            format!("--state={}", path("state")),
            format!("--namespace={NAMESPACE}"),
            format!("--port={}", free_port()?),
            format!("--health-port={}", health.port()),
        ];
        let started = Instant::now();
        let running = Running::start(&self.program, &self.kubeconfig(node), node, &arguments, &self.logs)?;
        Ok(Agent { running, _heart: heart, health, started })
    }

    /// All that agents have asked of the API server, but for the first `known` requests.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub(super) fn asked(&self, known: usize) -> Result<Vec<Request>> {
        let text = fs::read_to_string(self.audit_log()).context("cannot read the audit log")?;
        let requests = text.lines().filter_map(Request::of_line);
        Ok(requests.filter(|request| request.account() == Some("agent")).skip(known).collect())
    }
}

impl Controller {
    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.running.child.pid()
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub(super) fn check(&mut self) -> Result<()> {
        self.running.child.check()
    }

    /// Asks it to end, and waits for it.
    ///
    /// # Errors
    /// When it complains or does not end.
    pub(super) fn stop(self) -> Result<()> {
        self.running.stop("controller")
    }
}

impl Agent {
    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.running.child.pid()
    }

    /// Waits until it has a certificate: then there is nothing left that it wants.
    ///
    /// # Errors
    /// When it has none in time.
    pub(super) fn has_certificate(&mut self) -> Result<()> {
        self.running.says("this node has a certificate")
    }

    /// Asks it what the kubelet's liveness probe asks.
    ///
    /// # Errors
    /// When it does not answer that it is well.
    pub(super) fn probe(&self) -> Result<()> {
        http::get(self.health, "/healthz").context("the agent's probe").map(drop)
    }

    /// Asks it to end, and waits for it.
    ///
    /// # Errors
    /// When it complains or does not end.
    pub(super) fn stop(self) -> Result<()> {
        self.running.stop("agent")
    }
}

impl Running {
    fn start(program: &Path, kubeconfig: &Path, name: &str, arguments: &[String], logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let program = Program::new(name, program, &log).args(arguments).env("KUBECONFIG", kubeconfig);
        // As the chart has it.
        let child = program.env("MALLOC_ARENA_MAX", "1").start()?;
        Ok(Self { child, log })
    }

    /// Waits for words in its log.
    fn says(&mut self, words: &str) -> Result<()> {
        let Self { child, log } = self;
        wait_for(&format!("{words:?} in {}", log.display()), SOON, || {
            let text = fs::read_to_string(&*log).unwrap_or_default();
            if text.contains(words) {
                return Ok(());
            }
            child.check().map_err(|error| format!("{error:#}"))?;
            Err(text.lines().last().unwrap_or("(nothing)").to_owned())
        })
    }

    fn stop(mut self, what: &str) -> Result<()> {
        let Self { child, log } = &mut self;
        child.terminate();
        let status =
            wait_for(&format!("the {what} to end"), SOON, || child.exited().ok_or_else(|| "it runs".to_owned()))?;
        ensure!(status.success(), "the {what} has ended with {status}; its log is {}", log.display());
        Ok(())
    }
}
