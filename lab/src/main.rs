//! `lab`: a real Kubernetes cluster on one machine, in namespaces of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser, Subcommand};
use patchbay_lab::cache::Cache;
use patchbay_lab::cluster::{Kind, Lab, LabOptions};
use patchbay_lab::control::{Request, ask, serve};
use patchbay_lab::keeper::Keeper;
use patchbay_lab::namespace::{self, Place};
use patchbay_lab::parts::{self, Parts, Release};
use patchbay_lab::progress::say;
use patchbay_lab::scenarios::{Needs, Scenario};
use patchbay_lab::walk::{self, Pace};
use patchbay_lab::{bench, demo, logs, product, rights, scenarios};

/// A real Kubernetes cluster on one machine: control plane, and nodes with kubelet, containerd and kernel USB/IP.
///
/// Everything runs in network, process and mount namespaces of its own and leaves nothing behind: Ctrl-C (or killing the
/// process) ends all of it. What is built once is kept under $PATCHBAY_CACHE (default ~/.cache/patchbay).
#[derive(Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the packages that tests and lab need from this machine's distribution
    Packages,
    /// Build everything the lab is made of (the first time this takes a while) and tell where it is
    Parts {
        /// Which Kubernetes
        #[arg(long, value_enum, default_value_t)]
        kubernetes: Release,
    },
    /// Write images for any cluster, as OCI archives: of Patchbay, of the engine, and of a guest to try with
    Images {
        /// The folder to write them to
        folder: PathBuf,
    },
    /// Start a lab in the background and return when its nodes are Ready
    Up(Size),
    /// End the lab in the background
    Down,
    /// Run a command where the lab's kubectl and API server are: lab run -- kubectl get nodes
    Run {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Plug a USB stick into a node of the lab in the background; a stick of the same name is always the same
    Plug {
        /// The node, like node-1
        node: String,
        /// The stick's name, like blue
        stick: String,
    },
    /// Pull a USB stick out of a node of the lab in the background
    Unplug {
        /// The node
        node: String,
        /// The stick's name
        stick: String,
    },
    /// Run a shell script on a node of the lab in the background
    Sh {
        /// The node
        node: String,
        /// The script
        script: String,
    },
    /// Pull the power plug of a node of the lab in the background
    PowerOff {
        /// The node
        node: String,
    },
    /// Cut the cable of a node of the lab in the background
    Cut {
        /// The node
        node: String,
    },
    /// Mend the cable of a node of the lab in the background
    Heal {
        /// The node
        node: String,
    },
    /// Switch a node of the lab in the background on again
    Boot {
        /// The node
        node: String,
    },
    /// Show it: a stick plugged into one node is read inside a virtual machine on another
    Demo(Size),
    /// Run the scenarios on a whole cluster
    Test {
        /// Only scenarios with one of these in their name
        words: Vec<String>,
        /// How often to run them
        #[arg(long, default_value_t = 1)]
        times: u32,
        #[command(flatten)]
        size: Size,
    },
    /// Walk through all that happens in a cluster, step by step, and compare with a model after each
    Walk {
        /// The same one, the same steps; one of the clock's if none is given
        #[arg(long)]
        seed: Option<u64>,
        /// How far
        #[arg(long, default_value_t = 500)]
        steps: u32,
        /// Without what takes a minute each: nodes that lose their power, machines that move
        #[arg(long)]
        quick: bool,
        #[command(flatten)]
        size: Size,
    },
    /// Measure, and print the table
    Bench(Size),
    /// Measure the agent by itself, on nodes that are made up, and print the table
    BenchAgent {
        /// With which Kubernetes
        #[arg(long, value_enum, default_value_t)]
        kubernetes: Release,
    },
    /// Measure the control plane of a large cluster, and print the table
    ///
    /// Control plane, controller and one agent are the real ones; the other nodes, with their kubelets and agents, are played by
    /// this program. The fleet as it is takes half an hour and some gigabytes of memory. One to try with, in some minutes:
    /// lab fleet --nodes 20 --machines 20 --attachments 40 --lost 5 --burst 10
    Fleet {
        /// With which Kubernetes
        #[arg(long, value_enum, default_value_t)]
        kubernetes: Release,
        #[command(flatten)]
        options: bench::fleet::Options,
    },
    /// Draw what was measured: the pictures and tables of docs/measured.md
    Plot,
    /// What `up` leaves running
    #[command(hide = true)]
    Keep(Size),
}

