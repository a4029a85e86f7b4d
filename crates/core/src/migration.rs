//! Moving a virtual machine from its pod to another one while it runs: what the agents of the two nodes do and say.
//!
//! ```text
//!            annotation migrate-to                        pause            move: target
//!   S:  runs --------------------> Moving (its memory goes) ----> Paused ------------------> gone
//!                                    |                        |   move: source
//!                                    +------> Failed <--------+-------------------> runs on
//!
//!   T:  waits (migrate-from) ------> loading ---------------------> Loaded --move: target--> Running
//! ```
//!
//! S is the pod in which the machine runs, T the one that was made for this move. The controller makes T, writes `migrate-to`
//! and takes the one decision, `move`; the agents write the condition `Migrated`.
//!
//! # What is kept true
//!
//! * The machine runs in one pod. From the pause on it is paused in both, and neither agent lets it run before the decision. T
//!   runs it only if the decision is `target`. QEMU resumes it at S by itself, but only when T cannot have loaded it (see
//!   `patchbay_qmp::migration`), so that the decision cannot be `target`.
//! * While the machine is being sent, before the last of it leaves S, S is marked, so that its engine does not start the machine again, whatever ends
//!   QEMU. The mark is taken back when the decision is `source`.
//! * The machine's USB devices are out of it before the pause: QEMU does not send them so that a guest could go on with them, or
//!   without. They stay in while the bulk of its memory goes, and are taken out, while the guest runs, when little is left. If
//!   QEMU was faster than that, the move fails and the machine stays.
//! * All is read back from annotations, conditions and QEMU. What an agent remembers beyond that only makes it faster; one that
//!   was restarted in a moment that leaves a doubt says `Failed`, and the machine stays.

mod source;
mod target;

#[cfg(test)]
mod tests;

use crate::home::Verdict;
use crate::names::{NodeName, PodName, PodRef, Uid, VmName};

pub use source::{Memory, Pace, Source, SourceStep, look_again, source};
pub use target::{Target, TargetStep, target};

/// The pod that a machine is to move to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its name; in the namespace of the pod that the machine runs in.
    pub name: PodName,
    /// Its uid.
    pub uid: Uid,
}

/// Where the machine runs from now on. There is one answer to each move, and it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// Where it came from.
    Source,
    /// Where it has been loaded.
    Target,
}

impl Decision {
    /// As in the annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }

    /// Reads the annotation.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Source, Self::Target].into_iter().find(|decision| decision.as_str() == text)
    }
}

/// How far a move is, as an agent tells it in the condition `Migrated` of its pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Report {
    /// On S: it is being sent, so many percent of it.
    Moving(Option<u8>),
    /// On S: the machine is paused, and the rest is being sent.
    Paused,
    /// On T: it has been loaded and is paused.
    Loaded,
    /// On T: it runs here.
    Running,
    /// On either: it did not work, for this reason.
    Failed(String),
}

impl Report {
    /// The condition's reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Moving(_) => "Moving",
            Self::Paused => "Paused",
            Self::Loaded => "Loaded",
            Self::Running => "Running",
            Self::Failed(_) => "Failed",
        }
    }

    /// The condition's message.
    pub fn message(&self) -> String {
        match self {
            Self::Moving(None) => "being sent".to_owned(),
            Self::Moving(Some(percent)) => format!("{percent} % sent"),
            Self::Paused => "paused for the switch".to_owned(),
            Self::Loaded => "loaded, and paused for the switch".to_owned(),
            Self::Running => "the virtual machine has arrived".to_owned(),
            Self::Failed(why) => why.clone(),
        }
    }

    /// Reads a condition's reason and message.
    pub fn parse(reason: &str, message: &str) -> Option<Self> {
        Some(match reason {
            "Moving" => Self::Moving(message.strip_suffix(" % sent").and_then(|percent| percent.parse().ok())),
            "Paused" => Self::Paused,
            "Loaded" => Self::Loaded,
            "Running" => Self::Running,
            "Failed" => Self::Failed(message.to_owned()),
            _ => return None,
        })
    }
}

