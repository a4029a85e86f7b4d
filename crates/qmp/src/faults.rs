//! Tests against monitors that misbehave, and of plugging over leftovers.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::fake::{Fake, FakeQemu, GREETING, PATIENCE, deleted, done, refused};
use crate::usb::{self, Plugged};
use crate::{FdSet, Monitor, QmpError};

/// Short, for answers that do not come.
const BRIEF: Duration = Duration::from_millis(100);

fn wait_for_end(mut stream: UnixStream) {
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest));
}

/// Greets, and agrees to everything.
fn negotiate(stream: &mut UnixStream) {
    stream.write_all(GREETING.as_bytes()).unwrap();
    let mut command = [0; 200];
    let _negotiation = stream.read(&mut command).unwrap();
    stream.write_all(b"{\"return\": {}, \"id\": 1}\n").unwrap();
}

/// A monitor that answers the first command after the negotiation with these lines.
async fn answered(lines: &'static [&'static str]) -> (Monitor, Result<crate::Status, QmpError>) {
    let fake = Fake::answering(move |_, _, _| lines.iter().map(|&line| line.to_owned()).collect());
    let monitor = fake.connect(PATIENCE).await.unwrap();
    let status = monitor.query_status().await;
    (monitor, status)
}

#[tokio::test]
async fn a_monitor_that_does_not_greet_is_given_up() {
    let fake = Fake::raw(wait_for_end);
    let failed = fake.connect(BRIEF).await;
    assert!(matches!(failed, Err(QmpError::Timeout { command: "greeting", .. })), "{failed:?}");
}

#[tokio::test]
async fn a_greeting_that_is_something_else_is_refused() {
    for greeting in ["SSH-2.0-x\r\n", "{\"return\": {}, \"id\": 1}\r\n", "{}\r\n"] {
        let fake = Fake::raw(move |mut stream| stream.write_all(greeting.as_bytes()).unwrap());
        assert!(matches!(fake.connect(PATIENCE).await, Err(QmpError::Closed { .. })), "{greeting}");
    }
}

#[tokio::test]
async fn an_endless_greeting_is_refused() {
    let fake = Fake::raw(|mut stream| while stream.write_all(&[b' '; 4096]).is_ok() {});
    let failed = fake.connect(PATIENCE).await.unwrap_err();
    assert!(failed.to_string().contains("longer than 1048576 bytes"), "{failed}");
}

