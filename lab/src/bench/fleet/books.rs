//! What the controller asks of the API server, by the audit log. Its lease does not count: it is renewed whatever happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::audit::{Request, Tail};
use crate::progress::step;
use crate::wait::wait_for;

/// It has come to rest when it has written nothing for so long.
const QUIET: Duration = Duration::from_secs(2);
/// It has to by then.
const CALM: Duration = Duration::from_secs(300);

/// What was asked in some time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// Everything, reads and watches included.
    pub(super) requests: usize,
    /// What of it changes something, Events left out.
    pub(super) writes: usize,
    /// Events.
    pub(super) told: usize,
    /// Which writes and Events, and how many of each.
    pub(super) by: BTreeMap<String, usize>,
}

impl Asked {
    fn note(&mut self, request: &Request) {
        if request.account() != Some("controller") || request.resource == "leases" {
            return;
        }
        self.requests += 1;
        if !request.is_write() {
            return;
        }
        if request.resource == "events" {
            self.told += 1
        } else {
            self.writes += 1
        }
        *self.by.entry(request.what()).or_default() += 1;
    }
}

/// The books.
pub(super) struct Books {
    tail: Tail,
    asked: Asked,
}

impl Books {
    /// From now on.
    ///
    /// # Errors
    /// When there is no audit log.
    pub(super) fn open(log: &Path) -> Result<Self> {
        Ok(Self { tail: Tail::new(log)?, asked: Asked::default() })
    }

    /// What was asked since the books were closed last.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub(super) fn close(&mut self) -> Result<Asked> {
        self.read()?;
        Ok(std::mem::take(&mut self.asked))
    }

    /// The same, once the controller has come to rest.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) fn settle(&mut self) -> Result<Asked> {
        self.rest()?;
        self.close()
    }

    /// Waits until the controller has come to rest.
    ///
    /// # Errors
    /// When it does not in time.
    pub(super) fn rest(&mut self) -> Result<()> {
        let (mut known, mut since) = (None, Instant::now());
        step("waiting for the controller to come to rest", || {
            wait_for("the controller to come to rest", CALM, || {
                self.read().map_err(|error| format!("{error:#}"))?;
                let now = Some(self.asked.writes + self.asked.told);
                if now != known {
                    (known, since) = (now, Instant::now());
                }
                if since.elapsed() >= QUIET { Ok(()) } else { Err(format!("{:?}", self.asked)) }
            })
        })
    }

    fn read(&mut self) -> Result<()> {
        for request in &mut self.tail {
            self.asked.note(&request?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_writes_and_events_of_the_controller_count_and_its_lease_does_not() {
        let request = |user: &str, verb: &str, resource: &str| Request {
            at: String::new(),
            user: format!("system:serviceaccount:patchbay:{user}"),
            verb: verb.to_owned(),
            group: String::new(),
            resource: resource.to_owned(),
            object: String::new(),
            uri: String::new(),
            code: 200,
            granted: Some(true),
        };
        let mut asked = Asked::default();
        for (user, verb, resource) in [
            ("controller", "watch", "pods"),
            ("controller", "create", "pods"),
            ("controller", "create", "pods"),
            ("controller", "create", "events"),
            ("controller", "patch", "leases"),
            ("agent", "create", "pods"),
        ] {
            asked.note(&request(user, verb, resource));
        }
        let by = [("create events".to_owned(), 1), ("create pods".to_owned(), 2)].into();
        assert_eq!(asked, Asked { requests: 4, writes: 2, told: 1, by });
    }
}
