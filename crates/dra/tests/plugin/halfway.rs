//! A driver that fails half-way, however it does, and whatever follows.

use std::sync::Arc;
use std::time::Duration;

use crate::fragile::{Fault, Fragile, Traces};
use crate::node::{Ground, Kubelet};
use patchbay_dra::{Journal, Plugin, State};
use proptest::prelude::*;
use serde_json::json;

const CALL: Duration = Duration::from_secs(20);

/// A process of the driver.
struct Process {
    driver: Arc<Fragile>,
    journal: Journal,
    plugin: Plugin,
}

impl Process {
    async fn start(ground: &Ground, traces: &Traces) -> Self {
        let journal = ground.open_journal().await;
        let driver = Fragile::new(traces.clone(), journal.clone());
        let plugin = ground.serve(journal.clone(), driver.clone(), CALL).await;
        Self { driver, journal, plugin }
    }
}

fn node() -> (Ground, Traces) {
    let ground = Ground::new();
    ground.add_claim("c", "u1", "d1");
    let traces = Traces::new(ground.root());
    (ground, traces)
}

#[tokio::test]
async fn prepare_goes_on_from_whatever_was_done_before() {
    let (ground, traces) = node();
    let mut process = Process::start(&ground, &traces).await;
    for (steps, fault) in [
        (0, Fault::Error),
        (1, Fault::Error),
        (2, Fault::Error),
        (0, Fault::Panic),
        (1, Fault::Panic),
        (2, Fault::Panic),
    ] {
        process.driver.set_fault(Some((steps, fault)));
        ground.kubelet().prepare_one("c", "u1").await.unwrap_err();
        // The next process finds what was begun, with what the driver has kept.
        let Process { journal, plugin, driver } = process;
        drop((journal, plugin, driver));
        process = Process::start(&ground, &traces).await;
        let records = process.journal.records();
        let found: Vec<_> = records.unfinished().map(|(uid, record)| (uid, record.state)).collect();
        assert_eq!(found, [("u1", State::Preparing)]);
        assert!(traces.cdi.remove_orphans(&process.journal).unwrap().is_empty(), "it is known, so it is no orphan");
    }
    let devices = ground.kubelet().prepare_one("c", "u1").await.unwrap();
    assert_eq!(devices[0].cdi_device_ids, ["dra.example.com/device=u1-d1"]);
    let records = process.journal.records();
    assert_eq!(records.get("u1").unwrap().state, State::Prepared);
    assert_eq!(records.get("u1").unwrap().data, json!({"marked": true}));
    assert_eq!(traces.marks(), traces.cdi.claims().unwrap());
}

#[tokio::test]
async fn half_of_a_prepare_and_half_of_an_unprepare_can_be_undone() {
    let (ground, traces) = node();
    let process = Process::start(&ground, &traces).await;
    for steps in 0..3 {
        process.driver.set_fault(Some((steps, Fault::Error)));
        ground.kubelet().prepare_one("c", "u1").await.unwrap_err();
        process.driver.set_fault(Some((steps, Fault::Panic)));
        assert!(ground.kubelet().unprepare("c", "u1").await.contains("failed internally"));
        assert_eq!(process.journal.records().get("u1").unwrap().state, State::Unpreparing);
        assert_eq!(ground.kubelet().unprepare("c", "u1").await, "");
        assert_eq!(process.journal.records().iter().count(), 0);
        assert!(traces.any().is_empty());
    }
}

/// What happens to the node.
#[derive(Debug, Clone, Copy)]
enum Event {
    Prepare(Option<(u32, Fault)>),
    Unprepare(Option<(u32, Fault)>),
    /// The claim's devices are taken back and others allocated.
    Reallocate,
    Restart,
}

fn any_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![Just(Fault::Error), Just(Fault::Panic)];
    let fault = prop::option::of((0..6u32, kind));
    prop_oneof![
        3 => fault.clone().prop_map(Event::Prepare),
        3 => fault.prop_map(Event::Unprepare),
        1 => Just(Event::Reallocate),
        1 => Just(Event::Restart),
    ]
}

async fn happens(event: Event, ground: &Ground, traces: &Traces, process: Process, next_device: &mut u32) -> Process {
    let kubelet: Kubelet = ground.kubelet();
    match event {
        Event::Prepare(fault) => {
            process.driver.set_fault(fault);
            let answer = kubelet.prepare_one("c", "u1").await;
            let prepared = process.journal.records().prepared().count() == 1;
            assert_eq!(answer.is_ok(), prepared, "{answer:?}");
            if let Ok(devices) = answer {
                assert_eq!(devices[0].device_name, format!("d{next_device}"), "what is allocated now");
            }
        }
        Event::Unprepare(fault) => {
            process.driver.set_fault(fault);
            let error = kubelet.unprepare("c", "u1").await;
            let known = process.journal.records().get("u1").is_some();
            assert!(!known || !error.is_empty(), "unprepared, and still in the journal");
            assert!(!error.is_empty() || traces.any().is_empty(), "unprepared, and traces are left");
        }
        Event::Reallocate => {
            *next_device += 1;
            ground.add_claim("c", "u1", &format!("d{next_device}"));
        }
        Event::Restart => {
            drop(process);
            let process = Process::start(ground, traces).await;
            assert!(traces.cdi.remove_orphans(&process.journal).unwrap().is_empty());
            return process;
        }
    }
    process.driver.set_fault(None);
    process
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails, in whatever order: traces on the node are always in the
    /// journal, what is called prepared is, and in the end everything can be
    /// prepared and undone.
    #[test]
    fn nothing_is_left_behind_whatever_fails(events in prop::collection::vec(any_event(), 1..10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ground, traces) = node();
            let mut process = Process::start(&ground, &traces).await;
            let mut device = 1;
            for event in events {
                process = happens(event, &ground, &traces, process, &mut device).await;
                traces.agree_with(&process.journal);
            }
            ground.kubelet().prepare_one("c", "u1").await.unwrap();
            traces.agree_with(&process.journal);
            assert_eq!(ground.kubelet().unprepare("c", "u1").await, "");
            assert!(traces.any().is_empty());
            assert_eq!(process.journal.records().iter().count(), 0);
        });
    }
}