#[tokio::test]
async fn an_endless_answer_is_refused_and_closes_the_connection() {
    let fake = Fake::raw(|mut stream| {
        negotiate(&mut stream);
        stream.write_all(b"{\"return\": {\"status\": \"").unwrap();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let monitor = fake.connect(PATIENCE).await.unwrap();
    let failed = monitor.query_status().await;
    let Err(QmpError::Closed { reason }) = failed else { panic!("{failed:?}") };
    assert!(reason.contains("longer than 1048576 bytes"), "{reason}");
}

#[tokio::test]
async fn endless_events_instead_of_an_answer_gain_no_time() {
    let fake = Fake::raw(|mut stream| {
        negotiate(&mut stream);
        let event = format!("{}\n", deleted("usb-x")).repeat(100);
        while stream.write_all(event.as_bytes()).is_ok() {}
    });
    let monitor = fake.connect(BRIEF * 5).await.unwrap();
    let missed = timeout(PATIENCE, monitor.query_status()).await.unwrap();
    assert!(matches!(missed, Err(QmpError::Timeout { command: "query-status", .. })), "{missed:?}");
}

#[tokio::test]
async fn commands_do_not_wait_for_the_answers_to_those_before() {
    let fake = Fake::raw(|mut stream| {
        negotiate(&mut stream);
        let mut commands = Vec::new();
        while commands.iter().filter(|byte| **byte == b'\n').count() < 3 {
            let mut some = [0; 200];
            let read = stream.read(&mut some).unwrap();
            commands.extend_from_slice(&some[..read]);
        }
        for id in 2..5 {
            let answer = format!("{{\"return\": {{\"status\": \"{id}\", \"running\": true}}, \"id\": {id}}}\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        wait_for_end(stream);
    });
    let monitor = fake.connect(PATIENCE).await.unwrap();
    let asked = tokio::try_join!(monitor.query_status(), monitor.query_status(), monitor.query_status()).unwrap();
    assert_eq!([asked.0.status, asked.1.status, asked.2.status], ["2", "3", "4"]);
}

#[tokio::test]
async fn a_missed_answer_is_a_timeout_and_closes_the_connection() {
    let fake = Fake::raw(|mut stream| {
        negotiate(&mut stream);
        wait_for_end(stream);
    });
    let monitor = fake.connect(BRIEF).await.unwrap();
    let missed = monitor.query_status().await;
    assert!(matches!(missed, Err(QmpError::Timeout { command: "query-status", .. })), "{missed:?}");
    assert!(timeout(PATIENCE, monitor.closed()).await.unwrap().contains("no answer to query-status"));
    assert!(matches!(monitor.query_status().await, Err(QmpError::Closed { .. })));
}

#[tokio::test]
async fn answers_outside_the_protocol_close_the_connection_with_the_reason() {
    let cases: [(&'static [&'static str], &str); 4] = [
        (&["{\"return\": "], "invalid JSON"),
        (&["{\"return\": {}, \"id\": 99}"], "not sent (id 99)"),
        (&["{\"return\": {}}"], "without the id"),
        (&["{\"QMP\": {}}"], "second greeting"),
    ];
    for (lines, reason) in cases {
        let (monitor, failed) = answered(lines).await;
        let Err(QmpError::Closed { reason: told }) = failed else { panic!("{failed:?}") };
        assert!(told.contains(reason), "{told}");
        assert_eq!(monitor.closed().await, told);
    }
}

#[tokio::test]
async fn an_answer_of_another_shape_is_an_error_of_that_command_only() {
    let (monitor, failed) = answered(&["{\"return\": [1], \"id\": \"ID\"}"]).await;
    assert!(matches!(failed, Err(QmpError::Nonsense { command: "query-status", .. })), "{failed:?}");
    assert!(timeout(BRIEF, monitor.closed()).await.is_err());
}

#[tokio::test]
async fn unknown_events_between_a_command_and_its_answer_are_tolerated() {
    let (_monitor, status) = answered(&[
        "{\"event\": \"FROM_THE_FUTURE\", \"data\": [1, {}], \"timestamp\": null}",
        "{\"return\": {\"running\": true, \"status\": \"running\", \"singlestep\": false}, \"id\": \"ID\"}",
    ])
    .await;
    assert!(status.unwrap().running);
}

#[tokio::test]
async fn the_end_of_qemu_wakes_who_waits_for_it() {
    let (hang_up, wait) = std::sync::mpsc::channel::<()>();
    let fake = Fake::answering(move |_, _, _| {
        wait.recv().unwrap();
        Vec::new()
    });
    let monitor = fake.connect(PATIENCE).await.unwrap();
    let other = monitor.clone();
    let closed = tokio::spawn(async move { other.closed().await });
    let quit = tokio::spawn(async move { monitor.quit().await });
    hang_up.send(()).unwrap();
    assert_eq!(&*timeout(PATIENCE, closed).await.unwrap().unwrap(), "QEMU closed the connection");
    quit.await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_hangs_up() {
    let (ended, wait) = tokio::sync::oneshot::channel();
    let fake = Fake::raw(move |mut stream| {
        negotiate(&mut stream);
        wait_for_end(stream);
        ended.send(()).unwrap();
    });
    drop(fake.connect(PATIENCE).await.unwrap());
    timeout(PATIENCE, wait).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_device_that_is_gone_already_counts_as_deleted() {
    let fake = Fake::answering(|_, _, _| vec![refused("DeviceNotFound", "Device 'usb-a' not found")]);
    fake.connect(PATIENCE).await.unwrap().device_del("usb-a").await.unwrap();
}

#[tokio::test]
async fn a_deletion_told_before_the_answer_is_not_missed() {
    let fake = Fake::answering(|_, _, _| vec![deleted("usb-b"), deleted("usb-a"), done(&json!({}))]);
    fake.connect(PATIENCE).await.unwrap().device_del("usb-a").await.unwrap();
}

#[tokio::test]
async fn a_deletion_lost_among_a_flood_of_events_is_found_by_looking() {
    let fake = Fake::answering(|execute, _, _| match execute {
        "device_del" => {
            let flood = (0..500).map(|n| deleted(&format!("usb-{n}")));
            std::iter::once(deleted("usb-a")).chain(flood).chain([done(&json!({}))]).collect()
        }
        _ => vec![done(&json!([]))],
    });
    fake.connect(PATIENCE).await.unwrap().device_del("usb-a").await.unwrap();
}

#[tokio::test]
async fn a_device_that_does_not_go_is_a_timeout() {
    let fake = Fake::answering(|_, _, _| vec![done(&json!({})), deleted("usb-b")]);
    let stays = fake.connect(BRIEF).await.unwrap().device_del("usb-a").await;
    assert!(matches!(stays, Err(QmpError::Timeout { command: "device_del", .. })), "{stays:?}");
}

#[tokio::test]
async fn a_refused_deletion_of_a_device_that_is_there_is_an_error() {
    let fake = Fake::answering(|execute, _, _| match execute {
        "device_del" => vec![refused("GenericError", "Bus 'usb.0' does not support hotplugging")],
        _ => vec![done(&json!([{"name": "usb-a", "type": "child<usb-host>"}]))],
    });
    let error = fake.connect(PATIENCE).await.unwrap().device_del("usb-a").await.unwrap_err();
    assert!(error.to_string().contains("does not support hotplugging"), "{error}");
}

/// A fake QEMU, a monitor of it, and a file that stands for a usbfs node.
async fn qemu(state: FakeQemu) -> (Arc<Mutex<FakeQemu>>, Monitor, File, Fake) {
    let state = Arc::new(Mutex::new(state));
    let fake = FakeQemu::serve(&state);
    let monitor = fake.connect(PATIENCE).await.unwrap();
    (state, monitor, tempfile::tempfile().unwrap(), fake)
}

fn plugged(name: &str, tag: &str) -> Plugged {
    let number: u32 = tag.rsplit_once('-').unwrap().1.parse().unwrap();
    Plugged { name: name.into(), tag: tag.into(), bus: 0, port: (number + 1).to_string(), attached: true }
}

#[tokio::test]
async fn plugging_hands_over_the_very_descriptor_and_is_readable_afterwards() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    let got = usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
    assert_eq!(got, plugged("stick", "005-002"));
    assert_eq!(usb::plugged(&monitor).await.unwrap(), [got]);
    assert_eq!(state.lock().unwrap().arrived, [rustix::fs::fstat(&file).unwrap().st_ino]);
    usb::unplug(&monitor, "stick").await.unwrap();
    assert_eq!(usb::plugged(&monitor).await.unwrap(), []);
    assert!(state.lock().unwrap().sets.is_empty());
}

#[tokio::test]
async fn what_was_done_through_a_connection_is_known_without_asking_and_is_what_qemu_says() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    assert_eq!(usb::remembered(&monitor), None);
    usb::plug(&monitor, "one", file.as_fd(), "005-002").await.unwrap();
    let asked = state.lock().unwrap().asked;
    usb::plug(&monitor, "two", file.as_fd(), "005-003").await.unwrap();
    usb::plug(&monitor, "three", file.as_fd(), "005-004").await.unwrap();
    usb::unplug(&monitor, "two").await.unwrap();
    let known = usb::remembered(&monitor).unwrap();
    assert_eq!((state.lock().unwrap().asked, known.sure), (asked, true));
    assert_eq!(usb::plugged(&monitor).await.unwrap(), known.plugged);
    let names: Vec<_> = known.plugged.iter().map(|plugged| plugged.name.as_str()).collect();
    assert_eq!(names, ["one", "three"]);
}

#[tokio::test]
async fn after_a_failure_and_after_doubts_qemu_is_asked() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    usb::plug(&monitor, "one", file.as_fd(), "005-002").await.unwrap();
    state.lock().unwrap().refuse_add = true;
    usb::plug(&monitor, "two", file.as_fd(), "005-003").await.unwrap_err();
    assert!(!usb::remembered(&monitor).unwrap().sure);
    let asked = state.lock().unwrap().asked;
    usb::plug(&monitor, "two", file.as_fd(), "005-003").await.unwrap();
    assert!(state.lock().unwrap().asked > asked);
    // Somebody else takes it out.
    usb::doubt(&monitor);
    state.lock().unwrap().devices.retain(|(id, ..)| id != "usb-two");
    usb::plug(&monitor, "two", file.as_fd(), "005-003").await.unwrap();
    assert_eq!(usb::plugged(&monitor).await.unwrap(), usb::remembered(&monitor).unwrap().plugged);
}

#[tokio::test]
async fn no_set_of_descriptors_is_used_twice() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    let mut sets = std::collections::BTreeSet::new();
    for _ in 0..3 {
        usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
        sets.extend(state.lock().unwrap().sets.iter().map(|(set, _)| *set));
        usb::unplug(&monitor, "stick").await.unwrap();
    }
    assert_eq!(sets.len(), 3, "a paused QEMU goes on listing those that were dropped");
}

#[tokio::test]
async fn plugging_the_same_device_again_touches_nothing() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    let first = usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
    let second = usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(state.lock().unwrap().log, ["add-fd", "device_add"]);
}

