//! What a `NodeUSBDevice` has ever said of one thing: a watch sees also what is true only for a moment.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::{Api, WatchParams};
use patchbay_api::NodeUSBDevice;
use serde_json::json;

use crate::api;
use crate::case::{SOON, condition};
use crate::cluster::Lab;
use crate::wait::patient;

/// One condition of a device, from one change to the next.
pub struct History {
    device: String,
    kind: &'static str,
    objects: Receiver<(Instant, NodeUSBDevice)>,
    last: Option<(String, String)>,
}

impl History {
    /// Begins with what the condition, of a type such as `Assigned`, is now.
    ///
    /// # Errors
    /// When the watch shows nothing.
    pub fn begin(lab: &Lab, device: &str, kind: &'static str) -> Result<Self> {
        let params = WatchParams::default().fields(&format!("metadata.name={device}"));
        let objects = api::watch(Api::all(lab.api()), params);
        let mut history = Self { device: device.to_owned(), kind, objects, last: None };
        history.next(Instant::now() + patient(SOON))?;
        Ok(history)
    }

    /// Everything it says, `reason: message` each, up to the first that has these words in it.
    ///
    /// # Errors
    /// After the deadline: what was said until then.
    pub fn until(&mut self, words: &str, deadline: Duration) -> Result<Vec<String>> {
        let (end, mut told) = (Instant::now() + patient(deadline), Vec::new());
        loop {
            let (reason, message) = self.next(end).with_context(|| format!("waiting for {words:?} after {told:#?}"))?;
            told.push(format!("{reason}: {message}"));
            if told.last().is_some_and(|last| last.contains(words)) {
                return Ok(told);
            }
        }
    }

    /// The next change of reason or message.
    fn next(&mut self, end: Instant) -> Result<(String, String)> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((_, object)) = self.objects.recv_timeout(left) else {
                bail!("{} of NodeUSBDevice {} is still {:?}", self.kind, self.device, self.last);
            };
            let (_, reason, message) = condition(&json!(object), self.kind);
            let now = (reason, message);
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now.clone());
                return Ok(now);
            }
        }
    }
}
