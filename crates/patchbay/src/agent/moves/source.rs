//! The task for a pod whose machine is to move away.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use patchbay_api::migration as api;
use patchbay_core::migration::{
    Decision, Destination, Guest, Memory, Pace, Phase, Report, Source, SourceStep, look_again, source,
};
use patchbay_core::names::{PodRef, Uid};
use patchbay_link::{LinkError, Migrate, Pod as Named, migrate};
use patchbay_qmp::{Monitor, QmpError, migration, usb};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Moves;
use super::marks;
use super::qemu::Connection;
use super::said::Said;
use crate::agent::steps::{address, blocking, chain};
use crate::vm::marks::LEFT;

/// One answer of the API server.
const API: Duration = Duration::from_secs(5);
/// How long an agent that does not listen may take to start: it has ended, or is being updated, and its kubelet starts it again.
const STARTED: Duration = Duration::from_secs(90);
/// How long the other agent may take to accept: it waits for its QEMU.
const CALL: Duration = Duration::from_secs(40);
/// Before it is called again.
const LISTENS: Duration = Duration::from_secs(1);
const LATE: &str = "the agent of the other node has not accepted in time";
/// How long a certificate may take: less than [`CALL`], so that what is wrong with it is said.
const CERTIFICATE: Duration = Duration::from_secs(20);
/// A QEMU that has not answered for so long will not.
const SILENT: Duration = Duration::from_secs(10);
/// Before a step that has failed is tried again.
const BACK_OFF: Duration = Duration::from_millis(500);

/// The move as this task goes about it.
struct Going<'m> {
    moves: &'m Moves,
    pod: PodRef,
    to: Destination,
    qemu: Connection,
    memory: Arc<Mutex<Memory>>,
    /// How fast QEMU was told to send.
    pace: Option<Pace>,
    /// Since when it is known that the devices are out.
    out: Option<Instant>,
    call: Option<JoinHandle<()>>,
    said: Said,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Runs until nothing is left to do for the move of a pod's machine to the pod of uid `to`.
pub(super) async fn run(moves: &Arc<Moves>, uid: &Uid, to: &Uid) {
    let mut changed = moves.changed.subscribe();
    let mut going: Option<Going<'_>> = None;
    loop {
        changed.borrow_and_update();
        let Some(machine) = moves.machine(uid) else { return };
        let Some(to) = machine.to.clone().filter(|there| there.uid == *to) else { return };
        let going = going.get_or_insert_with(|| Going {
            moves,
            pod: machine.pod.clone(),
            to,
            qemu: Connection::new(moves.folder.join(uid.as_str()).join(api::run_folder())),
            memory: Arc::default(),
            pace: None,
            out: None,
            call: None,
            said: Said::default(),
        });
        let seen = going.look(machine.decision, machine.report()).await;
        let mut wait = look_again(&seen);
        let mut idle = true;
        for step in source(&seen) {
            if let SourceStep::Report(report) = &step
                && let Some(rest) = going.said.too_soon(report)
            {
                wait = rest.min(wait);
                continue;
            }
            idle = false;
            if let Err(why) = going.perform(moves, &step, &seen).await {
                tracing::warn!(pod = %going.pod, ?step, why, "step of a move failed");
                // A report is only tried again; whatever else fails, the machine stays.
                if seen.decision.is_none() && !matches!(step, SourceStep::Report(_)) {
                    going.remember(Memory::Failed(why));
                }
                sleep(BACK_OFF).await;
                break;
            }
        }
        if idle && going.is_settled(&seen) {
            return;
        }
        if !idle && seen.decision.is_none() {
            // What was done is looked at at once.
            continue;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = going.qemu.news() => {}
            () = sleep(wait) => {}
        }
    }
}

