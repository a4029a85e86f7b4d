//! Moves of virtual machines: from this node, and to it.
//!
//! ```text
//!   pods of machines on this node --+--> one task for each that is to move away   (source)
//!                                   +--> one task for each that was made for one  (target) <-- calls of other agents (answer)
//! ```
//!
//! Every decision is [`patchbay_core::migration`]'s; a task looks at its pod, its QEMU and the marks in the pod's folder, and does
//! the steps. What it remembers dies with the agent; the next one reads the rest from where it lives. QEMU sends and loads
//! through a socket that the kernel encrypts, so a move goes on while no agent runs.

mod answer;
mod marks;
mod qemu;
mod said;
mod source;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use patchbay_api::{keys, migration};
use patchbay_core::migration::{Decision, Pod as Machine, Report};
use patchbay_core::names::{NodeName, Uid};
use patchbay_link::Credentials;
use patchbay_qmp::Monitor;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::pods::lighten;
use super::steps::publish;

/// What the moves of one node share.
pub(super) struct Moves {
    /// This node.
    node: NodeName,
    /// To the API server.
    client: Client,
    /// Who we are to other agents.
    credentials: Credentials,
    /// The port other agents listen on.
    port: u16,
    /// The kubelet's folder of pods.
    folder: PathBuf,
    /// The pods of machines on this node.
    pods: reflector::Store<Pod>,
    /// Something has changed: whoever waits looks again.
    changed: watch::Sender<u64>,
    /// Machines that wait to be loaded, by the uid of their pod.
    loads: Mutex<BTreeMap<Uid, Load>>,
}

/// A machine that waits to be loaded, or is being loaded.
#[derive(Clone, Default)]
struct Load {
    /// Its QEMU, when it answers, and the number of the connection to it.
    monitor: Option<(Monitor, u64)>,
    /// A source has been accepted, for the QEMU at the other end of the connection of this number.
    begun: Option<u64>,
    /// Loading could not begin, or has ended, and why.
    failed: Option<String>,
}

/// The machines whose devices are to be left alone; None before the pods are known.
pub(super) type Moving = Option<BTreeSet<Uid>>;

/// A task for one pod, and the move it is for; ends with the value.
struct Task {
    role: Role,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// What a pod has to do with a move.
#[derive(Clone, PartialEq, Eq)]
enum Role {
    /// Its machine moves to the pod of this uid.
    Source(Uid),
    /// It was made for a machine that comes.
    Target,
}

impl Moves {
    /// Starts to watch the pods of machines on this node.
    pub(super) fn new(
        node: NodeName,
        client: Client,
        credentials: Credentials,
        port: u16,
        folder: PathBuf,
    ) -> Arc<Self> {
        let (pods, writer) = reflector::store();
        let selection = watcher::Config::default().labels(keys::VM_NAME).fields(&format!("spec.nodeName={node}"));
        let events =
            reflector(writer, watcher(Api::<Pod>::all(client.clone()), selection).modify(lighten)).default_backoff();
        let (changed, loads) = (watch::channel(0).0, Mutex::default());
        let moves = Arc::new(Self { node, client, credentials, port, folder, pods, changed, loads });
        let woken = moves.clone();
        tokio::spawn(events.for_each(move |event| {
            if let Err(error) = event {
                tracing::warn!(%error, "watch of virtual machines' pods: the last state is kept");
            }
            woken.wake();
            std::future::ready(())
        }));
        moves
    }

    /// Wakes whoever waits.
    fn wake(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// The pods of machines on this node that have to do with moves.
    fn machines(&self) -> Vec<Machine> {
        let read = |pod: &Arc<Pod>| match migration::read(pod) {
            Ok(machine) => Some(machine),
            Err(error) => {
                tracing::warn!(pod = pod.metadata.name, %error, "a virtual machine's pod cannot be read");
                None
            }
        };
        self.pods.state().iter().filter_map(read).collect()
    }

    /// The pod of this uid.
    fn machine(&self, uid: &Uid) -> Option<Machine> {
        self.machines().into_iter().find(|machine| machine.pod.uid == *uid)
    }

    /// Changes what is known of a machine that waits to be loaded.
    fn load<T>(&self, uid: &Uid, change: impl FnOnce(&mut Load) -> T) -> T {
        change(self.loads.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.clone()).or_default())
    }

    fn role(machine: &Machine) -> Option<Role> {
        match &machine.to {
            Some(to) => Some(Role::Source(to.uid.clone())),
            None if machine.from.is_some() && !machine.deleting && machine.report() != Some(&Report::Running) => {
                Some(Role::Target)
            }
            None => None,
        }
    }
}

/// Runs for ever. `moving` is told which machines' devices are to be left alone.
pub(super) async fn run(moves: Arc<Moves>, moving: watch::Sender<Moving>) {
    let mut changed = moves.changed.subscribe();
    let mut tasks: BTreeMap<Uid, Task> = BTreeMap::new();
    if moves.pods.wait_until_ready().await.is_err() {
        return;
    }
    loop {
        changed.borrow_and_update();
        let machines = moves.machines();
        // A task that has ended has nothing more to do for this move.
        let mut roles = BTreeMap::new();
        for machine in &machines {
            roles.extend(Moves::role(machine).map(|role| (machine.pod.uid.clone(), role)));
        }
        tasks.retain(|uid, task| roles.get(uid) == Some(&task.role));
        moves.loads.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| roles.contains_key(uid));
        // Told before anything begins.
        let untouchable = |machine: &&Machine| {
            let settled = tasks.get(&machine.pod.uid).is_some_and(|task| task.handle.is_finished());
            machine.is_moving() || (machine.decision == Some(Decision::Source) && !settled)
        };
        publish(&moving, Some(machines.iter().filter(untouchable).map(|machine| machine.pod.uid.clone()).collect()));
        for (uid, role) in roles {
            tasks.entry(uid.clone()).or_insert_with(|| {
                let (moves, task) = (moves.clone(), role.clone());
                let handle = tokio::spawn(async move {
                    match task {
                        Role::Source(to) => source::run(&moves, &uid, &to).await,
                        Role::Target => target::run(&moves, &uid).await,
                    }
                    moves.wake();
                });
                Task { role, handle }
            });
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}
