//! How a device or a cable is, in one word: what its colour says.

use patchbay_core::conditions::{ConditionType, Reason, find};
use patchbay_core::controller::why::{Finding, Link, Remedy};
use patchbay_core::controller::world::DeviceStatus;
use serde::Serialize;

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// In the guest, or in the pod.
    Attached,
    /// On its way, or waiting for somebody.
    Waiting,
    /// Its machine does not run.
    Off,
    /// Something is wrong.
    Failed,
    /// Its cable is out.
    Unplugged,
    /// A namespace has it, and no machine asks for it.
    Idle,
    /// No namespace has it.
    Free,
}

impl State {
    /// Of a device, from its chain.
    pub(super) fn of_device(found: &[Finding], status: &DeviceStatus, assigned: bool) -> Self {
        match Self::of_chain(found, status) {
            Self::Waiting if !assigned => Self::Free,
            Self::Waiting if found.last().is_some_and(|last| last.link == Link::Listed) => Self::Idle,
            state => state,
        }
    }

    /// Of a cable, from the chain of its device to its machine.
    pub(super) fn of_chain(found: &[Finding], status: &DeviceStatus) -> Self {
        let Some((link, trouble)) = found.last().map(|last| (last.link, last.state.as_ref().err())) else {
            return Self::Waiting;
        };
        let Some(trouble) = trouble else { return Self::Attached };
        let absent = find(&status.conditions, ConditionType::Ready).is_some_and(|c| c.reason == Reason::NotFound);
        let full =
            find(&status.conditions, ConditionType::Attached).is_some_and(|c| c.reason == Reason::NoFreeUSBIPPort);
        match (link, &trouble.remedy) {
            (Link::Cable, _) => Self::Unplugged,
            (Link::Ready, _) if absent => Self::Unplugged,
            (Link::Ready, Remedy::CheckController) => Self::Waiting,
            (Link::Slice | Link::Ready, _) => Self::Failed,
            (Link::Running, _) => Self::Off,
            // A pod that has a place is on its way; one that finds none is not.
            (Link::Scheduled, Remedy::FreePort(_) | Remedy::DescribePod { .. }) => Self::Failed,
            (Link::Plugged, Remedy::AsSaid) if full => Self::Failed,
            _ => Self::Waiting,
        }
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::controller::why::Trouble;

    use super::*;

    #[test]
    fn a_chain_has_the_colour_of_what_holds_it_up() {
        let bad = |link, remedy| Finding { link, state: Err(Trouble { why: String::new(), remedy }) };
        let node = || "node-1".into();
        let list = || Remedy::List { device: "webcam".into(), namespace: "blue".into(), vm: None };
        for (last, cable, device) in [
            (Finding { link: Link::Plugged, state: Ok(String::new()) }, State::Attached, State::Attached),
            (bad(Link::Cable, Remedy::PlugIn { anywhere: true }), State::Unplugged, State::Unplugged),
            (bad(Link::Slice, Remedy::CheckAgent(node())), State::Failed, State::Failed),
            (bad(Link::Ready, Remedy::AsSaid), State::Failed, State::Failed),
            (bad(Link::Listed, list()), State::Waiting, State::Idle),
            (bad(Link::Running, Remedy::AsSaid), State::Off, State::Off),
            (bad(Link::Scheduled, Remedy::FreePort(node())), State::Failed, State::Failed),
            (bad(Link::Plugged, Remedy::Wait), State::Waiting, State::Waiting),
        ] {
            let (found, status) = ([last], DeviceStatus::default());
            let states = (State::of_chain(&found, &status), State::of_device(&found, &status, true));
            assert_eq!(states, (cable, device), "{found:?}");
        }
        let found = [bad(Link::Assigned, Remedy::AsSaid)];
        assert_eq!(State::of_device(&found, &DeviceStatus::default(), false), State::Free);
    }
}
