//! The lab's network: a learning Ethernet switch. Its ports are cables to nodes (datagram sockets, one frame each) and the
//! tap device that is the namespace itself. It can record what passes.
//!
//! Invariants: a frame is dropped rather than waited for; a node that is off keeps its cable; no frame passes a cut; a recording
//! has every frame that a port has sent while it was made.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv, sockopt};

/// Room in each direction of a cable.
const BUFFER: usize = 4 << 20;
/// More than any frame.
const FRAME: usize = 70_000;
/// The most that is recorded, in bytes.
const TAPE: usize = 512 << 20;
/// How many frames of one port are taken before the next port's turn.
const BURST: usize = 64;

/// Number of a port: nodes have 0, 1, ...; the namespace has the last.
pub type Port = usize;

type Address = [u8; 6];

/// What the switch shares with those who use it.
#[derive(Default)]
struct Shared {
    cuts: Mutex<HashSet<(Port, Port)>>,
    /// All frames one after the other, while somebody records.
    tape: Mutex<Option<Vec<u8>>>,
}

/// A running switch. Dropping it ends it, and frees the tap device.
pub struct Switch {
    /// The nodes' ends. They are kept open here, so that a cable survives its node.
    ends: Vec<OwnedFd>,
    shared: Arc<Shared>,
    /// The thread, and the pipe whose end is its end.
    thread: Option<(JoinHandle<()>, PipeWriter)>,
}

impl Switch {
    /// Starts a switch for `nodes` nodes, with the namespace on one more port.
    ///
    /// # Errors
    /// When sockets or the thread cannot be made.
    pub fn start(nodes: usize, tap: File) -> Result<Self> {
        let mut ends = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..nodes {
            let (ours, theirs) = UnixDatagram::pair().context("no socket for a cable")?;
            for end in [&ours, &theirs] {
                sockopt::set_socket_send_buffer_size(end, BUFFER)?;
                sockopt::set_socket_recv_buffer_size(end, BUFFER)?;
            }
            ours.set_nonblocking(true)?;
            ports.push(OwnedFd::from(ours));
            ends.push(OwnedFd::from(theirs));
        }
        ports.push(OwnedFd::from(tap));
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let (end, held) = std::io::pipe()?;
        let thread = std::thread::Builder::new().name("switch".into()).spawn(move || forward(&ports, &end, &seen))?;
        Ok(Self { ends, shared, thread: Some((thread, held)) })
    }

    /// The node's end of a cable, without what was on it when the node was off.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn cable(&self, port: Port) -> Result<OwnedFd> {
        let end = self.ends.get(port).with_context(|| format!("the switch has no port {port}"))?;
        let mut frame = [0; 1];
        while recv(end, &mut frame, RecvFlags::DONTWAIT | RecvFlags::TRUNC).is_ok() {}
        Ok(end.try_clone()?)
    }

    /// Drops every frame between two ports.
    pub fn cut(&self, a: Port, b: Port) {
        self.cuts().insert(pair(a, b));
    }

    /// Lets the frames between two ports pass again.
    pub fn heal(&self, a: Port, b: Port) {
        self.cuts().remove(&pair(a, b));
    }

    /// All ports, the namespace's included.
    pub fn ports(&self) -> std::ops::RangeInclusive<Port> {
        0..=self.ends.len()
    }

    fn cuts(&self) -> std::sync::MutexGuard<'_, HashSet<(Port, Port)>> {
        self.shared.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to record all frames, from the beginning of an empty tape.
    pub fn record(&self) {
        *self.tape() = Some(Vec::new());
    }

    /// Ends that: all frames since, one after the other, each from its Ethernet header on.
    ///
    /// # Errors
    /// When nothing was recorded, or there was more than fits.
    pub fn recorded(&self) -> Result<Vec<u8>> {
        let tape = self.tape().take().context("the switch has recorded nothing")?;
        anyhow::ensure!(tape.len() < TAPE, "the recording has no end: more than {TAPE} bytes have passed the switch");
        Ok(tape)
    }

    fn tape(&self) -> std::sync::MutexGuard<'_, Option<Vec<u8>>> {
        self.shared.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some((thread, held)) = self.thread.take() {
            drop(held);
            let _ = thread.join();
        }
    }
}

fn pair(a: Port, b: Port) -> (Port, Port) {
    (a.min(b), a.max(b))
}

/// Where the frame goes: the port its receiver was last heard on, or (broadcast, unknown) everywhere else.
fn route(table: &HashMap<Address, Port>, frame: &[u8], from: Port, ports: usize) -> Vec<Port> {
    let known = frame.first_chunk::<6>().filter(|to| to[0] & 1 == 0).and_then(|to| table.get(to));
    match known {
        Some(port) => vec![*port],
        None => (0..ports).filter(|port| *port != from).collect(),
    }
}

