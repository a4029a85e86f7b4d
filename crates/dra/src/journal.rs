//! The journal: which claims this node has prepared, kept across crashes and
//! power loss.
//!
//! ```text
//!            (no record) --put--> Preparing --finish--> Prepared
//!                 ^                  |  ^                  |
//!                 |               unprepare  `--again--.   | unprepare
//!                 |                  v                  \  v
//!                 `-----remove----- Unpreparing <-----------'
//! ```
//!
//! * A record is on the disk before the driver acts: what a crash interrupts is
//!   found as `Preparing` or `Unpreparing` at the next start.
//! * What is published (the watch channel) is always on the disk already.
//! * One task owns file and records. Changes that wait together are written
//!   together.
//! * A file that cannot be understood is set aside, never overwritten and never
//!   a reason not to start: the kubelet asks again for what it needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::atomic_file;
use crate::driver::{AllocatedClaim, AllocatedDevice, PreparedDevice, chain};

/// The version of the file's format that is written and understood.
const VERSION: u64 = 1;

/// How many changes may wait; senders wait beyond that.
const QUEUE: usize = 256;

/// Why the journal could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The file could not be written; the change was not made.
    #[error("journal {path} could not be written: check the disk and the folder's permissions")]
    Write {
        /// The journal's file.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// The claim has no record to change.
    #[error("claim {uid} is not in the journal")]
    UnknownClaim {
        /// The claim's uid.
        uid: String,
    },
    /// The task that owns the journal has ended.
    #[error("the journal is closed")]
    Closed,
}

/// How far a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The driver was asked to prepare it and has not finished.
    Preparing,
    /// Prepared.
    Prepared,
    /// The driver was asked to undo it and has not finished.
    Unpreparing,
}

/// What is known about one claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Namespace of the ResourceClaim.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: State,
    /// The devices that were allocated.
    pub allocated: Vec<AllocatedDevice>,
    /// What the driver answered; empty until prepared.
    #[serde(default)]
    pub prepared: Vec<PreparedDevice>,
    /// The driver's own data.
    #[serde(default)]
    pub data: Value,
}

impl Record {
    /// The record to write before the driver acts on a claim.
    pub(crate) fn preparing(claim: &AllocatedClaim) -> Self {
        Self {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            state: State::Preparing,
            allocated: claim.devices.clone(),
            prepared: Vec::new(),
            data: Value::Null,
        }
    }
}

/// All records by claim uid, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records(BTreeMap<String, Record>);

impl Records {
    /// The record of a claim.
    pub fn get(&self, uid: &str) -> Option<&Record> {
        self.0.get(uid)
    }

    /// All of them, sorted by claim uid.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.0.iter().map(|(uid, record)| (uid.as_str(), record))
    }

    /// Those that are prepared.
    pub fn prepared(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.iter().filter(|(_, record)| record.state == State::Prepared)
    }

    /// Those that are not: work under way or, right after the start, work that a
    /// crash has interrupted.
    pub fn unfinished(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.iter().filter(|(_, record)| record.state != State::Prepared)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u64,
    claims: BTreeMap<String, Record>,
}

/// The part of the file that every version has.
#[derive(Deserialize)]
struct Header {
    version: u64,
}

/// One change of one claim.
#[derive(Debug)]
enum Change {
    Put(Box<Record>),
    State(State),
    Finish(Vec<PreparedDevice>, Option<Value>),
    Data(Value),
    Remove,
}

/// A change under way to the owner of the journal.
#[derive(Debug)]
struct Request {
    uid: String,
    change: Change,
    done: oneshot::Sender<Result<(), JournalError>>,
}

/// Access to the journal; cheap to clone. The journal's task ends with the last.
#[derive(Debug, Clone)]
pub struct Journal {
    requests: mpsc::Sender<Request>,
    records: watch::Receiver<Arc<Records>>,
}

