//! The lock of a journal: one process at a time owns it.
//!
//! During an update of a DaemonSet, or after a pod was deleted by force, two
//! processes of a driver are alive on one node for a while. The newer one waits
//! here until the older one has ended, however it ends: the lock is the kernel's
//! (flock(2)) and goes with its process. It works across containers that mount
//! the same folder of the node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// How often the log says that the wait goes on.
const ANNOUNCE: Duration = Duration::from_secs(10);

/// The lock, held until the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Lock {
    _file: Arc<File>,
}

/// The lock's file, beside the journal. It stays when the lock is given back:
/// removing it would let two processes lock two files of one name.
pub(super) fn path(journal: &Path) -> PathBuf {
    let name = journal.file_name().unwrap_or_default().to_string_lossy();
    journal.with_file_name(format!("{name}.lock"))
}

/// Takes the lock of a journal, as soon as nobody else has it. Can be cancelled
/// by dropping the future; the place in the queue is given up then.
pub(super) async fn take(journal: &Path) -> io::Result<Lock> {
    take_announcing(journal, ANNOUNCE).await
}

async fn take_announcing(journal: &Path, announce: Duration) -> io::Result<Lock> {
    let path = path(journal);
    loop {
        let at = path.clone();
        let file = match tokio::task::spawn_blocking(move || try_take(&at)).await.map_err(io::Error::other)?? {
            Attempt::Taken(file) => file,
            Attempt::Held(file) => wait(file, journal, announce).await?,
        };
        if is_at(&file, &path) {
            return Ok(Lock { _file: Arc::new(file) });
        }
        // Somebody removed the file in the meantime: what was locked is no
        // longer what others will find.
    }
}

/// How an attempt that does not wait ended.
enum Attempt {
    Taken(File),
    Held(File),
}

fn try_take(path: &Path) -> io::Result<Attempt> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Attempt::Taken(file)),
        Err(TryLockError::WouldBlock) => Ok(Attempt::Held(file)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Waits in a thread of its own: nothing can interrupt flock(2), and a thread of
/// the runtime would keep the whole process from ending. When nobody wants the
/// lock any more, the thread gives it back as soon as it gets it.
async fn wait(file: File, journal: &Path, announce: Duration) -> io::Result<File> {
    tracing::warn!(journal = %journal.display(), "the former process has not ended: waiting until it has");
    let since = Instant::now();
    let (done, mut locked) = oneshot::channel();
    thread::Builder::new().name("journal lock".to_owned()).spawn(move || {
        let outcome = block(&file).map(|()| file);
        let _ = done.send(outcome);
    })?;
    loop {
        let seconds = || since.elapsed().as_secs();
        match timeout(announce, &mut locked).await {
            Ok(outcome) => {
                let file = outcome.map_err(io::Error::other)??;
                tracing::info!(journal = %journal.display(), "the former process has ended after {} s", seconds());
                return Ok(file);
            }
            Err(_) => tracing::warn!(
                journal = %journal.display(),
                "still waiting for the former process to end, for {} s now", seconds()
            ),
        }
    }
}

fn block(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => identity(open) == identity(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};
    use std::sync::Mutex;

    use tempfile::TempDir;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn journal() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.json");
        (folder, journal)
    }

    /// Another process that has the lock.
    fn other_process(journal: &Path) -> Child {
        let lock = path(journal);
        let mut child = Command::new("flock")
            .args(["--no-fork", lock.to_str().unwrap(), "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("flock of util-linux is installed");
        // `cat` answers once it runs, and it runs once the lock is taken.
        child.stdin.as_mut().unwrap().write_all(b"locked\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert_eq!(answer, "locked\n");
        child
    }

    /// What all tests of this process log.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn start() -> Self {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
            log
        }

        /// The lines about a journal.
        fn about(&self, journal: &Path) -> String {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            let journal = journal.to_str().unwrap();
            text.lines().filter(|line| line.contains(journal)).collect::<Vec<_>>().join("\n")
        }
    }

    #[tokio::test]
    async fn whoever_waits_says_for_how_long_and_goes_on_when_the_other_process_is_killed() {
        let (_folder, journal) = journal();
        let mut other = other_process(&journal);
        let log = Log::start();
        let mut waiting = std::pin::pin!(take_announcing(&journal, Duration::from_millis(100)));
        let end = Instant::now() + DEADLINE;
        while !log.about(&journal).contains("for 1 s now") {
            assert!(Instant::now() < end, "never said: {}", log.about(&journal));
            assert!(timeout(Duration::from_millis(20), waiting.as_mut()).await.is_err(), "two have the lock");
        }
        let text = log.about(&journal);
        assert!(text.contains("waiting until it has") && text.contains("for 0 s now"), "{text}");
        other.kill().unwrap();
        other.wait().unwrap();
        let _lock = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(log.about(&journal).contains("the former process has ended after"), "{}", log.about(&journal));
    }

    #[tokio::test]
    async fn a_lock_is_free_when_its_last_clone_is_gone() {
        let (_folder, journal) = journal();
        let first = take(&journal).await.unwrap();
        let clone = first.clone();
        drop(first);
        let mut second = std::pin::pin!(take(&journal));
        assert!(timeout(Duration::from_millis(50), second.as_mut()).await.is_err());
        drop(clone);
        timeout(DEADLINE, second).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_is_in_nobodys_way() {
        let (_folder, journal) = journal();
        let first = take(&journal).await.unwrap();
        assert!(timeout(Duration::from_millis(50), take(&journal)).await.is_err());
        drop(first);
        timeout(DEADLINE, take(&journal)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_lock_file_that_was_removed_meanwhile_is_not_taken_for_the_lock() {
        let (_folder, journal) = journal();
        let first = take(&journal).await.unwrap();
        let mut second = std::pin::pin!(take(&journal));
        assert!(timeout(Duration::from_millis(50), second.as_mut()).await.is_err());
        fs::remove_file(path(&journal)).unwrap();
        let third = take(&journal).await.unwrap();
        // Now the second gets the lock of a file that nobody else will ever find.
        drop(first);
        assert!(timeout(Duration::from_millis(50), second.as_mut()).await.is_err());
        drop(third);
        timeout(DEADLINE, second).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_lock_that_cannot_be_made_is_an_error() {
        let (folder, journal) = journal();
        fs::create_dir(path(&journal)).unwrap();
        assert!(take(&journal).await.is_err());
        drop(folder);
    }
}
