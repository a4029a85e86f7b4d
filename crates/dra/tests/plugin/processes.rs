//! Real processes of a driver, killed and replaced.
//!
//! A process is this test program once more, told to run
//! [`a_process_of_the_driver`] only.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use patchbay_dra::{Journal, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::fragile::{Fragile, Traces};
use crate::node::Ground;
use crate::support::{DEADLINE, eventually};

/// Where the node's folders are: set for processes of the driver.
const ROOT: &str = "PATCHBAY_DRA_TEST_ROOT";

/// A process of the driver. Killed at the end of the test, however it ends.
struct Process(Child);

impl Process {
    fn start(ground: &Ground) -> Self {
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program)
            .args(["processes::a_process_of_the_driver", "--exact", "--ignored", "--nocapture"])
            .env(ROOT, ground.root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn terminate(&self) {
        let killed = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(killed.success());
    }

    /// Whether it waits for a lock that another process has (proc_locks(5)).
    fn waits_for_a_lock(&self) -> bool {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let waits = |line: &str| line.contains("->") && line.contains(&format!(" {} ", self.0.id()));
        locks.lines().any(waits)
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some_and(|status| {
            assert!(status.success(), "{status}");
            true
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a driver's `main` does.
#[tokio::test]
#[ignore = "run by the tests below as a process of its own"]
async fn a_process_of_the_driver() {
    // Without it somebody runs all ignored tests, and this one is none.
    let Some(root) = std::env::var_os(ROOT) else { return };
    let ground = Ground::at(Path::new(&root));
    ground.add_claim("c", "u1", "d1");
    let mut term = signal(SignalKind::terminate()).unwrap();
    let journal = tokio::select! {
        journal = Journal::open(ground.journal_file()) => journal.unwrap(),
        _ = term.recv() => return,
    };
    let traces = Traces::new(ground.root());
    assert!(traces.cdi.remove_orphans(&journal).unwrap().is_empty(), "a trace of an unknown claim");
    traces.agree_with(&journal);
    let driver = Fragile::new(traces, journal.clone());
    let plugin = ground.serve(journal, driver, DEADLINE).await;
    term.recv().await;
    plugin.stop().await;
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_moment_leaves_nothing_unknown() {
    let ground = Ground::new();
    let traces = Traces::new(ground.root());
    let mut seen = [0, 0, 0, 0];
    for round in 0..24 {
        let process = Process::start(&ground);
        ground.kubelet().prepare_persistently("c", "u1").await;
        // Killed somewhere in the stream of calls, each time a little later.
        let calls = ground.kubelet().annoy("c", "u1");
        assert!(timeout(Duration::from_micros(700 * round), calls).await.is_err());
        process.kill();
        let journal = ground.open_journal().await;
        traces.agree_with(&journal);
        let records = journal.records();
        seen[match records.get("u1").map(|record| record.state) {
            None => 0,
            Some(State::Preparing) => 1,
            Some(State::Prepared) => 2,
            Some(State::Unpreparing) => 3,
        }] += 1;
    }
    println!(
        "killed without a record {}, preparing {}, prepared {}, unpreparing {}",
        seen[0], seen[1], seen[2], seen[3]
    );
    assert!(seen.iter().filter(|count| **count > 0).count() > 1, "every kill hit the same moment: {seen:?}");
    let _process = Process::start(&ground);
    ground.kubelet().prepare_persistently("c", "u1").await;
    assert_eq!(ground.kubelet().unprepare("c", "u1").await, "");
    assert!(traces.any().is_empty());
}

#[tokio::test]
async fn a_process_waits_for_the_one_before_it_and_can_be_told_to_end_while_it_waits() {
    let ground = Ground::new();
    let mut first = Process::start(&ground);
    ground.kubelet().prepare_persistently("c", "u1").await;
    let sockets = || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(ground.socket()).map(|file| file.ino()).ok()
    };
    let socket_of_first = sockets();

    let mut impatient = Process::start(&ground);
    let mut second = Process::start(&ground);
    eventually("both wait", || impatient.waits_for_a_lock() && second.waits_for_a_lock()).await;
    assert_eq!(sockets(), socket_of_first, "nobody has touched the sockets of the first");
    ground.kubelet().prepare_persistently("c", "u1").await;
    impatient.terminate();
    eventually("it ends though it waits", || impatient.has_ended()).await;

    first.terminate();
    eventually("the first ends in an orderly way", || first.has_ended()).await;
    ground.kubelet().prepare_persistently("c", "u1").await;
    assert!(!second.has_ended());
    second.terminate();
    eventually("the second ends in an orderly way", || second.has_ended()).await;
    assert!(!ground.socket().exists() && !ground.registration_socket().exists());
    let journal = ground.open_journal().await;
    assert_eq!(journal.records().prepared().count(), 1, "what is prepared outlives its processes");
}