impl Going<'_> {
    async fn look(&mut self, decision: Option<Decision>, known: Option<&Report>) -> Source {
        let (folder, uid) = (self.moves.folder.clone(), self.pod.uid.clone());
        let marked = blocking(move || Ok(marks::is_there(&folder, &uid, LEFT))).await.unwrap_or(false);
        // Before QEMU is asked: what it says may be from before it was told to send.
        let mut memory = self.memory();
        let mut qemu = self.qemu.look().await;
        let (mut devices, mut off) = (false, false);
        if qemu.as_ref().is_some_and(|qemu| matches!(qemu.phase, Phase::Active | Phase::PreSwitchover)) {
            match self.devices().await {
                Ok(seen) => (devices, off) = seen,
                Err(why) => {
                    tracing::debug!(pod = %self.pod, why, "what devices QEMU has");
                    qemu = None;
                }
            }
        }
        // A call has an end of its own.
        let failed = if self.qemu.is_gone() && memory == Memory::Begun {
            Some("QEMU has ended while the virtual machine was being sent")
        } else if self.qemu.silence() >= SILENT && memory != Memory::Calling && decision.is_none() {
            Some(
                "the virtual machine's monitor for moves does not answer; was the machine started before the last update of Patchbay? Then restart it",
            )
        } else {
            None
        };
        if let Some(why) = failed {
            memory = Memory::Failed(why.to_owned());
            self.remember(memory.clone());
        }
        let (to, reported) = (self.to.clone(), self.said.or(known));
        if off && !devices {
            self.out.get_or_insert_with(Instant::now);
        }
        let out = self.out.map_or(Duration::ZERO, |out| out.elapsed());
        Source { to, decision, qemu, devices, off, out, pace: self.pace, marked, reported, memory }
    }

    /// Whether the guest has USB devices of ours, and whether some were switched off.
    async fn devices(&self) -> Result<(bool, bool), String> {
        let monitor = self.qemu.monitor()?;
        let seen = async { Ok::<_, QmpError>((usb::any(monitor).await?, usb::any_off(monitor).await?)) };
        seen.await.map_err(|error| chain(&error))
    }

    /// Whether nothing is left to do, and nothing is expected.
    fn is_settled(&self, seen: &Source) -> bool {
        match (seen.decision, &seen.qemu) {
            (None, _) => false,
            (Some(Decision::Target), Some(_)) => true,
            (Some(Decision::Source), Some(qemu)) => !qemu.phase.is_under_way() && qemu.guest != Guest::Paused,
            (Some(_), None) => self.qemu.is_gone() || self.qemu.silence() >= SILENT,
        }
    }

    fn memory(&self) -> Memory {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, memory: Memory) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }

    fn hang_up(&mut self) {
        if let Some(call) = self.call.take() {
            call.abort();
        }
    }

    async fn perform(&mut self, moves: &Arc<Moves>, step: &SourceStep, seen: &Source) -> Result<(), String> {
        let (folder, uid) = (moves.folder.clone(), self.pod.uid.clone());
        let words = |error: patchbay_qmp::QmpError| chain(&error);
        match step {
            SourceStep::Call => {
                let monitor = self.qemu.monitor()?.clone();
                self.call(moves.clone(), monitor);
                Ok(())
            }
            SourceStep::HangUp => {
                self.hang_up();
                self.remember(Memory::Failed("the call was given up".to_owned()));
                Ok(())
            }
            SourceStep::Mark => blocking(move || marks::write(&folder, &uid, LEFT)).await,
            SourceStep::Unmark => blocking(move || marks::remove(&folder, &uid, LEFT)).await,
            SourceStep::Go(pace) => {
                migration::go(self.qemu.monitor()?, translate(*pace)).await.map_err(words)?;
                self.pace = Some(*pace);
                Ok(())
            }
            SourceStep::TakeOut => {
                let devices = usb::switch_off(self.qemu.monitor()?).await.map_err(words)?;
                tracing::info!(pod = %self.pod, ?devices, "USB devices taken out for the move");
                Ok(())
            }
            SourceStep::Proceed => migration::proceed(self.qemu.monitor()?).await.map_err(words),
            SourceStep::Cancel => migration::cancel(self.qemu.monitor()?).await.map_err(words),
            SourceStep::Pause => self.qemu.monitor()?.stop().await.map_err(words),
            SourceStep::Resume => self.qemu.monitor()?.cont().await.map_err(words),
            SourceStep::Report(report) => {
                self.said.say(moves, &self.pod, &self.to.name, report).await?;
                if seen.reported.is_none() && seen.memory == Memory::Nothing {
                    self.remember(Memory::Announced);
                }
                Ok(())
            }
        }
    }

    /// Calls the other agent and has QEMU begin, in a task of its own.
    fn call(&mut self, moves: Arc<Moves>, monitor: Monitor) {
        self.remember(Memory::Calling);
        let (memory, pod, to) = (self.memory.clone(), self.pod.clone(), self.to.clone());
        self.call = Some(tokio::spawn(async move {
            let begun = timeout(STARTED + CALL, begin(&moves, &monitor, &pod, &to)).await;
            let begun = begun.unwrap_or_else(|_| Err(LATE.to_owned()));
            *memory.lock().unwrap_or_else(PoisonError::into_inner) = match begun {
                Ok(()) => Memory::Begun,
                Err(why) => Memory::Failed(why),
            };
            moves.wake();
        }));
    }
}