#[tokio::test]
async fn a_device_that_came_back_under_another_number_replaces_the_old_one() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
    let got = usb::plug(&monitor, "stick", file.as_fd(), "005-003").await.unwrap();
    assert_eq!(got, plugged("stick", "005-003"));
    assert_eq!(state.lock().unwrap().sets.len(), 1);
}

#[tokio::test]
async fn a_device_that_came_back_is_in_no_port_that_was_left_a_moment_ago() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    let port = |name, tag| {
        let (monitor, file) = (monitor.clone(), file.try_clone().unwrap());
        async move { usb::plug(&monitor, name, file.as_fd(), tag).await.unwrap().port }
    };
    // Both have the number 7 on their buses, and 8 when they are back.
    assert_eq!((port("one", "001-007").await.as_str(), port("other", "004-007").await.as_str()), ("8", "9"));
    for name in ["one", "other"] {
        usb::unplug(&monitor, name).await.unwrap();
    }
    assert_eq!((port("other", "004-008").await.as_str(), port("one", "001-008").await.as_str()), ("10", "11"));
    // Another agent knows nothing of that, but sees in which port the device is that it replaces.
    drop(monitor);
    let again = FakeQemu::serve(&state).connect(PATIENCE).await.unwrap();
    assert_eq!(usb::plug(&again, "other", file.as_fd(), "004-009").await.unwrap().port, "12");
}

