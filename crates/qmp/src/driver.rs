//! The task that owns a monitor's socket.
//!
//! States: `greeting -> negotiating -> idle <-> waiting for answers -> closed`.
//!
//! Commands are written without waiting for the answers to those before: each answer that is waited for costs a busy node several
//! changes from one process to another. QEMU does them, and answers, one after the other.
//!
//! Invariants:
//! * one command with a descriptor at a time is under way, so that the descriptor cannot be taken by another one;
//! * every command has a deadline from the moment it is written and all before it are answered, and a missed one closes the
//!   connection, because the answer to it could come at any time later;
//! * whatever ends the task, the reason is published before the queue closes, so no caller finds the end without it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::QmpError;
use crate::line::Lines;
use crate::message::{Event, Message};

/// Commands that may wait for their turn; callers wait when it is full.
const QUEUE: usize = 16;
/// Commands that may be under way; they fit into the socket's buffer.
const UNDER_WAY: usize = 32;
/// Events kept for a slow listener; it is told when it missed some.
const EVENTS: usize = 64;

/// One command on its way to QEMU.
pub(crate) struct Command {
    pub(crate) execute: &'static str,
    pub(crate) arguments: Value,
    pub(crate) descriptor: Option<OwnedFd>,
    pub(crate) reply: oneshot::Sender<Result<Value, QmpError>>,
}

/// The ends of a driver that its handles hold.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<Event>,
    /// `Some` once the connection is closed.
    pub(crate) closed: watch::Receiver<Option<Arc<str>>>,
}

/// A command that was written and not answered yet.
struct Pending {
    id: u64,
    execute: &'static str,
    /// Whether a descriptor came with it.
    carries: bool,
    reply: oneshot::Sender<Result<Value, QmpError>>,
}

struct Driver {
    stream: UnixStream,
    lines: Lines,
    patience: Duration,
    last_id: u64,
    /// The oldest first.
    pending: VecDeque<Pending>,
    /// When the oldest must have been answered.
    deadline: Instant,
    /// The next command, if it has to wait.
    next: Option<Command>,
    /// Whether there are handles yet.
    wanted: bool,
    events: broadcast::Sender<Event>,
}

/// Greets QEMU on a fresh connection and leaves a task in charge of it.
///
/// The task ends when the connection does, or when all handles are gone.
pub(crate) async fn start(stream: UnixStream, patience: Duration) -> Result<Ends, QmpError> {
    let (events, _) = broadcast::channel(EVENTS);
    let mut driver = Driver {
        stream,
        lines: Lines::default(),
        patience,
        last_id: 0,
        pending: VecDeque::new(),
        deadline: Instant::now(),
        next: None,
        wanted: true,
        events: events.clone(),
    };
    match timeout_at(Instant::now() + patience, driver.greeting()).await {
        Ok(greeted) => greeted.map_err(|reason| QmpError::Closed { reason: reason.into() })?,
        Err(_) => {
            return Err(QmpError::Timeout { command: "greeting", patience });
        }
    }
    let (commands, queue) = mpsc::channel(QUEUE);
    let (closing, closed) = watch::channel(None);
    tokio::spawn(async move {
        let reason = driver.run(queue, &closing).await;
        tracing::debug!(%reason, "monitor connection closed");
    });
    Ok(Ends { commands, events, closed })
}

impl Driver {
    /// Waits for the first line, which has to be a greeting.
    async fn greeting(&mut self) -> Result<(), String> {
        loop {
            match self.next_message()? {
                Some(Message::Greeting) => return Ok(()),
                Some(Message::Event(_)) => {}
                Some(Message::Answer { .. }) => {
                    return Err("the first line is not a monitor's greeting".into());
                }
                None => self.read().await?,
            }
        }
    }

    /// Serves commands until something ends the connection; publishes and returns the reason.
    async fn run(mut self, mut queue: mpsc::Receiver<Command>, closing: &watch::Sender<Option<Arc<str>>>) -> Arc<str> {
        let reason: Arc<str> = loop {
            match self.step(&mut queue).await {
                Ok(true) => {}
                Ok(false) => break "no longer needed".into(),
                Err(reason) => break reason.into(),
            }
        };
        closing.send_replace(Some(Arc::clone(&reason)));
        reason
    }

