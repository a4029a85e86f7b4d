use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

fn record(state: State) -> Record {
    Record { namespace: "ns".into(), name: "c".into(), state, allocated: vec![], prepared: vec![], data: Value::Null }
}

async fn open(path: &Path) -> Journal {
    timeout(DEADLINE, Journal::open(path)).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_found_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/journal.json");
    let journal = open(&path).await;
    journal.put("u1", record(State::Preparing)).await.unwrap();
    journal.set_data("u1", json!({"port": 3})).await.unwrap();
    journal.finish("u1", vec![], None).await.unwrap();
    journal.put("u2", record(State::Preparing)).await.unwrap();
    journal.put("u3", record(State::Preparing)).await.unwrap();
    journal.remove("u3").await.unwrap();
    drop(journal);

    let journal = open(&path).await;
    assert!(!journal.has_lost_records());
    let records = journal.records();
    let prepared: Vec<_> = records.prepared().map(|(uid, r)| (uid, &r.data)).collect();
    assert_eq!(prepared, [("u1", &json!({"port": 3}))]);
    let unfinished: Vec<_> = records.unfinished().map(|(uid, _)| uid).collect();
    assert_eq!(unfinished, ["u2"]);
}

#[tokio::test]
async fn a_successor_waits_and_finds_the_last_word_of_the_former() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.json");
    let former = open(&path).await;
    let clone = former.clone();
    let mut successor = std::pin::pin!(Journal::open(&path));
    assert!(timeout(Duration::from_millis(50), successor.as_mut()).await.is_err());
    drop(former);
    assert!(timeout(Duration::from_millis(50), successor.as_mut()).await.is_err());
    clone.put("u1", record(State::Prepared)).await.unwrap();
    drop(clone);
    let successor = timeout(DEADLINE, successor).await.unwrap().unwrap();
    assert_eq!(successor.records().prepared().count(), 1);
}

#[tokio::test]
async fn watchers_see_each_change_after_it_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.json");
    let journal = open(&path).await;
    let mut watch = journal.watch();
    let writer = tokio::spawn(async move {
        journal.put("u1", record(State::Preparing)).await.unwrap();
        journal.finish("u1", vec![], None).await.unwrap();
    });
    while watch.changed().await.is_ok() {
        let seen = watch.borrow_and_update().clone();
        let on_disk = Records::parse(&fs::read(&path).unwrap(), None).unwrap();
        // The file may be ahead of what was seen, never behind.
        let done = |records: &Records| records.prepared().count();
        assert!(done(&on_disk) >= done(&seen));
        assert!(on_disk.get("u1").is_some());
    }
    writer.await.unwrap();
    assert_eq!(watch.borrow().prepared().count(), 1);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_no_reason_not_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.json");
    fs::write(&path, "{\"version\": 1, \"cla").unwrap();
    let journal = open(&path).await;
    assert!(journal.has_lost_records());
    assert_eq!(journal.records().iter().count(), 0);
    journal.put("u1", record(State::Preparing)).await.unwrap();
    drop(journal);
    let journal = open(&path).await;
    assert!(!journal.has_lost_records());
    assert_eq!(journal.records().iter().count(), 1);
}

#[tokio::test]
async fn a_journal_that_cannot_be_locked_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = Journal::open(folder.path().join("file/journal.json")).await.unwrap_err();
    assert!(error.to_string().contains("check the disk and the folder's permissions"), "{error}");
}

#[tokio::test]
async fn a_change_that_cannot_be_written_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/journal.json");
    let journal = open(&path).await;
    fs::remove_dir_all(folder.path().join("state")).unwrap();
    let error = journal.put("u1", record(State::Preparing)).await;
    assert!(matches!(error, Err(JournalError::Write { .. })), "{error:?}");
    assert_eq!(*journal.records(), Records::default());
    fs::create_dir(folder.path().join("state")).unwrap();
    journal.put("u1", record(State::Preparing)).await.unwrap();
}

#[tokio::test]
async fn data_for_an_unknown_claim_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(&folder.path().join("journal.json")).await;
    let error = journal.set_data("u9", Value::Null).await.unwrap_err();
    assert_eq!(error.to_string(), "claim u9 is not in the journal");
}

/// What happens to a journal.
#[derive(Debug, Clone)]
enum Step {
    Put,
    Undo,
    Finish,
    Data(u8),
    Remove,
    /// The process ends and the next one starts.
    Restart,
}

fn any_step() -> impl Strategy<Value = (u8, Step)> {
    let step = prop_oneof![
        Just(Step::Put),
        Just(Step::Undo),
        Just(Step::Finish),
        any::<u8>().prop_map(Step::Data),
        Just(Step::Remove),
        Just(Step::Restart),
    ];
    (0..3u8, step)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was acknowledged is there, whatever was refused is not, in this
    /// process and in the next.
    #[test]
    fn the_journal_holds_what_it_has_acknowledged(steps in prop::collection::vec(any_step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("journal.json");
            let mut journal = open(&path).await;
            let mut expected: BTreeMap<String, Record> = BTreeMap::new();
            for (claim, step) in steps {
                let uid = format!("u{claim}");
                let known = expected.get_mut(&uid);
                let (outcome, accepted) = match step {
                    Step::Put => {
                        expected.insert(uid.clone(), record(State::Preparing));
                        (journal.put(&uid, record(State::Preparing)).await, true)
                    }
                    Step::Remove => {
                        expected.remove(&uid);
                        (journal.remove(&uid).await, true)
                    }
                    Step::Undo => {
                        let accepted = known.map(|record| record.state = State::Unpreparing).is_some();
                        (journal.set_state(&uid, State::Unpreparing).await, accepted)
                    }
                    Step::Finish => {
                        let accepted = known.map(|record| record.state = State::Prepared).is_some();
                        (journal.finish(&uid, vec![], None).await, accepted)
                    }
                    Step::Data(value) => {
                        let accepted = known.map(|record| record.data = json!(value)).is_some();
                        (journal.set_data(&uid, json!(value)).await, accepted)
                    }
                    Step::Restart => {
                        drop(journal);
                        journal = open(&path).await;
                        (Ok(()), true)
                    }
                };
                assert_eq!(outcome.is_ok(), accepted, "{outcome:?}");
                assert_eq!(journal.records().0, expected);
            }
            drop(journal);
            assert_eq!(open(&path).await.records().0, expected);
        });
    }
}
