//! When to look at sysfs again.
//!
//! A thread reads the kernel's messages and turns them into [`Hint`]s; [`Hints::next`] hands them on, at most one each
//! 20 ms. A hint carries no truth: whoever gets one scans.
//!
//! # Guarantees
//!
//! * After any change the kernel told of, one hint follows; many changes may share one.
//! * Never silently dead: when messages were lost (the socket's buffer ran over) or reading failed, the hint is
//!   [`Hint::Rescan`], and the socket is opened anew, with a back-off of 0.1 to 10 s. The thread ends when the [`Hints`]
//!   are dropped.
//! * Only the kernel is believed: messages from other senders on the same group are ignored.
//!
//! Where the kernel's messages cannot be had at all (a pod with `hostUsers: false`) the hints are one `Rescan` for each try
//! to open the socket: callers scan on a timer anyway.
//!
//! # States of the thread
//!
//! ```text
//!   opening -- opened: Rescan --> reading -- message of ours: Changed, overrun: Rescan --> reading
//!      ^  \-- failed: Rescan, wait --> opening   |
//!      +------------------ error: Rescan, wait --+
//! ```

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use crate::uevents::parse;

/// Why to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The kernel told of a change.
    Changed,
    /// Changes may have gone unseen.
    Rescan,
}

/// The hints of one node.
#[derive(Debug)]
pub struct Hints {
    receiver: Receiver<Hint>,
    pending: Option<Hint>,
    last: Option<Instant>,
}

/// At most one hint in this time.
const QUIET: Duration = Duration::from_millis(20);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LAST_BACK_OFF: Duration = Duration::from_secs(10);
/// How often the thread looks whether anybody still listens.
const IDLE: Duration = Duration::from_secs(30);
/// The group of the kernel's own messages.
const KERNEL_GROUP: u32 = 1;
/// A message is at most 2 KiB of variables and a path (`UEVENT_BUFFER_SIZE`).
const MAX_MESSAGE: usize = 8192;
const BUFFER: usize = 1 << 20;

/// Starts to listen to the kernel.
///
/// # Errors
/// The thread cannot be started. That the socket cannot be opened is no error: see the module.
pub fn watch() -> io::Result<Hints> {
    let (sender, hints) = channel();
    thread::Builder::new().name("uevents".to_owned()).spawn(move || listen(open, receive, &sender))?;
    Ok(hints)
}

fn channel() -> (Sender<Hint>, Hints) {
    let (sender, receiver) = mpsc::channel(64);
    (sender, Hints { receiver, pending: None, last: None })
}

impl Hints {
    /// Waits for the next hint. May be dropped and called again without losing one.
    pub async fn next(&mut self) -> Hint {
        if self.pending.is_none() {
            match self.receiver.recv().await {
                Some(hint) => self.pending = Some(hint),
                // The thread outlives the receiver, unless it was torn down with the process.
                None => pending::<()>().await,
            }
        }
        if let Some(last) = self.last {
            sleep_until(last + QUIET).await;
        }
        let mut hint = self.pending.take().unwrap_or(Hint::Rescan);
        while let Ok(more) = self.receiver.try_recv() {
            hint = if more == Hint::Rescan { more } else { hint };
        }
        self.last = Some(Instant::now());
        hint
    }
}

/// The thread. `receive` returns a message of the kernel's, or None when there was none for a while.
fn listen<S>(
    mut open: impl FnMut() -> io::Result<S>,
    mut receive: impl FnMut(&S, &mut [u8]) -> io::Result<Option<usize>>,
    hints: &Sender<Hint>,
) {
    let mut back_off = FIRST_BACK_OFF;
    let mut buffer = vec![0; MAX_MESSAGE];
    while !hints.is_closed() {
        let failed = match open() {
            Ok(socket) => {
                hint(hints, Hint::Rescan);
                let (heard, error) = read(&socket, &mut receive, &mut buffer, hints);
                if heard {
                    back_off = FIRST_BACK_OFF;
                }
                error
            }
            Err(error) => Some(error),
        };
        let Some(error) = failed else { return };
        if back_off == FIRST_BACK_OFF {
            tracing::warn!(%error, "kernel messages about devices cannot be read; trying again and again");
        }
        hint(hints, Hint::Rescan);
        thread::sleep(back_off);
        back_off = (back_off * 2).min(LAST_BACK_OFF);
    }
}

/// Reads until something fails (the error) or nobody listens any more (none), and whether it had read anything.
fn read<S>(
    socket: &S,
    receive: &mut impl FnMut(&S, &mut [u8]) -> io::Result<Option<usize>>,
    buffer: &mut [u8],
    hints: &Sender<Hint>,
) -> (bool, Option<io::Error>) {
    let mut heard = false;
    while !hints.is_closed() {
        match receive(socket, buffer) {
            Ok(None) => {}
            Ok(Some(length)) => {
                heard = true;
                let event = buffer.get(..length).and_then(parse);
                if event.is_some_and(|e| e.concerns_usb()) {
                    hint(hints, Hint::Changed);
                }
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                tracing::debug!("kernel messages about devices came faster than they were read");
                hint(hints, Hint::Rescan);
            }
            Err(error) => return (heard, Some(error)),
        }
    }
    (heard, None)
}

