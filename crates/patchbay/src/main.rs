//! Patchbay: USB devices of any node of a Kubernetes cluster in any virtual machine of it.
//!
//! One binary, one image; each command is a process of the system.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agent;
mod check;
mod connection;
mod controller;
mod hold;
mod logging;
mod metrics;
mod uninstall;
mod vm;

/// USB devices of any node of a Kubernetes cluster in any virtual machine of it.
#[derive(Debug, Parser)]
#[command(name = "patchbay", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn what the agents publish and what people ask for into claims, pods and conditions
    Controller(controller::Args),
    /// Publish, export, import and plug the devices of this node
    Agent(agent::Args),
    /// Tell how this node is, as JSON: what `kubectl usb doctor` runs in the agents' containers
    Check(check::Args),
    /// Run a virtual machine as the first process of its pod
    Vm(vm::Args),
    /// Wait for a signal: the process of an attachment pod
    Hold,
    /// Stop the programs and delete what they have made, unless somebody uses it: what the chart does before it goes
    Uninstall(uninstall::Args),
    /// Print the custom resource definitions
    Crds,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        // Without logging: it would be the larger half of the process.
        Command::Hold => hold::run(),
        Command::Crds => crds(),
        // Without logging: its output is read by a program.
        Command::Check(args) => {
            choose_cryptography();
            check::run(&args)
        }
        Command::Controller(args) => prepare().and_then(|()| controller::run(args)),
        Command::Agent(args) => prepare().and_then(|()| agent::run(args)),
        Command::Uninstall(args) => prepare().and_then(|()| uninstall::run(args)),
        Command::Vm(args) => prepare().and_then(|()| vm::run(args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("patchbay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What every long-running command needs: logs, and one cryptography for all TLS.
fn prepare() -> anyhow::Result<()> {
    logging::init();
    choose_cryptography();
    Ok(())
}

fn choose_cryptography() {
    // Only fails when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn crds() -> anyhow::Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(patchbay_api::crds::yaml()?.as_bytes())?;
    Ok(())
}