/// Forwards until the other end of the pipe is closed.
fn forward(ports: &[OwnedFd], end: &PipeReader, shared: &Shared) {
    let mut table: HashMap<Address, Port> = HashMap::new();
    let mut buffer = vec![0; FRAME];
    loop {
        let mut waiting: Vec<_> = ports.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
        waiting.push(PollFd::new(end, PollFlags::IN));
        if poll(&mut waiting, None).is_err() {
            continue;
        }
        if waiting.last().is_some_and(|end| !end.revents().is_empty()) {
            return;
        }
        let ready: Vec<bool> = waiting.iter().map(|port| !port.revents().is_empty()).collect();
        for (from, fd) in ports.iter().enumerate().filter(|(port, _)| ready.get(*port).copied().unwrap_or(false)) {
            for _ in 0..BURST {
                let Ok(length) = rustix::io::read(fd, &mut buffer) else { break };
                let frame = buffer.get(..length).unwrap_or_default();
                let Some(sender) = frame.get(6..12).and_then(|s| s.first_chunk::<6>()) else { continue };
                table.insert(*sender, from);
                if let Some(tape) = shared.tape.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    let room = TAPE.saturating_sub(tape.len());
                    tape.extend_from_slice(frame.get(..room).unwrap_or(frame));
                }
                for to in route(&table, frame, from, ports.len()) {
                    deliver(ports.get(to).map(AsFd::as_fd), frame, &shared.cuts, from, to);
                }
            }
        }
    }
}

fn deliver(fd: Option<BorrowedFd<'_>>, frame: &[u8], cuts: &Mutex<HashSet<(Port, Port)>>, from: Port, to: Port) {
    let cut = cuts.lock().unwrap_or_else(PoisonError::into_inner).contains(&pair(from, to));
    if let Some(fd) = fd.filter(|_| !cut) {
        // A full cable loses the frame, as a real one does.
        let _ = rustix::io::write(fd, frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(to: u8, from: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 0, 0, to, 0, 0, 0, 0, 0, from];
        frame.extend([8, 0, from, to]);
        frame
    }

    /// Three nodes and, in the tap's place, a socket nobody reads.
    fn three() -> (Switch, Vec<UnixDatagram>, UnixDatagram) {
        let (tap, other) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        let switch = Switch::start(3, File::from(OwnedFd::from(tap))).unwrap();
        let nodes: Vec<_> = (0..3).map(|port| UnixDatagram::from(switch.cable(port).unwrap())).collect();
        nodes.iter().for_each(|node| node.set_read_timeout(Some(Duration::from_millis(200))).unwrap());
        (switch, nodes, other)
    }

    fn heard(node: &UnixDatagram) -> Option<Vec<u8>> {
        let mut bytes = [0; 100];
        node.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec())
    }

    #[test]
    fn an_unknown_receiver_is_looked_for_everywhere_and_a_known_one_only_where_it_is() {
        let (_switch, nodes, _tap) = three();
        nodes[0].send(&frame(2, 1)).unwrap();
        assert_eq!((heard(&nodes[1]), heard(&nodes[2])), (Some(frame(2, 1)), Some(frame(2, 1))));
        nodes[1].send(&frame(1, 2)).unwrap();
        assert_eq!((heard(&nodes[0]), heard(&nodes[2])), (Some(frame(1, 2)), None));
    }

    #[test]
    fn a_cut_between_two_nodes_leaves_the_others_connected() {
        let (switch, nodes, _tap) = three();
        switch.cut(1, 0);
        nodes[0].send(&frame(0xff, 1)).unwrap();
        assert_eq!((heard(&nodes[1]), heard(&nodes[2])), (None, Some(frame(0xff, 1))));
        switch.heal(0, 1);
        nodes[0].send(&frame(0xff, 1)).unwrap();
        assert_eq!(heard(&nodes[1]), Some(frame(0xff, 1)));
    }

    #[test]
    fn a_recording_has_the_frames_that_were_sent_while_it_was_made() {
        let (switch, nodes, _tap) = three();
        assert!(switch.recorded().is_err());
        let pass = |frame: Vec<u8>| {
            nodes[0].send(&frame).unwrap();
            assert_eq!(heard(&nodes[1]), Some(frame));
        };
        pass(frame(2, 1));
        switch.record();
        pass(frame(2, 3));
        pass(frame(2, 4));
        assert_eq!(switch.recorded().unwrap(), [frame(2, 3), frame(2, 4)].concat());
        assert!(switch.recorded().is_err());
    }

    #[test]
    fn a_node_that_comes_back_does_not_hear_what_was_said_while_it_was_off() {
        let (switch, nodes, _tap) = three();
        nodes[0].send(&frame(0xff, 1)).unwrap();
        assert!(heard(&nodes[2]).is_some(), "the frame has passed the switch");
        let again = UnixDatagram::from(switch.cable(1).unwrap());
        again.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(heard(&again), None);
    }
}