#[tokio::test]
async fn every_combination_of_leftovers_is_cleaned_by_plug_and_by_unplug() {
    let note = || "patchbay:stick:005-002".to_owned();
    let leftovers = || {
        [
            FakeQemu { sets: vec![(3, note())], ..FakeQemu::default() },
            FakeQemu { sets: vec![(3, note()), (5, note())], ..FakeQemu::default() },
            FakeQemu { devices: vec![("usb-stick".into(), 3, true)], ..FakeQemu::default() },
            FakeQemu { devices: vec![("usb-stick".into(), 3, false)], sets: vec![(3, note())], ..FakeQemu::default() },
            FakeQemu { devices: vec![("usb-stick".into(), 3, true)], sets: vec![(5, note())], ..FakeQemu::default() },
        ]
    };
    for state in leftovers() {
        let (state, monitor, _, _fake) = qemu(state).await;
        usb::unplug(&monitor, "stick").await.unwrap();
        let state = state.lock().unwrap();
        assert!(state.sets.is_empty() && state.devices.is_empty());
    }
    for state in leftovers() {
        let (state, monitor, file, _fake) = qemu(state).await;
        let got = usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
        assert_eq!(got, plugged("stick", "005-002"));
        let state = state.lock().unwrap();
        assert_eq!((state.sets.len(), state.devices.len(), state.arrived.len()), (1, 1, 1));
    }
}

