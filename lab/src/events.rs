//! What Events tell of our objects.

use std::fmt;

use anyhow::Result;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client};
use patchbay_api::keys;

use crate::api::request;

/// One Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The namespace, the kind and the name of the object: `blue/USBDevice/webcam`.
    pub about: String,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// The condition's reason.
    pub reason: String,
    /// The condition's message.
    pub note: String,
    /// How often it was told.
    pub times: i32,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.reason)?;
        if self.times > 1 {
            write!(f, " x{}", self.times)?;
        }
        write!(f, ": {}", self.note)
    }
}

/// All Events of our controller, in the order in which they were first told.
///
/// # Errors
/// The API server's.
pub fn all(client: Client) -> Result<Vec<Told>> {
    let found = request("list the Events", Api::<Event>::all(client).list(&ListParams::default()))?;
    let ours = |event: &Event| event.reporting_controller.as_deref() == Some(keys::CONTROLLER);
    let mut events: Vec<Event> = found.into_iter().filter(ours).collect();
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    Ok(events.into_iter().map(told).collect())
}

fn told(event: Event) -> Told {
    let regarding = event.regarding.unwrap_or_default();
    let namespace = regarding.namespace.map_or(String::new(), |namespace| format!("{namespace}/"));
    Told {
        about: format!("{namespace}{}/{}", regarding.kind.unwrap_or_default(), regarding.name.unwrap_or_default()),
        kind: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        note: event.note.unwrap_or_default(),
        times: event.series.map_or(1, |series| series.count),
    }
}

/// How often a reason was told.
pub fn times(told: &[Told], reason: &str) -> i32 {
    told.iter().filter(|told| told.reason == reason).map(|told| told.times).sum()
}
