//! When the pod of an attachment is started.
//!
//! To start it takes more of a processor than to bring the device, and nobody waits for that pod: so it is started when the devices that
//! are on their way into guests are in. Nothing but who uses the processors first depends on it.

use std::time::Duration;

use super::{Located, Observed, Source, Step, locate};

/// No start waits longer: more than sixteen devices need that come at once.
pub const DEVICES_FIRST: Duration = Duration::from_secs(15);
/// How long a guest may need to take in a device that was plugged. Nobody tells when it has.
pub(super) const TAKEN_IN: Duration = Duration::from_secs(5);

/// What is known of an attachment whose claim has been prepared, and whose pod is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starting {
    /// The last look at the node knew of the claim: before it, nothing has been done about its device.
    pub seen: bool,
    /// The attachment does not want its device any more. One that was not seen yet does: the kubelet may know it before us.
    pub unwanted: bool,
    /// A device was on its way into a guest: [`is_bringing`].
    pub bringing: bool,
}

/// Whether a pod is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// When nothing of what is known has changed for so long.
    After(Duration),
    /// Not as things are.
    NotYet,
}

/// Decides about a start.
pub fn start(known: Starting) -> Start {
    match known {
        // It has to start before it can end.
        Starting { unwanted: true, .. } => Start::Now,
        Starting { seen: true, bringing: false, .. } => Start::After(TAKEN_IN),
        Starting { .. } => Start::NotYet,
    }
}

/// Whether a device is on its way into a guest.
pub fn is_bringing(seen: &Observed) -> bool {
    seen.attachments.iter().filter(|(_, attachment)| attachment.wanted).any(|(uid, attachment)| {
        let Some(source) = &attachment.source else { return false };
        let Some(machine) = seen.machines.get(&attachment.vm_pod.uid) else { return false };
        if seen.moving.contains(&attachment.vm_pod.uid) {
            return false;
        }
        match locate(seen, uid, source) {
            Located::At(address) => {
                let failed = seen.failures.contains_key(&Step::Plug(uid.clone()));
                !failed && !machine.iter().any(|p| p.address == Some(address) && p.device == attachment.device)
            }
            Located::Missing(step, _) => step.is_some() || seen.calls.contains_key(uid) || is_coming(seen, source),
        }
    })
}

/// Whether the kernel has a device's session and not yet the device.
fn is_coming(seen: &Observed, source: &Source) -> bool {
    match source {
        Source::Local { .. } => false,
        Source::Remote { port, claim, .. } => seen.ports.get(port).is_some_and(|port| port.holds(&claim.uid)),
    }
}
