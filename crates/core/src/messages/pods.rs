//! The reasons that agents give in conditions of pods: of attachments (`Plugged`) and of machines that move (`Migrated`).

/// A reason of a condition of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// The type of condition, without its prefix.
    pub condition: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// What it means, as a sentence.
    pub means: &'static str,
}

const fn plugged(reason: &'static str, means: &'static str) -> PodEntry {
    PodEntry { condition: "Plugged", reason, means }
}

const fn migrated(reason: &'static str, means: &'static str) -> PodEntry {
    PodEntry { condition: "Migrated", reason, means }
}

pub(super) const ENTRIES: &[PodEntry] = &[
    plugged("Plugged", "The device is in the guest; the message says at which port."),
    plugged("Unplugged", "The device is out of the guest, and its port and session are free."),
    plugged("Waiting", "The message says for what, once it takes longer than 2 s."),
    plugged("Failed", "The last try has failed, as the message says; it is tried again after at most 15 s."),
    plugged(
        "ClaimLost",
        "What the kubelet had prepared for the pod is gone (a claim was deleted by hand, or the node has lost its journal); the controller makes the pod anew.",
    ),
    migrated("Moving", "The machine's memory is being sent; the message says how much of it."),
    migrated("Paused", "The machine is paused, and the rest is being sent."),
    migrated("Loaded", "The new node has all of it, and waits for the decision where the machine runs."),
    migrated("Running", "The machine runs on the new node."),
    migrated("Failed", "It did not work; the message says why."),
];