impl Journal {
    /// Reads the file, which need not exist (nor its folder), and starts the task
    /// that owns it.
    pub async fn open(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let at = path.clone();
        let records = tokio::task::spawn_blocking(move || load(&at)).await.unwrap_or_default();
        for (uid, record) in records.unfinished() {
            tracing::warn!(
                claim = %format_args!("{}/{}", record.namespace, record.name),
                uid,
                state = ?record.state,
                "work on this claim was interrupted; the kubelet will ask again"
            );
        }
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, records) = watch::channel(Arc::new(records));
        tokio::spawn(own(path, inbox, publish));
        Self { requests, records }
    }

    /// The records now.
    pub fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records.borrow())
    }

    /// The records now and whenever they change.
    pub fn watch(&self) -> watch::Receiver<Arc<Records>> {
        self.records.clone()
    }

    /// Keeps the driver's own data with a claim that has a record, that is from
    /// the moment [`crate::Driver::prepare`] is called. On the disk on return.
    ///
    /// # Errors
    /// The claim has no record, or the file cannot be written.
    pub async fn set_data(&self, uid: &str, data: Value) -> Result<(), JournalError> {
        self.change(uid, Change::Data(data)).await
    }

    pub(crate) async fn put(&self, uid: &str, record: Record) -> Result<(), JournalError> {
        self.change(uid, Change::Put(Box::new(record))).await
    }

    pub(crate) async fn set_state(&self, uid: &str, state: State) -> Result<(), JournalError> {
        self.change(uid, Change::State(state)).await
    }

    pub(crate) async fn finish(
        &self,
        uid: &str,
        devices: Vec<PreparedDevice>,
        data: Option<Value>,
    ) -> Result<(), JournalError> {
        self.change(uid, Change::Finish(devices, data)).await
    }

    pub(crate) async fn remove(&self, uid: &str) -> Result<(), JournalError> {
        self.change(uid, Change::Remove).await
    }

    async fn change(&self, uid: &str, change: Change) -> Result<(), JournalError> {
        let (done, answer) = oneshot::channel();
        let request = Request { uid: uid.to_owned(), change, done };
        self.requests.send(request).await.map_err(|_| JournalError::Closed)?;
        answer.await.map_err(|_| JournalError::Closed)?
    }
}

/// The owner of the journal: applies changes, writes, publishes, answers.
async fn own(path: PathBuf, mut inbox: mpsc::Receiver<Request>, publish: watch::Sender<Arc<Records>>) {
    let mut batch = Vec::new();
    while inbox.recv_many(&mut batch, QUEUE).await > 0 {
        let mut next = Records::clone(&publish.borrow());
        let answers: Vec<_> =
            batch.drain(..).map(|request| (apply(&mut next, &request.uid, request.change), request.done)).collect();
        let written = if next == **publish.borrow() { Ok(()) } else { write(path.clone(), next.clone()).await };
        if written.is_ok() {
            publish.send_replace(Arc::new(next));
        }
        for (applied, done) in answers {
            // Whoever asked may have given up; the change stands all the same.
            let _ = done.send(applied.and(written.clone()));
        }
    }
}

fn apply(records: &mut Records, uid: &str, change: Change) -> Result<(), JournalError> {
    let unknown = || JournalError::UnknownClaim { uid: uid.to_owned() };
    match change {
        Change::Put(record) => {
            records.0.insert(uid.to_owned(), *record);
        }
        Change::Remove => {
            records.0.remove(uid);
        }
        Change::State(state) => records.0.get_mut(uid).ok_or_else(unknown)?.state = state,
        Change::Data(data) => records.0.get_mut(uid).ok_or_else(unknown)?.data = data,
        Change::Finish(devices, data) => {
            let record = records.0.get_mut(uid).ok_or_else(unknown)?;
            record.state = State::Prepared;
            record.prepared = devices;
            if let Some(data) = data {
                record.data = data;
            }
        }
    }
    Ok(())
}

async fn write(path: PathBuf, records: Records) -> Result<(), JournalError> {
    let at = path.clone();
    let write = move || {
        let file = File { version: VERSION, claims: records.0 };
        let content = serde_json::to_vec_pretty(&file)?;
        atomic_file::replace(&at, &content, 0o600)
    };
    tokio::task::spawn_blocking(write)
        .await
        .unwrap_or_else(|crash| Err(io::Error::other(crash)))
        .map_err(|source| JournalError::Write { path, source: Arc::new(source) })
}

