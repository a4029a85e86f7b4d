//! The lab as scenarios see it: a control plane, nodes, and the vocabulary to do things to them.
//!
//! A [`Lab`] lives inside the lab's namespaces (see [`crate::namespace`]) and ends with the process.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::cache::Cache;
use crate::command::Command;
use crate::guest::Guest;
use crate::helm::Helm;
use crate::kubectl::Kubectl;
use crate::node::{Hardware, Node};
use crate::parts::Parts;
use crate::plane::{Options, Plane};
use crate::process::Frozen;
use crate::progress::{say, step};
use crate::uml::{Disk, Machine};
use crate::wait::wait_for;
use crate::{api, bake, install, kubelet, leaks, logs, namespace, network, stock, wait};

/// Time for a command of a person at the terminal, who may wait for something with it.
const TYPED: Duration = Duration::from_secs(180);

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// User-Mode Linux: fast, with devices of any kind
    Uml,
    /// Debian's own kernel in QEMU: as users have it, and five times slower
    Stock,
}

/// What kind of lab to start.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// What its nodes are.
    pub kind: Kind,
    /// What the first node is.
    pub first: Kind,
    /// Number of nodes; they are called `node-1`, `node-2`, ...
    pub nodes: u8,
    /// Memory of each node in MiB.
    pub memory: u32,
    /// USB ports of each node.
    pub usb_ports: u8,
    /// Folder for the logs of this lab.
    pub logs: PathBuf,
}

impl LabOptions {
    /// Two nodes with four USB ports each; logs in the newest folder under the cache.
    ///
    /// # Errors
    /// When the folder for logs cannot be made.
    pub fn new(cache: &Cache) -> Result<Self> {
        let (kind, first, logs) = (Kind::Uml, Kind::Uml, logs::new_folder(cache)?);
        Ok(Self { kind, first, nodes: 2, memory: 1536, usb_ports: 4, logs })
    }

    fn kind_of(&self, number: u8) -> Kind {
        if number == 1 { self.first } else { self.kind }
    }
}

/// A running cluster.
pub struct Lab {
    // Nodes before the plane: they are dropped first, and have nothing to complain about.
    nodes: Vec<Node>,
    plane: Plane,
    client: kube::Client,
    kubectl: Kubectl,
    options: LabOptions,
    parts: Parts,
    started: Duration,
}

impl Lab {
    /// Starts the control plane and the nodes, and waits until all nodes are Ready.
    ///
    /// # Errors
    /// When any of it does not come up. All logs are in [`LabOptions::logs`].
    pub fn start(cache: &Cache, parts: Parts, options: LabOptions) -> Result<Self> {
        ensure!(namespace::is_inside(), "a lab runs in namespaces of its own: start it through the program `lab`");
        let image = bake::data_disk(cache, &parts)?;
        let slow = [options.first, options.kind].contains(&Kind::Stock);
        wait::be_patient(if slow { stock::SLOWNESS } else { 1 });
        let start = Instant::now();
        // Nothing of an earlier lab of this process.
        let state = namespace::state();
        std::fs::remove_dir_all(&state)
            .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        let switch = Arc::new(network::start(options.nodes)?);
        let nodes: Vec<Node> = (1..=options.nodes)
            .map(|number| {
                let hardware = match options.kind_of(number) {
                    Kind::Uml => Hardware::Uml,
                    Kind::Stock => Hardware::Stock { modules: parts.stock_modules.clone() },
                };
                Node::new(hardware, machine(number, &parts, &image, &state, &options), Arc::clone(&switch))
            })
            .collect();
        let plane = step("starting the control plane and booting the nodes", || {
            std::thread::scope(|scope| {
                let nodes: Vec<_> = nodes.iter().map(|node| scope.spawn(|| prepare(node, &parts))).collect();
                let plane = Plane::start(Options::of_the_lab(&parts.bin, &state, &options.logs));
                nodes.into_iter().try_for_each(joined)?;
                plane
            })
        })?;
        let client = api::connect(&plane.admin())?;
        let kubectl = Kubectl {
            program: parts.bin.join("kubectl"),
            kubeconfig: plane.admin(),
            log: options.logs.join("kubectl.log"),
        };
        let mut lab = Self { nodes, plane, client, kubectl, options, parts, started: Duration::ZERO };
        let ready = step("waiting until the nodes are Ready", || {
            std::thread::scope(|scope| {
                let nodes: Vec<_> = lab.nodes.iter().map(|node| scope.spawn(|| lab.join(node))).collect();
                nodes.into_iter().try_for_each(joined)
            })
        });
        if let Err(error) = ready {
            lab.collect_logs();
            return Err(error);
        }
        lab.started = start.elapsed();
        Ok(lab)
    }

