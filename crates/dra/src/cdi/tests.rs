use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::driver::AllocatedClaim;
use crate::journal::Record;

const DRIVER: &str = "dra.example.com";

fn folder() -> (TempDir, CdiFolder) {
    let root = tempfile::tempdir().unwrap();
    let folder = CdiFolder::new(root.path().join("cdi"), DRIVER, "device");
    (root, folder)
}

fn edits(path: &str) -> Edits {
    Edits {
        device_nodes: vec![DeviceNode { path: path.into(), permissions: Some("rw".into()), ..DeviceNode::default() }],
        ..Edits::default()
    }
}

fn files(root: &TempDir) -> BTreeSet<String> {
    let entries = fs::read_dir(root.path().join("cdi")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A journal that knows these claims.
async fn journal(root: &Path, uids: &[&str]) -> Journal {
    let journal = Journal::open(root.join("journal.json")).await.unwrap();
    for uid in uids {
        let claim = AllocatedClaim {
            namespace: "ns".into(),
            name: "c".into(),
            uid: (*uid).into(),
            labels: [].into(),
            annotations: [].into(),
            reserved_for: vec![],
            devices: vec![],
        };
        journal.put(uid, Record::preparing(&claim)).await.unwrap();
    }
    journal
}

#[test]
fn a_claims_file_comes_changes_and_goes() {
    let (root, folder) = folder();
    assert!(folder.claims().unwrap().is_empty());
    folder.write("u1", &[("a".into(), edits("/dev/old"))]).unwrap();
    let env = Edits { env: vec!["B=1".into()], ..Edits::default() };
    let ids = folder.write("u1", &[("a".into(), edits("/dev/x")), ("b".into(), env)]).unwrap();
    assert_eq!(ids, ["dra.example.com/device=u1-a", "dra.example.com/device=u1-b"]);
    let path = root.path().join("cdi/dra.example.com-device_u1.json");
    let found: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(
        found,
        json!({
            "cdiVersion": "0.6.0",
            "kind": "dra.example.com/device",
            "devices": [
                {"name": "u1-a", "containerEdits":
                    {"deviceNodes": [{"path": "/dev/x", "permissions": "rw"}]}},
                {"name": "u1-b", "containerEdits": {"env": ["B=1"]}},
            ],
        })
    );
    assert_eq!(folder.claims().unwrap(), ["u1".to_owned()].into());
    folder.remove("u1").unwrap();
    folder.remove("u1").unwrap();
    assert!(files(&root).is_empty());
}

#[test]
fn what_a_runtime_would_refuse_is_not_written_and_says_why() {
    let (root, folder) = folder();
    let device = |name: &str| (name.to_owned(), edits("/dev/x"));
    for (uid, devices, words) in [
        ("../u1", vec![device("a")], "other characters"),
        ("u_1", vec![device("a")], "other characters"),
        ("u1", vec![], "without any device"),
        ("u1", vec![device("a/b")], "a name has letters"),
        ("u1", vec![device("a-")], "a name has letters"),
        ("u1", vec![device("")], "a name has letters"),
        ("u1", vec![device("a"), device("a")], "the same name"),
        ("u1", vec![device("a"), ("b".into(), Edits::default())], "gets nothing"),
    ] {
        let error = folder.write(uid, &devices).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let odd = CdiFolder::new(root.path().join("cdi"), "3com.example.com", "device");
    let error = odd.write("u1", &[device("a")]).unwrap_err().to_string();
    assert!(error.contains("is not a CDI kind"), "{error}");
    assert!(!root.path().join("cdi").exists());
    folder.remove("../u1").unwrap();
}

#[tokio::test]
async fn files_of_unknown_claims_and_unfinished_files_go_and_others_stay() {
    let (root, folder) = folder();
    let journal = journal(root.path(), &["u1", "u2"]).await;
    assert!(folder.remove_orphans(&journal).unwrap().is_empty(), "no folder, no orphans");
    for uid in ["u1", "u3", "u4"] {
        folder.write(uid, &[("a".into(), edits("/dev/x"))]).unwrap();
    }
    let foreign = [
        "other.example.com-device_u3.json",
        "dra.example.com-devices_u3.json",
        "dra.example.com-device_x_u3.json",
        "dra.example.com-device_u3.yaml",
        "dra.example.com-device.json",
        ".other.example.com-device_u3.json.new",
    ];
    let unfinished = [".dra.example.com-device_u1.json.new", ".dra.example.com-device_u5.json.new"];
    for name in foreign.iter().chain(&unfinished) {
        fs::write(root.path().join("cdi").join(name), "{").unwrap();
    }
    assert_eq!(folder.remove_orphans(&journal).unwrap(), ["u3", "u4"]);
    let mut left: BTreeSet<_> = foreign.map(str::to_owned).into();
    left.insert("dra.example.com-device_u1.json".to_owned());
    assert_eq!(files(&root), left);
    assert!(folder.remove_orphans(&journal).unwrap().is_empty());
}

#[tokio::test]
async fn files_stay_when_the_journal_was_lost() {
    let (root, folder) = folder();
    folder.write("u1", &[("a".into(), edits("/dev/x"))]).unwrap();
    fs::write(root.path().join("cdi/.dra.example.com-device_u2.json.new"), "{").unwrap();
    fs::write(root.path().join("journal.json"), "damaged").unwrap();
    let journal = journal(root.path(), &[]).await;
    assert!(folder.remove_orphans(&journal).unwrap().is_empty());
    assert_eq!(files(&root), ["dra.example.com-device_u1.json".to_owned()].into());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written can be read by a runtime: the names in the answer are those
    /// in the file, each a valid one; and the file is found again.
    #[test]
    fn whatever_is_written_is_valid_and_found_again(
        uid in "[a-z0-9_./-]{1,8}",
        devices in prop::collection::vec("[a-zA-Z0-9_.:/ -]{0,6}", 0..4),
    ) {
        let (root, folder) = folder();
        let devices: Vec<_> = devices.into_iter().map(|name| (name, edits("/dev/x"))).collect();
        match folder.write(&uid, &devices) {
            Err(_) => prop_assert!(!root.path().join("cdi").exists()),
            Ok(ids) => {
                prop_assert_eq!(files(&root).len(), 1);
                let file = root.path().join("cdi").join(files(&root).first().unwrap());
                let spec: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
                let written: Vec<_> = spec["devices"].as_array().unwrap().iter()
                    .map(|device| device["name"].as_str().unwrap().to_owned())
                    .collect();
                let answered: Vec<_> = ids.iter().map(|id| id.split_once('=').unwrap().1.to_owned()).collect();
                prop_assert_eq!(&written, &answered);
                prop_assert!(written.iter().all(|name| names::is_device(name)));
                prop_assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), devices.len());
                prop_assert_eq!(folder.claims().unwrap(), [uid.clone()].into());
                folder.remove(&uid).unwrap();
                prop_assert!(files(&root).is_empty());
            }
        }
    }
}
