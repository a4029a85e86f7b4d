//! `ui`.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{devices, machines};
use crate::Answer;
use crate::args::Attachment;
use crate::connection::Cluster;
use crate::failure::Failure;
use crate::progress::Wanted;
use crate::ui::{Act, Door, Gate, Scope, Secret, blank, follow, scope, serve};

/// What opens an address in the browser that people have chosen.
#[cfg(target_os = "macos")]
const OPENER: &str = "open";
#[cfg(not(target_os = "macos"))]
const OPENER: &str = "xdg-open";

/// Serves the page until somebody ends it.
pub(super) async fn ui(cluster: Cluster, port: u16, open: bool) -> Result<Answer, Failure> {
    let scope = scope(&cluster).await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| taken(port, &error))?;
    let port = listener.local_addr().map_err(Failure::Output)?.port();
    let (token, key) = (Secret::new().map_err(Failure::Output)?, Secret::new().map_err(Failure::Output)?);
    let address = format!("http://127.0.0.1:{port}/#{}", token.as_str());
    let (views, shown) = watch::channel(blank());
    let gate = Mutex::new(Gate::new(port, token, key));
    let door = Arc::new(Door { gate, cluster: cluster.clone(), views: shown });
    say(&address, &scope, &cluster).map_err(Failure::Output)?;
    if open {
        browse(&address);
    }
    tokio::select! {
        () = serve(listener, door) => {}
        () = follow(&cluster, &scope, &views) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(Answer::default())
}

fn taken(port: u16, error: &std::io::Error) -> Failure {
    let advice = "Choose another one with --port, or none: then any that is free is taken.";
    Failure::Unfit(format!("cannot listen on port {port} of 127.0.0.1: {error}"), advice.to_owned())
}

/// The address is for the standard output, and there before the page is: whoever starts this program waits for it.
fn say(address: &str, scope: &Scope, cluster: &Cluster) -> std::io::Result<()> {
    let mut stdout = anstream::stdout();
    stdout.write_all(format!("{address}\n").as_bytes())?;
    stdout.flush()?;
    let mut text = "It opens once, in one browser of this computer. Ctrl-C ends it.\n".to_owned();
    if let (Scope::Namespace(namespace), false) = (scope, cluster.chosen) {
        text = format!("You may not see the whole cluster: this is what namespace {namespace} shows.\n{text}");
    }
    // Nobody has to hear it.
    let _ = anstream::stderr().write_all(text.as_bytes());
    Ok(())
}

/// Where there is no browser, somebody opens the address by hand.
fn browse(address: &str) {
    let quiet = Stdio::null;
    let opener =
        tokio::process::Command::new(OPENER).arg(address).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    drop(opener);
}

/// Does what somebody has clicked on.
///
/// # Errors
/// Why it could not.
pub(crate) async fn act(cluster: &Cluster, act: &Act) -> Result<Answer, Failure> {
    match act {
        Act::Assign { device, namespace, overwrite } => devices::assign(cluster, device, namespace, *overwrite).await,
        Act::Unassign { device } => devices::unassign(cluster, device).await,
        Act::Attach { device, namespace, vm } => change(cluster, namespace, device, vm, Wanted::In).await,
        Act::Detach { device, namespace, vm } => change(cluster, namespace, device, vm, Wanted::Out).await,
    }
}

async fn change(cluster: &Cluster, namespace: &str, device: &str, vm: &str, wanted: Wanted) -> Result<Answer, Failure> {
    let (device, vm) = (device.to_owned(), vm.to_owned());
    // The page shows by itself how far it is.
    let attachment = Attachment { device, vm, wait: false, timeout: Duration::ZERO };
    machines::change(&cluster.within(namespace), &attachment, wanted).await
}
