//! The commands: each reads, decides by one of the pure modules, writes, and says what has come of it.

mod care;
mod devices;
mod follow;
mod machines;
mod questions;
mod sysdump;
mod ui;

use std::fmt::Debug;

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::Answer;
use crate::args::{Args, Command};
use crate::connection::Cluster;
use crate::edit::Edit;
use crate::explain::explain;
use crate::failure::Failure;
use crate::progress::Wanted;

pub(crate) use ui::act;

/// The field manager of what people write through this program.
const MANAGER: &str = "kubectl-usb";

/// How often a change is decided anew because somebody else has changed the object meanwhile.
const TRIES: usize = 5;

/// HTTP 409: the object is another one than the one that was read.
const CONFLICT: u16 = 409;

/// Does what is asked.
///
/// # Errors
/// Why it could not.
pub(crate) async fn run(args: Args) -> Result<Answer, Failure> {
    // Needs no cluster.
    if let Command::Explain { reason } = &args.command {
        return explain(reason.as_deref());
    }
    let cluster = Cluster::open(&args.connection).await?;
    match args.command {
        Command::List { all_namespaces, output } => devices::list(&cluster, all_namespaces, output).await,
        Command::Tree => questions::tree(&cluster).await,
        Command::Ui { port, no_open } => ui::ui(cluster, port, !no_open).await,
        Command::Assign { device, to, overwrite } => devices::assign(&cluster, &device, &to, overwrite).await,
        Command::Unassign { device } => devices::unassign(&cluster, &device).await,
        Command::Attach(it) => machines::change(&cluster, &it, Wanted::In).await,
        Command::Detach(it) => machines::change(&cluster, &it, Wanted::Out).await,
        Command::Doctor => care::doctor(&cluster).await,
        Command::Sysdump { output } => sysdump::sysdump(&cluster, output.as_deref()).await,
        Command::Watch { device } => follow::watch(&cluster, device.as_deref()).await,
        Command::Explain { reason } => explain(reason.as_deref()),
        Command::Why { subject } => questions::why(&cluster, &subject).await,
    }
}

/// Reads an object, decides, and writes, until nobody comes in between: the object as it is then, and as it was read where
/// something had to be written.
async fn edit<K>(
    cluster: &Cluster,
    api: &Api<K>,
    what: (&str, &str),
    decide: impl Fn(&K) -> Edit,
) -> Result<(K, Option<K>), Failure>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let (kind, name) = what;
    for _ in 0..TRIES {
        let before = cluster.ask(&format!("get {kind} {name}"), api.get(name)).await?;
        let Some(patch) = decide(&before)? else { return Ok((before, None)) };
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(patch);
        match cluster.ask(&format!("change {kind} {name}"), api.patch(name, &params, &patch)).await {
            Ok(after) => return Ok((after, Some(before))),
            Err(Failure::Refused { status, .. }) if status.code == CONFLICT => {}
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Contended(format!("{kind} {name}")))
}

/// The failure of a read, with what to do where there is no such object.
fn unknown(failure: Failure, message: String, advice: String) -> Failure {
    match failure {
        // The details tell an object that is not there from a kind that is not there.
        Failure::Refused { status, .. } if status.code == 404 && status.details.is_some() => {
            Failure::Unfit(message, advice)
        }
        other => other,
    }
}
