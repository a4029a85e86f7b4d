//! What can be asked for, and the help that teaches it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "USB devices of the cluster: where they are plugged in, who has them, and why not.

A device that is plugged into a node appears by itself. An administrator assigns it to a namespace; the owner of a virtual \
machine there attaches it. It stays assigned and attached when its cable is pulled, and comes back with it.";

const EXAMPLES: &str = "Examples:
  kubectl usb list                                     all devices of the cluster
  kubectl usb assign webcam-k3f9a my-project           give one to a namespace
  kubectl usb attach webcam-k3f9a linux-vm -n my-project --wait
                                                       bring it into a virtual machine, and see how
  kubectl usb why webcam-k3f9a                         what holds it up, and what to do
  kubectl usb watch webcam-k3f9a                       what becomes of it
  kubectl usb tree                                     nodes, ports, devices and machines
  kubectl usb ui                                       the same as a picture, live, in a browser
  kubectl usb doctor                                   whether the installation is well

Exit codes:
  0  done
  1  failed; 'doctor' has found something wrong
  2  wrong usage; 'doctor' could not ask
  3  'why' has found something that holds a device up
  4  '--wait' took too long";

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-usb",
    bin_name = "kubectl usb",
    version,
    about = "USB devices of the cluster: where they are plugged in, who has them, and why not",
    long_about = ABOUT,
    after_help = EXAMPLES,
    disable_help_subcommand = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to reach the cluster.
