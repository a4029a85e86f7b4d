//! What a watch has shown of all objects of a kind, each with the moment at which it became so.
//!
//! So a measurement does not depend on how often somebody looks: the time at which the last of many objects became right is
//! known when all are. Only what a measurement is about is kept of each object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use patchbay_api::device_status::Condition;
use patchbay_api::{NodeUSBDevice, VirtualMachine};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::api;
use crate::wait::wait_for;

/// Objects by name, `namespace/name` of those that have a namespace.
type Objects<V> = BTreeMap<String, (V, Instant)>;

/// What is known of all objects of a kind. Nobody watches any more once this is dropped.
pub(super) struct Seen<V> {
    objects: Arc<Mutex<Objects<V>>>,
    _held: watch::Sender<()>,
}

impl<V: Debug + PartialEq + Send + 'static> Seen<V> {
    /// Begins to watch; `read` tells what matters.
    pub(super) fn of<K>(all: Api<K>, read: fn(&K) -> V) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let objects = Arc::<Mutex<Objects<V>>>::default();
        let (held, mut watched) = watch::channel(());
        let notes = Arc::clone(&objects);
        api::spawn(async move {
            let mut events = pin!(watcher(all, Config::default()).default_backoff());
            loop {
                tokio::select! {
                    Some(event) = events.next() => match event {
                        Ok(Event::Apply(object) | Event::InitApply(object)) => {
                            note(&mut lock(&notes), key(&object), read(&object), Instant::now());
                        }
                        Ok(Event::Delete(object)) => drop(lock(&notes).remove(&key(&object))),
                        // What fails is tried again.
                        Ok(Event::Init | Event::InitDone) | Err(_) => {}
                    },
                    _ = watched.changed() => return,
                }
            }
        });
        Self { objects, _held: held }
    }

    /// Waits until all of these are as they should be; says when the last of them became so. `alive` fails when there is nothing
    /// to wait for any more.
    ///
    /// # Errors
    /// When one is not in time: which one, and what it is; and the error of `alive`.
    pub(super) fn until(
        &self,
        what: &str,
        deadline: Duration,
        names: &BTreeSet<String>,
        good: impl Fn(&V) -> bool,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<Instant> {
        let mut last = None;
        wait_for(what, deadline, || {
            if let Err(error) = alive() {
                return Ok(Err(error));
            }
            let objects = lock(&self.objects);
            let is_wrong = |name: &&String| !objects.get(*name).is_some_and(|(value, _)| good(value));
            // They become right in about their order. So one look is enough, nearly always.
            last = last.filter(is_wrong).or_else(|| names.iter().rev().find(is_wrong));
            match last {
                Some(name) => Err(format!("{name} is {:?}", objects.get(name).map(|(value, _)| value))),
                None => {
                    Ok(names.iter().filter_map(|name| objects.get(name)).map(|(_, since)| *since).max().context("none"))
                }
            }
        })?
    }
}

/// The moment is that of the last change.
fn note<V: PartialEq>(objects: &mut Objects<V>, name: String, value: V, now: Instant) {
    if objects.get(&name).is_none_or(|(before, _)| *before != value) {
        objects.insert(name, (value, now));
    }
}

/// As in the maps.
fn key<K: Resource>(object: &K) -> String {
    let name = object.name_any();
    object.namespace().map_or(name.clone(), |namespace| format!("{namespace}/{name}"))
}

fn lock<V>(objects: &Mutex<Objects<V>>) -> MutexGuard<'_, Objects<V>> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a `NodeUSBDevice` says. None: not yet, or neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceState {
    /// It can be used.
    pub(super) ready: Option<bool>,
    /// It is given to a namespace.
    pub(super) assigned: bool,
    /// It is in a machine (true), or free (false).
    pub(super) attached: Option<bool>,
}

impl DeviceState {
    /// Reads it.
    pub(super) fn of(object: &NodeUSBDevice) -> Self {
        let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let attached = |condition: &Condition| match condition.reason.as_str() {
            "AttachedToVirtualMachine" => Some(true),
            "Available" => Some(false),
            _ => None,
        };
        Self {
            ready: find("Ready").map(|condition| condition.status == "True"),
            assigned: find("Assigned").is_some_and(|condition| condition.status == "True"),
            attached: find("Attached").and_then(attached),
        }
    }
}

/// What a machine says, beside what it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MachineState {
    /// It runs.
    pub(super) runs: bool,
    /// How many devices it lists.
    pub(super) listed: usize,
    /// How many it says something of.
    pub(super) told: usize,
    /// How many are attached.
    pub(super) attached: usize,
}

impl MachineState {
    /// Reads it.
    pub(super) fn of(object: &VirtualMachine) -> Self {
        let listed = object.spec.usb_devices.len();
        let Some(status) = &object.status else { return Self { listed, ..Self::default() } };
        let devices = status.usb_devices.as_deref().unwrap_or_default();
        Self {
            runs: status.phase.as_deref() == Some("Running"),
            listed,
            told: devices.len(),
            attached: devices.iter().filter(|device| device.attached).count(),
        }
    }

    /// It runs, and has what it lists and nothing else.
    pub(super) fn is_complete(&self) -> bool {
        self.runs && self.told == self.listed && self.attached == self.listed
    }
}

/// Whether pods may be scheduled to a node.
pub(super) fn takes_pods(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default().is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object<K: DeserializeOwned>(kind: &str, spec: Value, status: Value) -> K {
        serde_json::from_value(json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": kind, "metadata": {"name": "a"},
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_device_is_attached_or_free_by_the_reason_of_its_condition() {
        let of = |reason: &str| {
            let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let conditions = [condition("Ready", "False", "NotReady"), condition("Attached", "True", reason)];
            DeviceState::of(&object("NodeUSBDevice", json!({}), json!({"conditions": conditions})))
        };
        let state = |attached| DeviceState { ready: Some(false), assigned: false, attached };
        assert_eq!(of("AttachedToVirtualMachine"), state(Some(true)));
        assert_eq!(of("Available"), state(Some(false)));
        assert_eq!(of("NoFreeUSBIPPort"), state(None));
        assert_eq!(DeviceState::of(&object("NodeUSBDevice", json!({}), json!({}))), DeviceState::default());
    }

    #[test]
    fn a_machine_is_complete_when_it_has_what_it_lists_and_nothing_else() {
        let of = |listed: &[&str], attached: &[(&str, bool)]| {
            let listed: Vec<_> = listed.iter().map(|name| json!({"name": name})).collect();
            let told = |(name, attached): &(&str, bool)| json!({"name": name, "attached": attached, "ready": true, "message": ""});
            let devices: Vec<_> = attached.iter().map(told).collect();
            let status = json!({"phase": "Running", "usbDevices": devices});
            MachineState::of(&object("VirtualMachine", json!({"image": "none", "usbDevices": listed}), status))
                .is_complete()
        };
        assert!(of(&[], &[]) && of(&["a"], &[("a", true)]));
        assert!(!of(&["a"], &[]) && !of(&["a"], &[("a", false)]) && !of(&[], &[("a", true)]));
    }

    #[test]
    fn the_moment_of_an_object_is_that_of_its_last_change() {
        let begin = Instant::now();
        let later = begin + Duration::from_secs(1);
        let mut objects = Objects::new();
        note(&mut objects, "a".to_owned(), 1, begin);
        note(&mut objects, "a".to_owned(), 1, later);
        assert_eq!(objects["a"], (1, begin));
        note(&mut objects, "a".to_owned(), 2, later);
        assert_eq!(objects["a"], (2, later));
    }
}
