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
//! * One process owns the journal: the next one waits until it has ended
//!   ([`Journal::open`]).
//! * A file that cannot be understood is set aside, never overwritten and never
//!   a reason not to start: the kubelet asks again for what it needs.
//! * A reboot undoes what was prepared (CDI files, device nodes, the kernel's
//!   state): `Prepared` is found as `Preparing` after one.

mod file;
mod lock;
mod record;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::record::{Record, Records, State};

use self::lock::Lock;
use crate::driver::PreparedDevice;
use crate::socket;

/// How many changes may wait; senders wait beyond that.
const QUEUE: usize = 256;

/// Why the journal could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The lock beside the journal could not be taken.
    #[error("journal {path} could not be locked for this process: check the disk and the folder's permissions")]
    Lock {
        /// The journal's file.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
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

/// Access to the journal; cheap to clone. The journal's task ends with the last,
/// and another process may open it then.
#[derive(Debug, Clone)]
pub struct Journal {
    requests: mpsc::Sender<Request>,
    records: watch::Receiver<Arc<Records>>,
    lost: bool,
}

impl Journal {
    /// Waits until no other process has the journal, reads the file, which need
    /// not exist (nor its folder), and starts the task that owns it.
    ///
    /// Open it before anything else of the node is touched: while a former
    /// process of the driver lives, this does not return, and the log says for
    /// how long already. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// The folder or the lock beside the file cannot be made.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let path = path.into();
        let failed = |source| JournalError::Lock { path: path.clone(), source: Arc::new(source) };
        let at = path.clone();
        blocking(move || make_folder(&at)).await.map_err(failed)?;
        let lock = lock::take(&path).await.map_err(failed)?;
        let at = path.clone();
        let (boot, loaded) = blocking(move || {
            let boot = file::boot();
            let loaded = file::load(&at, boot.as_deref());
            Ok((boot, loaded))
        })
        .await
        .map_err(failed)?;
        for (uid, record) in loaded.records.unfinished() {
            tracing::warn!(
                claim = %format_args!("{}/{}", record.namespace, record.name),
                uid,
                state = ?record.state,
                "work on this claim was interrupted, or undone by a reboot; the kubelet will ask again"
            );
        }
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (publish, records) = watch::channel(Arc::new(loaded.records));
        tokio::spawn(own(Owned { path, boot, lock }, inbox, publish));
        Ok(Self { requests, records, lost: loaded.lost })
    }

    /// The records now.
    pub fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records.borrow())
    }

    /// The records now and whenever they change.
    pub fn watch(&self) -> watch::Receiver<Arc<Records>> {
        self.records.clone()
    }

    /// Whether the file could not be used at the start and was set aside. A claim
    /// without a record may well be prepared then.
    pub fn has_lost_records(&self) -> bool {
        self.lost
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

/// The file, and the right to write it.
struct Owned {
    path: PathBuf,
    boot: Option<String>,
    lock: Lock,
}

impl Owned {
    async fn write(&self, records: Records) -> Result<(), JournalError> {
        let (path, boot, lock) = (self.path.clone(), self.boot.clone(), self.lock.clone());
        let write = move || {
            let outcome = file::write(&path, boot, records);
            // A write that goes on while its process ends still has the lock.
            drop(lock);
            outcome
        };
        blocking(write)
            .await
            .map_err(|source| JournalError::Write { path: self.path.clone(), source: Arc::new(source) })
    }
}

/// The owner of the journal: applies changes, writes, publishes, answers.
async fn own(owned: Owned, mut inbox: mpsc::Receiver<Request>, publish: watch::Sender<Arc<Records>>) {
    let mut batch = Vec::new();
    while inbox.recv_many(&mut batch, QUEUE).await > 0 {
        let mut next = Records::clone(&publish.borrow());
        let answers: Vec<_> =
            batch.drain(..).map(|request| (apply(&mut next, &request.uid, request.change), request.done)).collect();
        let written = if next == **publish.borrow() { Ok(()) } else { owned.write(next.clone()).await };
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

fn make_folder(journal: &Path) -> io::Result<()> {
    match journal.parent() {
        Some(folder) => socket::make_folder(folder).map_err(io::Error::other),
        None => Ok(()),
    }
}

/// Runs what blocks on the disk where it disturbs nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|crash| Err(io::Error::other(crash)))
}

#[cfg(test)]
mod tests;
