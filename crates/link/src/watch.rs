//! Notices when a session that the kernel carries has ended.
//!
//! One thread polls the sockets for the end of the connection and for nothing else: asking for readable data as well would wake it
//! for every packet of every device. An eventfd wakes it when the set changes.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::mpsc as channel;

/// What ends a session. Errors and hang-ups are always reported by poll(2); half-closing by the peer has to be asked for.
const ENDS: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);

/// The watching cannot be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system has no thread or descriptor left.
    #[error("cannot start the thread that watches sessions")]
    Start(#[source] io::Error),
    /// The thread is gone.
    #[error("the thread that watches sessions has ended")]
    Gone,
}

enum Change {
    Add(u64, OwnedFd),
    Remove(u64),
}

/// Watches any number of sockets, each under a number of the caller's choice. Dropping it ends the thread and closes its
/// descriptors.
#[derive(Debug)]
pub struct HangUp {
    /// `None` only while being dropped.
    changes: Option<mpsc::Sender<Change>>,
    wake: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HangUp {
    /// Starts the thread. The receiver gets the number of each session that ended, once; the descriptor is closed before.
    ///
    /// # Errors
    /// [`WatchError::Start`].
    pub fn start() -> Result<(Self, channel::UnboundedReceiver<u64>), WatchError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).map_err(|errno| WatchError::Start(errno.into()))?);
        let (changes, queue) = mpsc::channel();
        // Not bounded by a number, but by the sessions: each is reported at most once per `add`.
        let (ended, reports) = channel::unbounded_channel();
        let woken = Arc::clone(&wake);
        let thread = thread::Builder::new()
            .name("hang-up".into())
            .spawn(move || watch(&woken, &queue, &ended))
            .map_err(WatchError::Start)?;
        Ok((Self { changes: Some(changes), wake, thread: Some(thread) }, reports))
    }

    /// Watches a socket. One that has ended already is reported at once. A number that is in use changes its meaning.
    ///
    /// # Errors
    /// [`WatchError::Gone`].
    pub fn add(&self, number: u64, socket: OwnedFd) -> Result<(), WatchError> {
        self.change(Change::Add(number, socket))
    }

    /// Stops watching a socket, and closes the descriptor. An end that was noticed before may still be reported.
    ///
    /// # Errors
    /// [`WatchError::Gone`].
    pub fn remove(&self, number: u64) -> Result<(), WatchError> {
        self.change(Change::Remove(number))
    }

    fn change(&self, change: Change) -> Result<(), WatchError> {
        let changes = self.changes.as_ref().ok_or(WatchError::Gone)?;
        changes.send(change).map_err(|_| WatchError::Gone)?;
        ring(&self.wake);
        Ok(())
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        self.changes = None;
        ring(&self.wake);
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and there is nobody to tell.
            drop(thread.join());
        }
    }
}

/// Wakes the thread. An eventfd can only refuse when it counts to 2^64, and then the thread is awake.
fn ring(wake: &OwnedFd) {
    if let Err(errno) = rustix::io::write(wake, &1_u64.to_ne_bytes()) {
        tracing::debug!(error = %errno, "eventfd not written");
    }
}

/// The thread: applies changes, waits, reports, until the handle is gone.
fn watch(wake: &OwnedFd, queue: &mpsc::Receiver<Change>, ended: &channel::UnboundedSender<u64>) {
    let mut sockets: HashMap<u64, OwnedFd> = HashMap::new();
    loop {
        loop {
            match queue.try_recv() {
                Ok(Change::Add(number, socket)) => drop(sockets.insert(number, socket)),
                Ok(Change::Remove(number)) => drop(sockets.remove(&number)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        match wait(wake, &sockets) {
            Ok(numbers) => {
                for number in numbers {
                    drop(sockets.remove(&number));
                    if ended.send(number).is_err() {
                        tracing::debug!(number, "a session ended and nobody listens");
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(error = %errno, sessions = sockets.len(), "cannot watch sessions any more");
                return;
            }
        }
    }
}

/// Waits until something happens; returns the sessions that have ended.
fn wait(wake: &OwnedFd, sockets: &HashMap<u64, OwnedFd>) -> Result<Vec<u64>, Errno> {
    let numbers: Vec<u64> = sockets.keys().copied().collect();
    let mut polled: Vec<PollFd<'_>> =
        sockets.values().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), ENDS)).collect();
    polled.push(PollFd::new(wake, PollFlags::IN));
    rustix::event::poll(&mut polled, None)?;
    // Empty the eventfd whether or not it rang; it does not block.
    let mut count = [0; 8];
    let _rung = rustix::io::read(wake, &mut count);
    let gone = |fd: &PollFd<'_>| fd.revents().intersects(ENDS | PollFlags::NVAL);
    Ok(numbers.into_iter().zip(&polled).filter(|(_, fd)| gone(fd)).map(|(number, _)| number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, peer)
    }

    /// Waits until the thread has worked off all changes: it closes the descriptor of one that has ended.
    async fn settle(watch: &HangUp, ended: &mut channel::UnboundedReceiver<u64>) -> Vec<u64> {
        let (ours, peer) = pair();
        drop(peer);
        watch.add(u64::MAX, ours.into()).unwrap();
        let mut others = Vec::new();
        loop {
            match timeout(PATIENCE, ended.recv()).await.unwrap().unwrap() {
                u64::MAX => return others,
                other => others.push(other),
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_one_session_is_reported_and_data_is_not() {
        let (watch, mut ended) = HangUp::start().unwrap();
        let mut peers = Vec::new();
        for number in 0..20 {
            let (ours, peer) = pair();
            watch.add(number, ours.into()).unwrap();
            peers.push(peer);
        }
        peers[3].write_all(b"data that nobody reads").unwrap();
        peers[7].write_all(b"data, then the end").unwrap();
        peers[7].shutdown(Shutdown::Write).unwrap();
        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(7));
        assert_eq!(settle(&watch, &mut ended).await, Vec::<u64>::new());
    }

    #[tokio::test]
    async fn a_reset_connection_is_reported() {
        let (watch, mut ended) = HangUp::start().unwrap();
        let (ours, peer) = pair();
        watch.add(1, ours.into()).unwrap();
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn a_removed_session_is_closed_and_not_reported() {
        let (watch, mut ended) = HangUp::start().unwrap();
        let (ours, peer) = pair();
        watch.add(1, ours.into()).unwrap();
        watch.remove(1).unwrap();
        assert_eq!(settle(&watch, &mut ended).await, Vec::<u64>::new());
        // Our end was closed, so the other sees the end.
        let mut fds = [PollFd::new(&peer, PollFlags::RDHUP)];
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
    }

    #[tokio::test]
    async fn dropping_the_watch_ends_the_thread_and_its_channel() {
        let (watch, mut ended) = HangUp::start().unwrap();
        let (ours, _peer) = pair();
        watch.add(1, ours.into()).unwrap();
        drop(watch);
        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap(), None);
    }
}