/// The call proper: ends when QEMU sends through a socket that the kernel encrypts.
async fn begin(moves: &Moves, monitor: &Monitor, pod: &PodRef, to: &Destination) -> Result<(), String> {
    let pods = Api::<Pod>::namespaced(moves.client.clone(), pod.namespace.as_str());
    let found = timeout(API, pods.get_opt(to.name.as_str())).await;
    let found = found.map_err(|_| "the API server does not answer".to_owned())?.map_err(|error| error.to_string())?;
    let found = found.and_then(|pod| api::read(&pod).ok()).filter(|there| there.pod.uid == to.uid);
    let node =
        found.and_then(|there| there.node).ok_or_else(|| format!("pod {} is not there, or has no node", to.name))?;
    let peer = SocketAddr::new(address(&moves.client, &node).await?, moves.port);
    let named = |name: &str, uid: &Uid| Named { name: name.to_owned(), uid: uid.to_string() };
    let request = Migrate {
        namespace: pod.namespace.to_string(),
        source: named(pod.name.as_str(), &pod.uid),
        target: named(to.name.as_str(), &to.uid),
    };
    let waits = |reason: String| tracing::debug!(%pod, %node, reason, "the other agent lets the move wait");
    let identity = timeout(CERTIFICATE, moves.credentials.get(waits)).await.or_else(|_| moves.credentials.now())?;
    let deadline = Instant::now() + STARTED;
    let call = || timeout(CALL, migrate(peer, node.as_str(), &identity, request.clone(), waits));
    let mut called = call().await;
    if matches!(&called, Ok(Err(error)) if is_refused(error)) {
        tracing::info!(%pod, %node, "the agent of the other node does not listen yet; calling it again for {STARTED:?}");
    }
    while let Ok(Err(error)) = &called
        && is_refused(error)
        && Instant::now() < deadline
    {
        sleep(LISTENS).await;
        called = call().await;
    }
    let socket = called.map_err(|_| LATE.to_owned())?.map_err(|error| match error {
        // Says by itself who it was.
        LinkError::Denied { .. } => chain(&error),
        _ => format!("the agent of node {node} cannot be called: {}", chain(&error)),
    })?;
    migration::send(monitor, socket).await.map_err(|error| format!("QEMU does not send: {}", chain(&error)))?;
    tracing::info!(%pod, to = %to.name, %node, "sending the virtual machine");
    Ok(())
}

/// The node is there, and nobody listens.
fn is_refused(error: &LinkError) -> bool {
    matches!(error, LinkError::Broken { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
}

fn translate(pace: Pace) -> migration::Pace {
    match pace {
        Pace::Crawl => migration::Pace::Crawl,
        Pace::Walk => migration::Pace::Walk,
        Pace::Run => migration::Pace::Run,
    }
}