/// Reads the file. Whatever cannot be used is set aside.
fn load(path: &Path) -> Records {
    if let Some(folder) = path.parent()
        && let Err(error) = crate::socket::make_folder(folder)
    {
        tracing::error!(error = chain(&error), "the journal's folder could not be made");
    }
    let problem = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Records::default(),
        Err(error) => format!("it cannot be read: {error}"),
        Ok(content) => match parse(&content) {
            Ok(records) => return records,
            Err(problem) => problem,
        },
    };
    let aside = aside(path);
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            path = %path.display(), set_aside = %aside.display(), problem,
            "the journal is not usable and was set aside; starting with an empty one"
        ),
        Err(error) => tracing::error!(
            path = %path.display(), problem, %error,
            "the journal is not usable and could not be set aside; starting with an empty one"
        ),
    }
    Records::default()
}

fn parse(content: &[u8]) -> Result<Records, String> {
    let header: Header = serde_json::from_slice(content).map_err(|error| format!("it is damaged: {error}"))?;
    if header.version != VERSION {
        return Err(format!("its version is {}, this program knows version {VERSION}", header.version));
    }
    let file: File = serde_json::from_slice(content).map_err(|error| format!("it is damaged: {error}"))?;
    Ok(Records(file.claims))
}

/// A free name for a journal that is set aside.
fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.set-aside-{}", now.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(state: State) -> Record {
        Record {
            namespace: "ns".into(),
            name: "c".into(),
            state,
            allocated: vec![],
            prepared: vec![],
            data: Value::Null,
        }
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_found_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        let journal = Journal::open(&path).await;
        journal.put("u1", record(State::Preparing)).await.unwrap();
        journal.set_data("u1", json!({"port": 3})).await.unwrap();
        journal.finish("u1", vec![], None).await.unwrap();
        journal.put("u2", record(State::Preparing)).await.unwrap();
        journal.put("u3", record(State::Preparing)).await.unwrap();
        journal.remove("u3").await.unwrap();

        let records = Journal::open(&path).await.records();
        let prepared: Vec<_> = records.prepared().map(|(uid, r)| (uid, &r.data)).collect();
        assert_eq!(prepared, [("u1", &json!({"port": 3}))]);
        let unfinished: Vec<_> = records.unfinished().map(|(uid, _)| uid).collect();
        assert_eq!(unfinished, ["u2"]);
    }

    #[tokio::test]
    async fn watchers_see_each_change_after_it_is_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        let journal = Journal::open(&path).await;
        let mut watch = journal.watch();
        let writer = tokio::spawn(async move {
            journal.put("u1", record(State::Preparing)).await.unwrap();
            journal.finish("u1", vec![], None).await.unwrap();
        });
        while watch.changed().await.is_ok() {
            let seen = watch.borrow_and_update().clone();
            let on_disk = parse(&fs::read(&path).unwrap()).unwrap();
            // The file may be ahead of what was seen, never behind.
            let done = |records: &Records| records.prepared().count();
            assert!(done(&on_disk) >= done(&seen));
            assert!(on_disk.get("u1").is_some());
        }
        writer.await.unwrap();
        assert_eq!(watch.borrow().prepared().count(), 1);
    }

    #[tokio::test]
    async fn a_damaged_or_newer_file_is_set_aside_and_the_start_goes_on() {
        let newer = json!({"version": VERSION + 1, "claims": []}).to_string();
        let wrong = json!({"version": VERSION, "claims": {"u": 3}}).to_string();
        for content in ["", "{\"version\": 1, \"cla", "\u{0}\u{0}", &newer, &wrong] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("journal.json");
            fs::write(&path, content).unwrap();
            let journal = Journal::open(&path).await;
            assert_eq!(journal.records().iter().count(), 0);
            let kept = fs::read_dir(folder.path()).unwrap().next().unwrap();
            let kept = kept.unwrap().path();
            assert!(kept.to_string_lossy().contains("set-aside"), "{kept:?}");
            assert_eq!(fs::read_to_string(kept).unwrap(), content);
            journal.put("u1", record(State::Preparing)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_written_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        let journal = Journal::open(&path).await;
        fs::remove_dir(folder.path()).unwrap();
        let error = journal.put("u1", record(State::Preparing)).await;
        assert!(matches!(error, Err(JournalError::Write { .. })), "{error:?}");
        assert_eq!(*journal.records(), Records::default());
        fs::create_dir(folder.path()).unwrap();
        journal.put("u1", record(State::Preparing)).await.unwrap();
    }

    #[tokio::test]
    async fn data_for_an_unknown_claim_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path().join("journal.json")).await;
        let error = journal.set_data("u9", Value::Null).await.unwrap_err();
        assert_eq!(error.to_string(), "claim u9 is not in the journal");
    }
}
