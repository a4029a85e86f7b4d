//! What is wrong with an installation, as far as the cluster and its nodes tell.
//!
//! From objects that were read, from what agents say when they are asked, and from what could not be read or asked, to findings:
//! one for each check, each with one line of what is seen, and with what to do where something is wrong. Nothing is guessed.
//!
//! | module | judges |
//! |---|---|
//! | [`seen`] | nothing: it is what was read |
//! | `cluster` | the API server and what is installed in it |
//! | `programs` | the controller, and the agents as a whole |
//! | `placement` | why a node has no agent |
//! | `nodes` | each node: its agent, what that publishes, and who waits there |
//! | `inside` | what only a node itself can tell: kernel, kubelet, certificate, and whom its agent reaches |
//! | `waiting` | what has not come, or not gone, for too long |

mod cluster;
mod inside;
mod nodes;
mod placement;
mod programs;
mod remedy;
pub mod seen;
mod waiting;

pub use inside::to_ask;
pub use remedy::Remedy;
pub use seen::Seen;
pub use waiting::stuck;

use crate::conditions::Seconds;
use crate::names::NodeName;

/// What has not come for so long, in seconds, does not come by itself.
pub const STUCK_AFTER: Seconds = 60;

/// For so long, in seconds, the end of a container is worth a word.
pub const RECENT: Seconds = 86_400;

/// What was found by one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check, in a word or two.
    pub check: &'static str,
    /// What was found.
    pub state: State,
}

/// How it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be: what is seen.
    Good(String),
    /// Not wrong, but to be known.
    Note(String, Remedy),
    /// Wrong: what is seen, and what to do.
    Bad(String, Remedy),
    /// It could not be asked, and why.
    Unasked(String),
}

/// What all findings come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    Well,
    /// Something is wrong.
    Wrong,
    /// Nothing that was seen is wrong, but not all could be seen.
    Unsure,
}

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of the cluster.
    pub cluster: Vec<Finding>,
    /// Of each node, in the order of their names.
    pub nodes: Vec<(NodeName, Vec<Finding>)>,
}

impl Report {
    /// All findings, one after the other.
    pub fn all(&self) -> impl Iterator<Item = &Finding> {
        self.cluster.iter().chain(self.nodes.iter().flat_map(|(_, found)| found))
    }

    /// What they come to.
    pub fn verdict(&self) -> Verdict {
        let any = |is: fn(&State) -> bool| self.all().any(|finding| is(&finding.state));
        match (any(|s| matches!(s, State::Bad(..))), any(|s| matches!(s, State::Unasked(_)))) {
            (true, _) => Verdict::Wrong,
            (false, true) => Verdict::Unsure,
            (false, false) => Verdict::Well,
        }
    }
}

/// Judges what was seen.
pub fn examine(seen: &Seen) -> Report {
    let mut cluster = Vec::new();
    cluster::examine(seen, &mut cluster);
    programs::examine(seen, &mut cluster);
    cluster::rights(seen, &mut cluster);
    Report { cluster, nodes: nodes::examine(seen) }
}

/// Adds findings of one check, by its name.
struct Check<'f>(&'static str, &'f mut Vec<Finding>);

impl Check<'_> {
    fn add(&mut self, state: State) {
        self.1.push(Finding { check: self.0, state });
    }

    fn good(&mut self, text: impl Into<String>) {
        self.add(State::Good(text.into()));
    }

    fn note(&mut self, text: impl Into<String>, remedy: Remedy) {
        self.add(State::Note(text.into(), remedy));
    }

    fn bad(&mut self, text: impl Into<String>, remedy: Remedy) {
        self.add(State::Bad(text.into(), remedy));
    }

    /// What was asked, or None once it is said that it could not be.
    fn asked<'a, T>(&mut self, asked: &'a seen::Asked<T>) -> Option<&'a T> {
        match asked {
            Ok(found) => Some(found),
            Err(why) => {
                self.add(State::Unasked(why.clone()));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