#[tokio::test]
async fn what_belongs_to_other_devices_and_other_people_is_left_alone() {
    let others = FakeQemu {
        sets: vec![(1, "patchbay:stick2:005-009".into()), (2, "libvirt".into()), (7, "patchbay:stick".into())],
        devices: vec![("usb-stick2".into(), 1, true), ("net0".into(), 2, true)],
        ..FakeQemu::default()
    };
    let (state, monitor, file, _fake) = qemu(others).await;
    usb::plug(&monitor, "stick", file.as_fd(), "005-002").await.unwrap();
    let names: Vec<_> =
        usb::plugged(&monitor).await.unwrap().into_iter().map(|plugged| (plugged.name, plugged.tag)).collect();
    assert_eq!(names, [("stick".into(), "005-002".into()), ("stick2".into(), "005-009".to_owned())]);
    usb::unplug(&monitor, "stick").await.unwrap();
    let state = state.lock().unwrap();
    assert_eq!((state.sets.len(), state.devices.len()), (3, 2));
}

#[tokio::test]
async fn a_refused_device_leaves_no_descriptor_in_qemu() {
    let (state, monitor, file, _fake) = qemu(FakeQemu { refuse_add: true, ..FakeQemu::default() }).await;
    let refused = usb::plug(&monitor, "stick", file.as_fd(), "005-002").await;
    assert!(matches!(refused, Err(QmpError::Refused { command: "device_add", .. })), "{refused:?}");
    assert!(state.lock().unwrap().sets.is_empty());
}

#[tokio::test]
async fn a_refused_descriptor_is_told_and_there_is_no_device() {
    let (state, monitor, file, _fake) = qemu(FakeQemu { refuse_fd: true, ..FakeQemu::default() }).await;
    let refused = usb::plug(&monitor, "stick", file.as_fd(), "005-002").await;
    assert!(matches!(refused, Err(QmpError::Refused { command: "add-fd", .. })), "{refused:?}");
    assert!(state.lock().unwrap().devices.is_empty());
}

#[tokio::test]
async fn a_device_is_known_by_the_set_it_has_opened_when_two_carry_its_name() {
    let note = |set, number| (set, format!("patchbay:stick:005-{number}"));
    let state = FakeQemu {
        devices: vec![("usb-stick".into(), 3, true)],
        sets: vec![note(2, "001"), note(3, "002")],
        ..FakeQemu::default()
    };
    let (_state, monitor, _file, _fake) = qemu(state).await;
    assert_eq!(usb::plugged(&monitor).await.unwrap()[0].tag, "005-002");
}

#[tokio::test]
async fn devices_that_are_plugged_at_once_take_ports_of_their_own() {
    let (state, monitor, file, _fake) = qemu(FakeQemu::default()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (monitor, file) = (monitor.clone(), file.try_clone().unwrap());
        // All want the same port first.
        tasks.spawn(async move { usb::plug(&monitor, &format!("stick{n}"), file.as_fd(), "005-002").await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(state.lock().unwrap().log.len(), 16, "each at its first attempt");
}

#[tokio::test]
async fn descriptors_keep_to_their_command_when_many_are_sent_at_once() {
    let (state, monitor, _, _fake) = qemu(FakeQemu::default()).await;
    let files: Vec<File> = (0..8).map(|_| tempfile::tempfile().unwrap()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (n, file) in files.iter().enumerate() {
        let (monitor, file) = (monitor.clone(), file.try_clone().unwrap());
        tasks.spawn(async move {
            let set = FdSet(n.try_into().unwrap());
            monitor.add_fd(file.as_fd(), set, &n.to_string()).await.unwrap();
            (n, set)
        });
    }
    let sets: Vec<(usize, FdSet)> = tasks.join_all().await;
    let state = state.lock().unwrap();
    for (n, set) in sets {
        let at = state.sets.iter().position(|(there, _)| *there == set.0).unwrap();
        assert_eq!(state.sets[at].1, n.to_string());
        assert_eq!(state.arrived[at], rustix::fs::fstat(&files[n]).unwrap().st_ino);
    }
}