/// When the channel is full, 64 wakes are waiting already: one more says nothing new.
fn hint(hints: &Sender<Hint>, hint: Hint) {
    if hints.try_send(hint).is_err() {
        tracing::trace!(?hint, "a wake is pending already");
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    // A smaller buffer than asked for only means an earlier Rescan.
    if let Err(error) = set_socket_recv_buffer_size(&socket, BUFFER) {
        tracing::debug!(%error, "the buffer for kernel messages keeps its default size");
    }
    set_socket_timeout(&socket, Timeout::Recv, Some(IDLE))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// A message whose sender is the kernel: its port is 0, which no process can have.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match recvfrom(socket, buffer, RecvFlags::empty()) {
        Ok((length, _, sender)) => {
            let kernel = sender.is_some_and(|a| SocketAddrNetlink::try_from(a).is_ok_and(|a| a.pid() == 0));
            Ok(kernel.then_some(length))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const USB: &[u8] = b"add@/devices/usb1/1-2\0SUBSYSTEM=usb\0";
    const BLOCK: &[u8] = b"add@/devices/virtual/block/loop3\0SUBSYSTEM=block\0";

    /// A socket that gives these results one after the other, then nothing more.
    fn script(results: Vec<io::Result<&'static [u8]>>) -> impl FnMut(&(), &mut [u8]) -> io::Result<Option<usize>> {
        let mut results = VecDeque::from(results);
        move |(), buffer| match results.pop_front() {
            Some(Ok(message)) => {
                buffer[..message.len()].copy_from_slice(message);
                Ok(Some(message.len()))
            }
            Some(Err(error)) => Err(error),
            None => {
                thread::yield_now();
                Ok(None)
            }
        }
    }

    /// What the thread sends until `count` hints have come.
    fn heard(
        open: impl FnMut() -> io::Result<()> + Send + 'static,
        receive: impl FnMut(&(), &mut [u8]) -> io::Result<Option<usize>> + Send + 'static,
        count: usize,
    ) -> Vec<Hint> {
        let (sender, mut hints) = channel();
        let thread = thread::spawn(move || listen(open, receive, &sender));
        let heard = (0..count).map(|_| hints.receiver.blocking_recv().unwrap()).collect();
        drop(hints);
        thread.join().unwrap();
        heard
    }

    #[test]
    fn usb_messages_wake_and_others_do_not() {
        let messages = script(vec![Ok(BLOCK), Ok(USB), Ok(b"libudev\0"), Ok(USB)]);
        assert_eq!(heard(|| Ok(()), messages, 3), [Hint::Rescan, Hint::Changed, Hint::Changed]);
    }

    #[test]
    fn an_overrun_asks_for_a_rescan_and_reading_goes_on() {
        let messages = script(vec![Ok(USB), Err(Errno::NOBUFS.into()), Ok(USB)]);
        let expected = [Hint::Rescan, Hint::Changed, Hint::Rescan, Hint::Changed];
        assert_eq!(heard(|| Ok(()), messages, 4), expected);
    }

    #[test]
    fn a_broken_socket_is_opened_again_and_hints_go_on() {
        let mut opened = 0;
        let open = move || {
            opened += 1;
            if opened == 2 { Err(Errno::MFILE.into()) } else { Ok(()) }
        };
        let messages = script(vec![Err(Errno::IO.into()), Ok(USB)]);
        // Opened, broken, not opened, opened, message.
        let expected = [Hint::Rescan, Hint::Rescan, Hint::Rescan, Hint::Rescan, Hint::Changed];
        assert_eq!(heard(open, messages, 5), expected);
    }

    /// Polled once: what it gives without waiting.
    fn at_once(hints: &mut Hints) -> Option<Hint> {
        match pin!(hints.next()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(hint) => Some(hint),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_burst_wakes_at_once_and_then_once_after_the_quiet_time() {
        let (sender, mut hints) = channel();
        let start = Instant::now();
        sender.try_send(Hint::Changed).unwrap();
        assert_eq!(at_once(&mut hints), Some(Hint::Changed));
        for hint in [Hint::Changed, Hint::Rescan, Hint::Changed] {
            sender.try_send(hint).unwrap();
        }
        assert_eq!(at_once(&mut hints), None);
        assert_eq!(hints.next().await, Hint::Rescan, "the stronger hint wins");
        assert!(start.elapsed() >= QUIET);
        assert!(hints.pending.is_none() && hints.receiver.is_empty(), "one wake for the whole burst");
    }

    #[tokio::test]
    async fn a_hint_is_not_lost_when_its_waiter_gives_up() {
        let (sender, mut hints) = channel();
        sender.try_send(Hint::Changed).unwrap();
        hints.next().await;
        sender.try_send(Hint::Changed).unwrap();
        assert_eq!(at_once(&mut hints), None);
        assert_eq!(hints.next().await, Hint::Changed);
    }
}