/// How far QEMU is with a migration: the words of `patchbay_qmp::migration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// There was none in this QEMU.
    None,
    /// Memory goes while the guest runs.
    Active,
    /// The guest is paused until QEMU is told to go on.
    PreSwitchover,
    /// The rest goes.
    Device,
    /// All is sent, or loaded.
    Completed,
    /// It has failed or was cancelled.
    Ended,
    /// It is on its way to that, or somewhere unknown.
    Ending,
}

impl Phase {
    /// Whether QEMU is at it.
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Active | Self::PreSwitchover | Self::Device | Self::Ending)
    }
}

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guest {
    /// It runs.
    Runs,
    /// It is paused, and can go on.
    Paused,
    /// QEMU waits for it to come.
    Awaited,
    /// It has crashed, or is in another state that is not ours to end.
    Other,
}

/// What QEMU says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Qemu {
    /// How far the migration is.
    pub phase: Phase,
    /// How much is sent, of 100.
    pub percent: Option<u8>,
    /// Bytes of memory that are to be sent yet.
    pub left: Option<u64>,
    /// Why it has failed.
    pub error: Option<String>,
    /// What the guest does.
    pub guest: Guest,
}

/// A pod of a virtual machine, as far as moves are concerned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// The pod.
    pub pod: PodRef,
    /// The machine.
    pub vm: VmName,
    /// Where it is.
    pub node: Option<NodeName>,
    /// Its phase is `Running`.
    pub running: bool,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// It was made for the machine of this pod.
    pub from: Option<Uid>,
    /// Its machine is to move there.
    pub to: Option<Destination>,
    /// What has been decided of that.
    pub decision: Option<Decision>,
    /// What its agent has said, and of a move to which pod.
    pub reported: Option<(PodName, Report)>,
}

impl Pod {
    /// What its agent has said of the move that is asked for now.
    pub fn report(&self) -> Option<&Report> {
        let now = self.to.as_ref().map_or(&self.pod.name, |to| &to.name);
        self.reported.as_ref().filter(|(to, _)| to == now).map(|(_, report)| report)
    }

    /// Whether its machine may not be touched: it is about to move and where it will run is not decided, or it has not arrived.
    pub fn is_moving(&self) -> bool {
        match self.to {
            Some(_) => self.decision.is_none(),
            None => self.from.is_some() && self.report() != Some(&Report::Running),
        }
    }
}

/// What a caller asks the agent of T's node for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// The caller, by its certificate.
    pub peer: NodeName,
    /// The pod that the machine comes from.
    pub source: PodRef,
    /// The pod it is to come to.
    pub target: PodRef,
}

/// Judges a request to the agent of node `here`. `source` and `target` are the pods of these names as the API server has them
/// now. Default deny: what has not been asked for by the controller on both pods is not done.
pub fn authorise(here: &NodeName, request: &Request, source: Option<&Pod>, target: Option<&Pod>) -> Verdict {
    let deny = |text: String| Verdict::Deny(text);
    let (s, t) = (&request.source, &request.target);
    let Some(target) = target.filter(|pod| pod.pod == *t) else {
        return deny(format!("pod {t} does not exist with uid {}", t.uid));
    };
    let Some(source) = source.filter(|pod| pod.pod == *s) else {
        return deny(format!("pod {s} does not exist with uid {}", s.uid));
    };
    if target.node.as_ref() != Some(here) || !target.running || target.deleting {
        return deny(format!("pod {t} does not run on node {here}"));
    }
    if source.node.as_ref() != Some(&request.peer) || source.deleting {
        return deny(format!("pod {s} does not run on node {}", request.peer));
    }
    if source.vm != target.vm || s.namespace != t.namespace {
        return deny(format!("pods {s} and {t} are not of one virtual machine"));
    }
    if target.from.as_ref() != Some(&s.uid) {
        return deny(format!("pod {t} was not made for the virtual machine in pod {s}"));
    }
    if source.to.as_ref().is_none_or(|to| to.uid != t.uid || to.name != t.name) {
        return deny(format!("the virtual machine in pod {s} is not asked to move to pod {t}"));
    }
    if source.decision.is_some() {
        return deny(format!("the move of the virtual machine in pod {s} is over"));
    }
    Verdict::Grant
}
