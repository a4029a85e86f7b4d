//! What whoever reads a pool's slices sees: of the slices of the highest generation, all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use patchbay_lab::api;
use tokio::sync::watch;

use crate::stage::{Stage, eventually};

/// The devices of a pool, or nothing while it is not complete. The error is something nobody may ever see.
pub(crate) fn read<'s>(slices: impl IntoIterator<Item = &'s ResourceSlice>) -> Result<Option<Vec<Device>>, String> {
    let mut latest: Vec<&ResourceSlice> = slices.into_iter().collect();
    let highest = latest.iter().map(|slice| slice.spec.pool.generation).max();
    latest.retain(|slice| Some(slice.spec.pool.generation) == highest);
    latest.sort_by_key(|slice| slice.name_any());
    let counts: BTreeSet<_> = latest.iter().map(|slice| slice.spec.pool.resource_slice_count).collect();
    let found = i64::try_from(latest.len()).unwrap();
    let (Some(count), true) = (counts.first(), counts.len() <= 1 && counts.iter().all(|count| found <= *count)) else {
        return if latest.is_empty() { Ok(None) } else { Err(format!("{found} slices say {counts:?}")) };
    };
    if found < *count {
        return Ok(None);
    }
    let devices: Vec<Device> = latest.iter().flat_map(|slice| slice.spec.devices.iter().flatten()).cloned().collect();
    let names: BTreeSet<_> = devices.iter().map(|device| &device.name).collect();
    if names.len() == devices.len() { Ok(Some(devices)) } else { Err("a device is there twice".to_owned()) }
}

/// Reads along at every event, and checks that each complete pool is one that was wanted, none older than one seen before.
pub(crate) struct Reader {
    notes: Arc<Mutex<Notes>>,
    _reading: watch::Sender<()>,
}

#[derive(Default)]
struct Notes {
    slices: BTreeMap<String, ResourceSlice>,
    /// All that was ever wanted.
    editions: Vec<Vec<Device>>,
    /// Which of them was seen last.
    seen: Option<usize>,
    events: usize,
    problems: Vec<String>,
}

impl Reader {
    /// Begins to read a pool.
    pub(crate) fn new(stage: &Stage, pool: &str) -> Self {
        let notes = Arc::<Mutex<Notes>>::default();
        let (reading, until) = watch::channel(());
        api::spawn(follow(stage.all(), pool.to_owned(), notes.clone(), until));
        Self { notes, _reading: reading }
    }

    /// From now on the pool may be seen to hold these devices.
    pub(crate) fn expect(&self, devices: Vec<Device>) {
        self.notes.lock().unwrap().editions.push(devices);
    }

    /// Waits until the devices that were expected last are seen.
    pub(crate) fn sees_the_last(&self) {
        eventually("the newest edition of the pool to be seen", || {
            let notes = self.notes.lock().unwrap();
            let newest = notes.editions.len().checked_sub(1);
            if notes.seen == newest { Ok(()) } else { Err(format!("{:?}, of {newest:?}", notes.seen)) }
        });
    }

    /// How many events there were, after checking that all was well at each.
    pub(crate) fn was_never_misled(&self) -> usize {
        let notes = self.notes.lock().unwrap();
        assert_eq!(notes.problems, Vec::<String>::new());
        notes.events
    }
}

impl Notes {
    fn judge(&mut self) {
        self.events += 1;
        match read(self.slices.values()) {
            Err(problem) => self.problems.push(problem),
            Ok(None) => {}
            Ok(Some(devices)) => {
                let first = self.seen.unwrap_or(0);
                match self.editions.iter().skip(first).position(|edition| *edition == devices) {
                    Some(offset) => self.seen = Some(first + offset),
                    None => self.problems.push(format!("{} devices that nobody wants any more, or yet", devices.len())),
                }
            }
        }
    }
}

async fn follow(slices: Api<ResourceSlice>, pool: String, notes: Arc<Mutex<Notes>>, mut until: watch::Receiver<()>) {
    let mut events = pin!(watcher(slices, watcher::Config::default()));
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = until.changed() => return,
        };
        // What cannot be read now is read when the watch is back.
        let Some(Ok(event)) = event else { continue };
        let mut notes = notes.lock().unwrap();
        match event {
            Event::Init => notes.slices.clear(),
            Event::InitApply(slice) if slice.spec.pool.name == pool => {
                drop(notes.slices.insert(slice.name_any(), slice))
            }
            Event::InitDone => notes.judge(),
            Event::Apply(slice) if slice.spec.pool.name == pool => {
                notes.slices.insert(slice.name_any(), slice);
                notes.judge();
            }
            Event::Delete(slice) if notes.slices.remove(&slice.name_any()).is_some() => notes.judge(),
            _ => {}
        }
    }
}