    /// How long it took from nothing to all nodes Ready.
    pub fn started(&self) -> Duration {
        self.started
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.nodes.iter().map(Node::name).collect();
            anyhow!("no node {name}: there are {}", names.join(", "))
        })
    }

    /// The control plane.
    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    /// What the lab is made of: programs, images.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Folder of the logs.
    pub fn logs(&self) -> &Path {
        &self.options.logs
    }

    /// A client with the administrator's identity.
    pub fn api(&self) -> kube::Client {
        self.client.clone()
    }

    /// Runs kubectl and returns what it prints.
    ///
    /// # Errors
    /// When it fails; the error has what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(arguments)
    }

    /// What a person at the lab's terminal reads who types a command of the shell in this folder: kubectl and our plugin of it
    /// are there. Complaints are shown when the command fails.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in three minutes.
    pub fn typed(&self, command: &str, folder: &Path) -> Result<String> {
        let line = format!("{{ {command}; }} 2>said || cat said");
        let plugin = self.parts.kubectl_usb.parent().context("the plugin is in a folder")?;
        let path = [&self.parts.bin, plugin, Path::new("/usr/bin"), Path::new("/bin")];
        Command::new("sh", &self.kubectl.log)
            .args(["-c", &line])
            .env("KUBECONFIG", &self.kubectl.kubeconfig)
            .env("PATH", std::env::join_paths(path)?)
            .folder(folder)
            .deadline(TYPED)
            .text()
    }

    /// Applies objects given as YAML.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply_yaml(&self, yaml: &str) -> Result<()> {
        self.kubectl.apply_yaml(yaml)
    }

    /// Applies objects given as YAML in a namespace.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply_yaml_in(&self, namespace: &str, yaml: &str) -> Result<()> {
        self.kubectl.apply_yaml_in(namespace, yaml)
    }

    /// Helm with the administrator's identity.
    pub fn helm(&self) -> Helm {
        Helm {
            program: self.parts.bin.join("helm"),
            kubeconfig: self.plane.admin(),
            log: self.options.logs.join("helm.log"),
        }
    }

    /// Installs the product with the repository's chart.
    ///
    /// # Errors
    /// When the chart makes no sense, or the API server refuses something in it.
    pub fn install(&self) -> Result<()> {
        install::install(&self.helm())
    }

    /// Waits until `look` gives a value; its `Err` says what it saw instead.
    ///
    /// # Errors
    /// After the deadline: what was awaited and what was seen last.
    pub fn wait_for<T>(&self, what: &str, deadline: Duration, look: impl FnMut() -> Result<T, String>) -> Result<T> {
        wait_for(what, deadline, look)
    }

    /// The test guest in a virtual machine: what it prints from now on and has printed.
    pub fn guest(&self, namespace: &str, vm: &str) -> Guest {
        Guest::follow(self.api(), namespace, vm)
    }

    /// Kills every process on a node whose first argument is `argument`: `agent` for `patchbay agent`.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, node: &str, argument: &str) -> Result<()> {
        self.node(node)?.kill(argument)
    }

    /// Pulls a node's power plug.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn power_off(&self, node: &str) -> Result<()> {
        self.node(node)?.power_off();
        Ok(())
    }

    /// Switches a node on again and waits until it is Ready.
    ///
    /// # Errors
    /// When it is on, or does not come up.
    pub fn boot(&self, node: &str) -> Result<()> {
        let node = self.node(node)?;
        boot(node)?;
        self.join(node)
    }

    /// Kills the kubelet of a node.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill_kubelet(&self, node: &str) -> Result<()> {
        kubelet::kill(self.node(node)?)
    }

    /// Starts the kubelet of a node again and waits until the agent is registered with it.
    ///
    /// # Errors
    /// When it runs, or does not find the agent in time.
    pub fn start_kubelet(&self, node: &str) -> Result<()> {
        kubelet::start_again(self.node(node)?, &self.plane)
    }

    /// Stops the API server in its tracks, for as long as the value lives: connections stay open, and nobody answers.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn freeze_api(&self) -> Result<Frozen> {
        let server = self.plane.pids().get(1).copied().context("the control plane is stopped")?;
        Frozen::new(server)
    }

    /// Fails if anything is left on the nodes or in the API that an attachment should have taken away with it.
    ///
    /// # Errors
    /// When something is still there after `deadline`: what and where.
    pub fn assert_no_leaks(&self, deadline: Duration) -> Result<()> {
        leaks::assert_none(self, deadline)
    }

    /// Puts the logs of everything into [`Lab::logs`] and says so.
    pub fn collect_logs(&self) {
        // A dead node explains whatever else went wrong.
        for error in self.nodes.iter().filter_map(|node| node.check().err()) {
            say(&format!("{error:#}"));
        }
        logs::collect(self);
        say(&format!("the logs of all parts are in {}", self.options.logs.display()));
    }

    fn join(&self, node: &Node) -> Result<()> {
        kubelet::start(node, &self.plane)?;
        kubelet::wait_ready(node, &self.client)
    }
}

fn boot(node: &Node) -> Result<()> {
    node.boot()?;
    kubelet::start_containerd(node)
}

/// The first boot: the images that are not on the disk yet come in.
fn prepare(node: &Node, parts: &Parts) -> Result<()> {
    boot(node)?;
    parts.images.iter().filter(|image| !image.stable).try_for_each(|image| node.import(image))
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the lab panicked"))?
}

fn machine(number: u8, parts: &Parts, image: &Path, state: &Path, options: &LabOptions) -> Machine {
    let name = format!("node-{number}");
    let (linux, initramfs) = match options.kind_of(number) {
        Kind::Uml => (&parts.linux, &parts.initramfs),
        Kind::Stock => (&parts.vmlinux, &parts.stock_initramfs),
    };
    Machine {
        number,
        linux: linux.clone(),
        initramfs: initramfs.clone(),
        root: parts.root.clone(),
        data: Disk::Cow { changes: state.join(format!("{name}.cow")), image: image.to_owned() },
        memory: options.memory,
        share: state.join("share").join(&name),
        state: state.join("uml"),
        console: options.logs.join(format!("{name}.console.log")),
        arguments: vec![format!("dummy_hcd.num={}", options.usb_ports), "dummy_hcd.is_super_speed=1".into()],
        name,
    }
}
