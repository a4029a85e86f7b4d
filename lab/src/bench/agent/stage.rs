//! Where the agent runs: a control plane with our manifests and a controller, and nodes that are objects.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use patchbay_api::installation::NAMESPACE;
use patchbay_usb::fixture::Fixture;

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
/// For an answer to the kubelet's probe.
const PROBE: Duration = Duration::from_secs(5);

/// All of it ends with this.
pub(super) struct Stage {
    _controller: Running,
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

/// An agent, and the node on which it thinks it is.
pub(super) struct Agent {
    running: Running,
    _heart: Heart,
    health: SocketAddr,
    /// When it was started.
    pub(super) started: Instant,
}

impl Stage {
    /// Starts it in a folder, with its logs in another, and waits until the controller leads.
    ///
    /// # Errors
    /// When something does not start.
    pub(super) fn open(parts: &Parts, folder: &Path, logs: &Path) -> Result<Self> {
        let plane = Plane::start(Options { logs: logs.to_owned(), ..Options::alone(&parts.bin, folder)? })?;
        let log = logs.join("kubectl.log");
        manifests::apply(&Kubectl { program: parts.bin.join("kubectl"), kubeconfig: plane.admin(), log })?;
        let client = api::connect(&plane.admin())?;
        let kubeconfig = folder.join("controller.kubeconfig");
        fs::write(&kubeconfig, plane.account(NAMESPACE, "controller")?)?;
        let arguments = ["controller", "--image=none", "--namespace=patchbay", "--identity=controller-1"];
        let mut controller =
            Running::start(&parts.patchbay, &kubeconfig, "controller", &arguments.map(str::to_owned), logs)?;
        controller.says("this controller leads")?;
        Ok(Self {
            _controller: controller,
            plane,
            client,
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
        let text = fs::read_to_string(self.plane.audit_log()).context("cannot read the audit log")?;
        let requests = text.lines().filter_map(Request::of_line);
        Ok(requests.filter(|request| request.account() == Some("agent")).skip(known).collect())
    }

    fn kubeconfig(&self, node: &str) -> PathBuf {
        self.folder.join(format!("agent-{node}.kubeconfig"))
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
        let mut stream = TcpStream::connect_timeout(&self.health, PROBE).context("the agent's probe")?;
        stream.set_read_timeout(Some(PROBE))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("the agent's probe")?;
        let line = answer.lines().next().unwrap_or_default();
        ensure!(line.contains(" 200 "), "the agent is not well: {answer}");
        Ok(())
    }

    /// Asks it to end, and waits for it.
    ///
    /// # Errors
    /// When it complains or does not end.
    pub(super) fn stop(mut self) -> Result<()> {
        let child = &mut self.running.child;
        child.terminate();
        let status = wait_for("the agent to end", SOON, || child.exited().ok_or_else(|| "it runs".to_owned()))?;
        ensure!(status.success(), "the agent has ended with {status}; its log is {}", self.running.log.display());
        Ok(())
    }
}

impl Running {
    fn start(program: &Path, kubeconfig: &Path, name: &str, arguments: &[String], logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let child = Program::new(name, program, &log).args(arguments).env("KUBECONFIG", kubeconfig).start()?;
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
}