    /// Does the next thing; `false` when all handles are gone.
    async fn step(&mut self, queue: &mut mpsc::Receiver<Command>) -> Result<bool, String> {
        while let Some(message) = self.next_message()? {
            self.handle(message)?;
        }
        let may_go = |command: &mut Command| command.descriptor.is_none() || !self.pending.iter().any(|p| p.carries);
        if let Some(command) = self.next.take_if(may_go) {
            return self.send(command).await.map(|()| true);
        }
        let idle = self.pending.is_empty();
        if idle && !self.wanted {
            return Ok(false);
        }
        let room = self.wanted && self.next.is_none() && self.pending.len() < UNDER_WAY;
        tokio::select! {
            read = self.stream.readable() => read.map_err(|error| error.to_string())?,
            command = queue.recv(), if room => {
                self.wanted = command.is_some();
                self.next = command;
                return Ok(true);
            }
            () = sleep_until(self.deadline), if !idle => return Err(self.give_up()),
        }
        self.read().await.map(|()| true)
    }

    /// Writes a command.
    async fn send(&mut self, command: Command) -> Result<(), String> {
        let Command { execute, arguments, descriptor, reply } = command;
        if reply.is_closed() {
            return Ok(());
        }
        self.last_id = self.last_id.wrapping_add(1);
        let mut line = json!({"execute": execute, "arguments": arguments, "id": self.last_id}).to_string();
        line.push('\n');
        if self.pending.is_empty() {
            self.deadline = Instant::now() + self.patience;
        }
        self.pending.push_back(Pending { id: self.last_id, execute, carries: descriptor.is_some(), reply });
        match timeout_at(self.deadline, write(&self.stream, line.as_bytes(), descriptor)).await {
            Ok(written) => written.map_err(|error| format!("cannot write {execute}: {error}")),
            Err(_) => Err(self.give_up()),
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Greeting => Err("a second greeting".into()),
            Message::Event(event) => {
                // Nobody listening is the usual case.
                event.map(|event| self.events.send(event));
                Ok(())
            }
            Message::Answer { id, outcome } => match self.pending.pop_front() {
                Some(pending) if pending.id == id => {
                    self.deadline = Instant::now() + self.patience;
                    let Pending { execute: command, reply, .. } = pending;
                    let outcome = outcome.map_err(|refusal| QmpError::Refused {
                        command,
                        class: refusal.class,
                        description: refusal.description,
                    });
                    // A caller that went away does not want it any more.
                    drop(reply.send(outcome));
                    Ok(())
                }
                _ => Err(format!("an answer to a command that was not sent (id {id})")),
            },
        }
    }

    /// Tells the one who waits that the time is up.
    fn give_up(&mut self) -> String {
        let Some(Pending { execute: command, reply, .. }) = self.pending.pop_front() else {
            return "no answer in time".into();
        };
        drop(reply.send(Err(QmpError::Timeout { command, patience: self.patience })));
        format!("no answer to {command} within {:?}", self.patience)
    }

    fn next_message(&mut self) -> Result<Option<Message>, String> {
        match self.lines.next_line() {
            Ok(Some(line)) => Message::parse(&line).map(Some).map_err(|malformed| malformed.to_string()),
            Ok(None) => Ok(None),
            Err(_) => Err(format!("a line longer than {} bytes", crate::line::MAX_LINE)),
        }
    }

    async fn read(&mut self) -> Result<(), String> {
        let mut chunk = [0; 8192];
        match self.stream.read(&mut chunk).await {
            Ok(0) => Err("QEMU closed the connection".into()),
            Ok(n) => {
                self.lines.push(chunk.get(..n).unwrap_or_default());
                Ok(())
            }
            Err(error) => Err(format!("cannot read: {error}")),
        }
    }
}

/// Writes a line, the descriptor along with its first byte (`SCM_RIGHTS`, unix(7)).
async fn write(stream: &UnixStream, line: &[u8], mut descriptor: Option<OwnedFd>) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_io(Interest::WRITABLE, || send_some(stream, rest, descriptor.as_ref())) {
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                descriptor = None;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(rights) = &rights
        && !control.push(SendAncillaryMessage::ScmRights(rights))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}