#[derive(Args, Clone)]
struct Size {
    /// What the nodes are
    #[arg(long, value_enum, default_value_t = Kind::Uml)]
    kind: Kind,
    /// Which Kubernetes
    #[arg(long, value_enum, default_value_t)]
    kubernetes: Release,
    /// Number of nodes; a scenario that needs more gets more
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Memory of each node in MiB
    #[arg(long, default_value_t = 1536)]
    memory: u32,
    /// A cluster and nothing else: do not install Patchbay
    #[arg(long)]
    bare: bool,
}

impl Size {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--nodes={}", self.nodes), format!("--memory={}", self.memory)];
        arguments.extend((self.kind == Kind::Stock).then(|| "--kind=stock".to_owned()));
        arguments.extend((self.kubernetes == Release::Newest).then(|| "--kubernetes=newest".to_owned()));
        arguments.extend(self.bare.then(|| "--bare".to_owned()));
        arguments
    }

    fn start(&self, needs: Needs) -> Result<Lab> {
        let cache = Cache::open()?;
        let mut options = LabOptions::new(&cache)?;
        (options.kind, options.memory) = (self.kind, self.memory);
        options.first = if needs.emulated { Kind::Stock } else { self.kind };
        (options.nodes, options.usb_ports) = (self.nodes.max(needs.nodes), needs.usb_ports);
        let nodes = options.nodes;
        let logs = options.logs.clone();
        let lab = Lab::start(&cache, Parts::told()?, options)
            .with_context(|| format!("no lab; the logs are in {}", logs.display()))?;
        if !self.bare {
            product::install(&lab).inspect_err(|_| lab.collect_logs())?;
        }
        say(&format!(
            "{nodes} nodes with Kubernetes {} are Ready after {:.1} s; logs are in {}",
            lab.parts().kubernetes.trim_start_matches('v'),
            lab.started().as_secs_f32(),
            logs.display()
        ));
        Ok(lab)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let keeper = Keeper::of(&Cache::open()?)?;
    let request = |request| {
        let answer = ask(&keeper.socket(), &request)?;
        println!("{}", answer.text);
        Ok(u8::try_from(answer.code).map_or(ExitCode::FAILURE, ExitCode::from))
    };
    match command {
        Command::Packages => parts::packages().map(|()| ExitCode::SUCCESS),
        Command::Parts { kubernetes } => {
            println!("{:#?}", parts::build(kubernetes)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Images { folder } => {
            for archive in parts::images(&folder)? {
                let size = archive.metadata()?.len().div_ceil(1_000_000);
                println!("{size:4} MB  {}", archive.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Up(size) => {
            // Here, where the person sees the progress.
            keeper.up(&size.arguments(), &Parts::tell(size.kubernetes)?)?;
            let lab = std::env::current_exe()?;
            let lab = lab.display();
            println!(
                "The lab is up, with Patchbay in it. A shell in which kubectl, kubectl usb, helm and lab work:\n  \
                 {lab} run -- bash\nThere, for example:\n  \
                 lab plug node-1 blue\n  kubectl usb list\n  kubectl create namespace my-project\n  lab sh node-1 lsusb\n\
                 Images that its nodes have, where the docs say example/linux-machine:1 and busybox:\n  \
                 localhost/patchbay/guest:lab\n  localhost/patchbay/tool:lab\n\
                 It has a network of its own: nothing outside that shell reaches it. End it with:\n  {lab} down"
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Down => keeper.down().map(|()| ExitCode::SUCCESS),
        Command::Run { command } => keeper.run(&command),
        Command::Plug { node, stick } => request(Request::Plug { node, stick }),
        Command::Unplug { node, stick } => request(Request::Unplug { node, stick }),
        Command::Sh { node, script } => request(Request::Sh { node, script }),
        Command::PowerOff { node } => request(Request::PowerOff { node }),
        Command::Cut { node } => request(Request::Cut { node }),
        Command::Heal { node } => request(Request::Heal { node }),
        Command::Boot { node } => request(Request::Boot { node }),
        Command::Demo(size) => {
            inside(size.kubernetes, || demo::run(&size.start(Needs::ORDINARY)?).map(|()| ExitCode::SUCCESS))
        }
        Command::Bench(size) => {
            inside(size.kubernetes, || bench::run(&size.start(bench::NEEDS)?).map(|()| ExitCode::SUCCESS))
        }
        Command::BenchAgent { kubernetes } => inside(kubernetes, || {
            let logs = logs::new_folder(&Cache::open()?)?;
            let measured = bench::agent::run(&Parts::told()?, &namespace::state().join("agent"), &logs);
            measured.with_context(|| format!("the logs are in {}", logs.display())).map(|()| ExitCode::SUCCESS)
        }),
        Command::Fleet { kubernetes, options } => inside(kubernetes, || {
            let logs = logs::new_folder(&Cache::open()?)?;
            let measured = bench::fleet::run(&Parts::told()?, &namespace::state().join("fleet"), &logs, &options);
            measured.with_context(|| format!("the logs are in {}", logs.display())).map(|()| ExitCode::SUCCESS)
        }),
        Command::Plot => bench::plot::run().map(|()| ExitCode::SUCCESS),
        Command::Walk { seed, steps, quick, size } => inside(size.kubernetes, || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let pace = if quick { Pace::Quick } else { Pace::Full };
            let lab = size.start(walk::NEEDS)?;
            walk::walk(&lab, seed.unwrap_or(now.as_secs()), steps, pace).inspect_err(|_| lab.collect_logs())?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Test { words, times, size } => {
            let chosen = scenarios::matching(&words)?;
            let labs = scenarios::by_needs(&chosen);
            if !namespace::is_inside() && labs.len() > 1 {
                let begin = SystemTime::now();
                let good = side_by_side(labs.into_values().collect(), times, &size)?;
                // Only all of them together need all rights.
                let good = good && (!words.is_empty() || rights_fit(begin)?);
                return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            inside(size.kubernetes, || {
                let tally = scenarios::run(&chosen, times, |needs| size.start(needs))?;
                Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            })
        }
        Command::Keep(size) => inside(size.kubernetes, || {
            let lab = size.start(Needs::ORDINARY)?;
            keeper.announce(&lab)?;
            serve(&keeper.socket(), &lab)?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// How many labs run at the same time: most of a scenario's time is waiting, but not all of it.
const AT_ONCE: usize = 2;

/// Whether our accounts have used all of their rights in the labs since `begin`, and no others; tells which not.
fn rights_fit(begin: SystemTime) -> Result<bool> {
    let begin = begin.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let complaints = rights::complaints(&rights::folders_since(&Cache::open()?.folder("runs")?, begin)?)?;
    if complaints.is_empty() {
        println!("ok      every right of our accounts was used, and none was missing");
    } else {
        println!(
            "FAILED  rights of our accounts (charts/patchbay/templates/rbac.yaml)\n        {}",
            complaints.join("\n        ")
        );
    }
    Ok(complaints.is_empty())
}

/// Runs groups of scenarios, each in a lab of its own, some at the same time. Whether all passed.
fn side_by_side(groups: Vec<Vec<Scenario>>, times: u32, size: &Size) -> Result<bool> {
    // Once, and not by each.
    Parts::tell(size.kubernetes)?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let run = |group: Vec<Scenario>| -> Result<bool> {
        let status = std::process::Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&program)
            .args(["test", &format!("--times={times}")])
            .args(size.arguments())
            .args(group.iter().map(|scenario| scenario.name))
            .status()
            .context("cannot run setpriv: install the package util-linux")?;
        Ok(status.success())
    };
    let left = Mutex::new(groups.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || std::iter::from_fn(next).map(run).collect::<Result<Vec<_>>>();
    let ended: Result<Vec<Vec<bool>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a thread of the lab panicked"))?).collect()
    });
    Ok(ended?.into_iter().flatten().all(|good| good))
}

/// Does the work inside the lab's namespaces; outside, the parts are built first.
fn inside(kubernetes: Release, work: impl FnOnce() -> Result<ExitCode>) -> Result<ExitCode> {
    match namespace::enter(|| Parts::tell(kubernetes))? {
        Place::Outside(code) => Ok(code),
        Place::Inside => work(),
    }
}
