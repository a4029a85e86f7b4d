//! The API server's audit log: every write there was, by whom, and how it ended.

use std::fmt;
use std::path::Path;

use patchbay_lab::audit::{self, Request};
use patchbay_lab::product::ACCOUNTS;

/// One request that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// Who.
    pub(crate) user: String,
    /// What: `create pods/binding`.
    pub(crate) what: String,
    /// Which object: `namespace/name`, or the name alone.
    pub(crate) object: String,
    /// The answer's HTTP status.
    pub(crate) code: u64,
}

impl Write {
    /// One of our accounts did it, and it is neither about the lease nor an Event, which is told besides.
    pub(crate) fn is_of(&self, account: &str) -> bool {
        let besides = [" leases", " events"].iter().any(|kind| self.what.ends_with(kind));
        self.user.strip_prefix(ACCOUNTS) == Some(account) && !besides
    }

    /// Neither done nor one of the answers that count as done: that it is there already, gone, or another one by now.
    pub(crate) fn is_refused(&self) -> bool {
        self.code >= 400 && !matches!(self.code, 404 | 409)
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.what, self.object, self.code)
    }
}

/// All writes so far, the oldest first.
pub(crate) fn read(log: &Path) -> Vec<Write> {
    std::fs::read_to_string(log).unwrap_or_default().lines().filter_map(of_line).collect()
}

/// The lists and watches of slices by agents so far, with their selectors.
pub(crate) fn looks_at_slices(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let is_look = |request: &Request| {
        request.account() == Some("agent")
            && ["list resourceslices", "watch resourceslices"].contains(&&*request.what())
    };
    text.lines().filter_map(Request::of_line).filter(is_look).map(|request| request.uri).collect()
}

/// Reads the log as it grows.
pub(crate) struct Tail(audit::Tail);

impl Tail {
    /// From the present end on.
    pub(crate) fn new(log: &Path) -> Self {
        Self(audit::Tail::new(log).unwrap())
    }

    /// The next write, if there is one.
    pub(crate) fn next(&mut self) -> Option<Write> {
        self.0.find_map(|request| of_request(request.unwrap()))
    }
}

/// A line that is being written yet is nothing, and neither is a read.
fn of_line(line: &str) -> Option<Write> {
    Request::of_line(line).and_then(of_request)
}

fn of_request(request: Request) -> Option<Write> {
    request.is_write().then(|| Write {
        what: request.what(),
        user: request.user,
        object: request.object,
        code: request.code,
    })
}