#[derive(Debug, ClapArgs)]
pub(crate) struct Connection {
    /// The namespace; by default that of the context
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// The kubeconfig; by default $KUBECONFIG, or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// How long one request to the API server may take
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = time, help_heading = "Cluster")]
    pub(crate) request_timeout: Duration,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List devices: where they are plugged in, whose they are, who has them
    ///
    /// Without -n all devices of the cluster; who may not see those gets the ones of the context's namespace. READY and
    /// ATTACHED are True, False, or the reason why they are not.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  kubectl usb list
  kubectl usb list -n my-project -o wide
  kubectl usb list -o json | jq -r '.items[].metadata.name'"
    )]
    List {
        /// All devices of the cluster, or an error
        #[arg(short = 'A', long, conflicts_with = "namespace")]
        all_namespaces: bool,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Follow the list: one line for each change, until Ctrl-C
    ///
    /// First how it is, then what becomes of it. The lines are the same on a terminal and in a pipe; times are UTC. Which
    /// devices are shown goes by -n and by what one may see, as with 'list'.
    #[command(after_help = "Examples:
  kubectl usb watch
  kubectl usb watch webcam-k3f9a
  kubectl usb watch -n my-project | tee usb.log")]
    Watch {
        /// Only this one, which may come later
        device: Option<String>,
    },
    /// Show nodes, their USB/IP ports, the devices plugged into them, and the machines that have those
    ///
    /// With -n only the devices of that namespace.
    #[command(after_help = "Examples:
  kubectl usb tree
  kubectl usb tree -n my-project")]
    Tree,
    /// Show nodes, ports, devices and their cables to machines in a browser, live, until Ctrl-C
    ///
    /// It serves one page, to this computer only, and does there what you may do in the cluster: assign, attach and detach. The
    /// address works once; whoever has opened it has the page. With -n only the devices and machines of that namespace.
    #[command(after_help = "Examples:
  kubectl usb ui
  kubectl usb ui --no-open --port 8080     for a browser elsewhere: ssh -L 8080:127.0.0.1:8080 HOST")]
    Ui {
        /// The port to listen on, at 127.0.0.1; by default any that is free
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        port: u16,
        /// Print the address, and open no browser
        #[arg(long)]
        no_open: bool,
    },
    /// Give a device to a namespace, whose virtual machines and pods may then use it
    ///
    /// For administrators: it sets spec.assignedNamespace of the NodeUSBDevice.
    #[command(after_help = "Examples:
  kubectl usb assign webcam-k3f9a my-project
  kubectl usb assign webcam-k3f9a other-project --overwrite")]
    Assign {
        /// The device
        device: String,
        /// Who gets it
        #[arg(value_name = "NAMESPACE")]
        to: String,
        /// Also when it is another namespace's: it is first taken out of the machine that has it
        #[arg(long)]
        overwrite: bool,
    },
    /// Take a device from its namespace, and out of the virtual machine that has it
    #[command(after_help = "Example:
  kubectl usb unassign webcam-k3f9a")]
    Unassign {
        /// The device
        device: String,
    },
    /// Put a device on a virtual machine's list: it comes in while the machine runs, or when it starts
    #[command(after_help = "Examples:
  kubectl usb attach webcam-k3f9a linux-vm -n my-project
  kubectl usb attach webcam-k3f9a linux-vm -n my-project --wait --timeout 2m")]
    Attach(Attachment),
    /// Take a device off a virtual machine's list: it leaves the guest
    #[command(after_help = "Examples:
  kubectl usb detach webcam-k3f9a linux-vm -n my-project --wait")]
    Detach(Attachment),
    /// Say what holds a device up, or the devices of a virtual machine, and what to do
    ///
    /// It walks from the cable to the guest and stops at the first thing that is not as it should be. A name that both a
    /// device and a machine have means the device; vm/NAME means the machine.
    #[command(after_help = "Examples:
  kubectl usb why webcam-k3f9a
  kubectl usb why vm/linux-vm -n my-project")]
    Why {
        /// The device or the virtual machine
        #[arg(value_name = "DEVICE|VM")]
        subject: String,
    },
    /// Say what a reason of a condition or an Event means, and what to do; without one, list all
    ///
    /// It asks no cluster. The same is in docs/messages.md.
    #[command(after_help = "Examples:
  kubectl usb explain NoFreeUSBIPPort
  kubectl usb explain")]
    Explain {
        /// The reason
        reason: Option<String>,
    },
    /// Check the installation: API server, definitions, policies, rights, controller, and each node with its agent
    ///
    /// It changes nothing. Each check has a line: ✓ as it should be, ✗ wrong, with what to do below it, · to be known, or not
    /// to be asked. It goes by what the cluster tells, and by what agents tell of their nodes and of each other: '/patchbay check',
    /// run in their containers, which takes the right to create pods/exec in namespace patchbay.
    #[command(after_help = "Examples:
  kubectl usb doctor
  kubectl usb doctor || kubectl usb sysdump

Exit codes:
  0  nothing is wrong
  1  something is wrong
  2  nothing that could be seen is wrong, but not all could be asked, or the API server does not answer")]
    Doctor,
    /// Collect what is needed to find out what is wrong, in one archive
    ///
    /// Our objects, the claims, slices, pods and Events that have to do with USB devices, the nodes, the logs of controllers and
    /// agents, and what 'doctor' says. Secrets and ConfigMaps are not read; values of environment variables and foreign
    /// annotations, commands of foreign pods and consoles of machines are left out. What cannot be fetched is noted in the archive.
    #[command(after_help = "Examples:
  kubectl usb sysdump
  kubectl usb sysdump --output dump.tar.gz")]
    Sysdump {
        /// The archive; by default patchbay-sysdump-TIME.tar.gz in this folder. It must not exist yet
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A device and a virtual machine.
#[derive(Debug, ClapArgs)]
pub(crate) struct Attachment {
    /// The device
    pub(crate) device: String,
    /// The virtual machine, of the namespace
    pub(crate) vm: String,
    /// Wait until it is so, and say what is going on meanwhile
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = time, requires = "wait")]
    pub(crate) timeout: Duration,
}

/// How to print a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table
    #[default]
    Table,
    /// A table with more columns
    Wide,
    /// The objects
    Yaml,
    /// The objects
    Json,
}

/// Reads a length of time as kubectl writes it: `10s`, `1m30s`.
fn time(text: &str) -> Result<Duration, String> {
    let parsed: Result<jiff::SignedDuration, _> = text.parse();
    let positive = parsed.ok().and_then(|time| Duration::try_from(time).ok()).filter(|time| !time.is_zero());
    positive.ok_or_else(|| "a length of time is wanted, such as 30s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_are_written_as_kubectl_writes_them() {
        assert_eq!(time("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "0s", "-1s", "soon", "5"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_may_follow_the_command() {
        let args = Args::try_parse_from(["kubectl-usb", "attach", "webcam", "vm", "-n", "blue", "--wait"]).unwrap();
        assert_eq!(args.connection.namespace.as_deref(), Some("blue"));
        let Command::Attach(attachment) = args.command else { panic!("attach") };
        assert!(attachment.wait && attachment.timeout == Duration::from_secs(60));
    }
}
