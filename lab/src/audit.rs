//! Lines of the API server's audit log: who asked for what, and how it ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::product::ACCOUNTS;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it was answered, as the log has it: `2026-11-23T23:38:09.607067Z`.
    pub at: String,
    /// Who.
    pub user: String,
    /// `get`, `create`, ...
    pub verb: String,
    /// The API group; nothing for the core's.
    pub group: String,
    /// The resource, with its subresource behind a `/`: `pods/binding`.
    pub resource: String,
    /// Which object: `namespace/name`, or the name alone.
    pub object: String,
    /// The path, and the query with its selectors.
    pub uri: String,
    /// The answer's HTTP status; zero when none is told.
    pub code: u64,
    /// Whether it was granted; None when nobody was asked, because the server was not ready.
    pub granted: Option<bool>,
}

impl Request {
    /// Reads a line. One that is being written yet is nothing, and neither is a request that is about no resource.
    pub fn of_line(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        let part = |pointer: &str| text(pointer).unwrap_or_default().to_owned();
        let sub = text("/objectRef/subresource").map_or(String::new(), |sub| format!("/{sub}"));
        let namespace = text("/objectRef/namespace").map_or(String::new(), |namespace| format!("{namespace}/"));
        Some(Self {
            at: part("/stageTimestamp"),
            user: text("/user/username")?.to_owned(),
            verb: text("/verb")?.to_owned(),
            group: part("/objectRef/apiGroup"),
            resource: format!("{}{sub}", text("/objectRef/resource")?),
            object: format!("{namespace}{}", part("/objectRef/name")),
            uri: part("/requestURI"),
            code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or(0),
            granted: text("/annotations/authorization.k8s.io~1decision").map(|decision| decision == "allow"),
        })
    }

    /// It changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// Which of our accounts has asked: `controller` or `agent`.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.user.strip_prefix(ACCOUNTS)
    }

    /// What was asked: `create pods/binding`.
    #[must_use]
    pub fn what(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }
}

/// Reads the log as it grows, fast enough to act between two requests.
pub struct Tail {
    log: BufReader<File>,
    line: String,
}

impl Tail {
    /// From the present end on.
    ///
    /// # Errors
    /// When there is no log.
    pub fn new(log: &Path) -> Result<Self> {
        let mut file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { log: BufReader::new(file), line: String::new() })
    }
}

impl Iterator for Tail {
    type Item = Result<Request>;

    /// The next request; None: not yet.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // What there is of a line that is being written yet is kept.
            match self.log.read_line(&mut self.line).context("cannot read the audit log") {
                Err(error) => return Some(Err(error)),
                Ok(0) => return None,
                Ok(_) if !self.line.ends_with('\n') => return None,
                Ok(_) => {}
            }
            if let Some(request) = Request::of_line(&std::mem::take(&mut self.line)) {
                return Some(Ok(request));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LINE: &str = r#"{"verb":"create","user":{"username":"system:serviceaccount:patchbay:agent"},"objectRef":{"resource":"pods","subresource":"binding","namespace":"blue","name":"p"},"stageTimestamp":"1970-01-01T00:00:01.5Z","responseStatus":{"code":201},"annotations":{"authorization.k8s.io/decision":"allow"}}"#;

    #[test]
    fn a_line_tells_who_has_done_what_when_and_whether_it_was_granted() {
        let request = Request::of_line(LINE).unwrap();
        assert_eq!((request.account(), request.what().as_str()), (Some("agent"), "create pods/binding"));
        assert_eq!((request.object.as_str(), request.at.as_str()), ("blue/p", "1970-01-01T00:00:01.5Z"));
        assert_eq!((request.group.as_str(), request.code, request.granted), ("", 201, Some(true)));
        assert!(request.is_write());
        assert_eq!(Request::of_line("half a li"), None);
    }

    #[test]
    fn of_a_log_that_grows_whole_lines_are_read_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut log = File::create(&path).unwrap();
        writeln!(log, "{LINE}").unwrap();
        let mut tail = Tail::new(&path).unwrap();
        assert!(tail.next().is_none(), "what was there before");
        let (begin, end) = LINE.split_at(40);
        write!(log, "{begin}").unwrap();
        assert!(tail.next().is_none());
        writeln!(log, "{end}").unwrap();
        assert_eq!(tail.next().unwrap().unwrap(), Request::of_line(LINE).unwrap());
        assert!(tail.next().is_none());
    }

    #[test]
    fn what_is_read_is_no_write_and_what_was_not_asked_about_is_not_granted() {
        let read = LINE.replace("create", "watch");
        assert!(!Request::of_line(&read).unwrap().is_write());
        let refused = LINE.replace("allow", "forbid");
        assert_eq!(Request::of_line(&refused).unwrap().granted, Some(false));
        let early = LINE.replace("authorization.k8s.io", "example.com");
        assert_eq!(Request::of_line(&early).unwrap().granted, None);
        let other = LINE.replace("system:serviceaccount:patchbay:agent", "system:serviceaccount:blue:agent");
        assert_eq!(Request::of_line(&other).unwrap().account(), None);
    }
}
