//! The task for a pod that was made for a machine which comes from another node.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use patchbay_api::{keys, migration as api};
use patchbay_core::migration::{Decision, Phase, Pod as Machine, Report, Target, TargetStep, target};
use patchbay_core::names::Uid;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Moves;
use super::marks;
use super::qemu::Connection;
use super::said::Said;
use crate::agent::pods::lighten;
use crate::agent::steps::{blocking, chain};
use crate::vm::marks::ARRIVED;

/// The net under the events.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Watches all pods of one machine, on whatever node; ends with the value.
struct Siblings {
    pods: reflector::Store<Pod>,
    watcher: JoinHandle<()>,
}

impl Drop for Siblings {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Siblings {
    fn of(moves: &Arc<Moves>, machine: &Machine) -> Self {
        let (pods, writer) = reflector::store();
        let namespaced = Api::<Pod>::namespaced(moves.client.clone(), machine.pod.namespace.as_str());
        let selection = watcher::Config::default().labels(&format!("{}={}", keys::VM_NAME, machine.vm));
        let events = reflector(writer, watcher(namespaced, selection).modify(lighten)).default_backoff();
        let woken = moves.clone();
        let watcher = tokio::spawn(events.for_each(move |event| {
            if let Err(error) = event {
                tracing::warn!(%error, "watch of the pod that a virtual machine comes from: the last state is kept");
            }
            woken.wake();
            std::future::ready(())
        }));
        Self { pods, watcher }
    }

    /// What has been decided of the move to `target`.
    fn decision(&self, target: &Machine) -> Option<Decision> {
        let all = self.pods.state();
        let mut all = all.iter().filter_map(|pod| api::read(pod).ok());
        let source = all.find(|pod| target.from.as_ref() == Some(&pod.pod.uid))?;
        source.to.as_ref().filter(|to| to.uid == target.pod.uid).and(source.decision)
    }
}

/// Runs until the machine runs in its pod, or the pod is gone.
pub(super) async fn run(moves: &Arc<Moves>, uid: &Uid) {
    let mut changed = moves.changed.subscribe();
    let mut qemu = Connection::new(moves.folder.join(uid.as_str()).join(api::run_folder()));
    let (mut said, mut siblings, mut decision) = (Said::default(), None, None);
    loop {
        changed.borrow_and_update();
        let Some(machine) = moves.machine(uid) else { return };
        let siblings = siblings.get_or_insert_with(|| Siblings::of(moves, &machine));
        // It never changes, and the pod that carries it may vanish.
        decision = decision.or_else(|| siblings.decision(&machine));
        let (folder, pod) = (moves.folder.clone(), uid.clone());
        let marked = blocking(move || Ok(marks::is_there(&folder, &pod, ARRIVED))).await.unwrap_or(false);
        let state = qemu.look().await;
        let failed = moves.load(uid, |load| {
            load.monitor = qemu.monitor().ok().cloned().map(|monitor| (monitor, qemu.number()));
            let anew = state.as_ref().is_some_and(|state| state.phase == Phase::None);
            let another = |begun| qemu.is_gone() || (qemu.number() != begun && anew);
            if load.begun.is_some_and(another) && load.failed.is_none() {
                load.failed = Some("QEMU has ended while it loaded the virtual machine, or afterwards".to_owned());
            }
            load.failed.clone()
        });
        let reported = said.or(machine.report());
        let seen = Target { decision, qemu: state, marked, reported, failed };
        let steps = target(&seen);
        if steps.is_empty() && seen.reported == Some(Report::Running) {
            return;
        }
        let idle = steps.is_empty();
        for step in steps {
            let done = match &step {
                TargetStep::Mark => {
                    let (folder, pod) = (moves.folder.clone(), uid.clone());
                    blocking(move || marks::write(&folder, &pod, ARRIVED)).await
                }
                TargetStep::Run => match qemu.monitor() {
                    Ok(monitor) => monitor.cont().await.map_err(|error| chain(&error)),
                    Err(why) => Err(why),
                },
                TargetStep::Quit => match qemu.monitor() {
                    Ok(monitor) => monitor.quit().await.map_err(|error| chain(&error)),
                    Err(why) => Err(why),
                },
                TargetStep::Report(report) => said.say(moves, &machine.pod, &machine.pod.name, report).await,
            };
            if let Err(why) = done {
                tracing::warn!(pod = %machine.pod, ?step, why, "step of a move failed");
                sleep(LOOK_AGAIN).await;
                break;
            }
        }
        if !idle && seen.decision.is_none() {
            continue;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = qemu.news() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}
