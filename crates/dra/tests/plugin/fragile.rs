//! A driver that leaves traces outside of its process, in two steps, and can be
//! told to fail between any of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use patchbay_dra::cdi::{CdiFolder, Edits};
use patchbay_dra::{AllocatedClaim, BoxFuture, ClaimRef, Driver, DriverError, Journal, Prepared, Record};
use serde_json::json;

use crate::node::DRIVER;

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The driver says that it cannot.
    Error,
    /// The driver is defective.
    Panic,
}

/// What is left on the node by prepared claims: a mark per claim (a device that
/// was switched on, say) and the CDI file.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    marks: PathBuf,
    pub(crate) cdi: CdiFolder,
}

impl Traces {
    /// What holds in every moment in which no driver acts: whatever has left
    /// traces is in the journal, and what is called prepared is.
    pub(crate) fn agree_with(&self, journal: &Journal) {
        let records = journal.records();
        for uid in self.any() {
            assert!(records.get(&uid).is_some(), "claim {uid} has left traces and is not in the journal");
        }
        for (uid, _) in records.prepared() {
            let whole = self.marks().contains(uid) && self.cdi.claims().unwrap().contains(uid);
            assert!(whole, "claim {uid} is called prepared and is not");
        }
    }

    pub(crate) fn new(root: &Path) -> Self {
        let marks = root.join("marks");
        fs::create_dir_all(&marks).unwrap();
        Self { marks, cdi: CdiFolder::new(root.join("cdi"), DRIVER, "device") }
    }

    /// The uids of claims that have left a mark.
    pub(crate) fn marks(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.marks).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The uids of claims that have left anything.
    pub(crate) fn any(&self) -> BTreeSet<String> {
        self.marks().into_iter().chain(self.cdi.claims().unwrap()).collect()
    }

    fn mark(&self, uid: &str) -> PathBuf {
        self.marks.join(uid)
    }
}

/// The driver.
pub(crate) struct Fragile {
    traces: Traces,
    journal: Journal,
    /// After how many more steps something goes wrong, and what.
    fault: Mutex<Option<(u32, Fault)>>,
}

impl Fragile {
    pub(crate) fn new(traces: Traces, journal: Journal) -> Arc<Self> {
        Arc::new(Self { traces, journal, fault: Mutex::new(None) })
    }

    pub(crate) fn set_fault(&self, fault: Option<(u32, Fault)>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The end of a step.
    async fn step(&self) -> Result<(), DriverError> {
        // Others get their turn, and a process can be killed.
        tokio::task::yield_now().await;
        let fault = {
            let mut fault = self.fault.lock().unwrap();
            match fault.take() {
                Some((0, kind)) => Some(kind),
                Some((steps, kind)) => {
                    *fault = Some((steps - 1, kind));
                    None
                }
                None => None,
            }
        };
        match fault {
            None => Ok(()),
            Some(Fault::Error) => Err("failed half-way, as told".into()),
            Some(Fault::Panic) => panic!("as told"),
        }
    }
}

impl Driver for Fragile {
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>> {
        Box::pin(async move {
            self.step().await?;
            fs::write(self.traces.mark(&claim.uid), "").unwrap();
            self.step().await?;
            self.journal.set_data(&claim.uid, json!({"marked": true})).await.unwrap();
            let device = &claim.devices[0];
            let edits = Edits { env: vec![format!("DEVICE={}", device.device)], ..Edits::default() };
            let ids = self.traces.cdi.write(&claim.uid, &[(device.device.clone(), edits)]).unwrap();
            self.step().await?;
            Ok(vec![device.prepared(ids)].into())
        })
    }

    fn unprepare<'a>(
        &'a self,
        claim: &'a ClaimRef,
        _record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        Box::pin(async move {
            self.step().await?;
            self.traces.cdi.remove(&claim.uid).unwrap();
            self.step().await?;
            match fs::remove_file(self.traces.mark(&claim.uid)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
            self.step().await
        })
    }
}
