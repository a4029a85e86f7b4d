//! The handle of a monitor: one method per command.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard, broadcast, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::driver::{self, Command, Ends};
use crate::message::Event;
use crate::topology::{self, GuestUsb};
use crate::usb::Memory;
use crate::{QmpError, socket};

/// Where QEMU lists the devices that were added with an id.
const PERIPHERALS: &str = "/machine/peripheral";

/// Number of a set of descriptors inside QEMU; `/dev/fdset/<number>` opens one of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct FdSet(pub u32);

/// One descriptor that QEMU was given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FdInSet {
    /// Its number inside QEMU.
    pub fd: u32,
    /// The note that came with it.
    pub opaque: Option<String>,
}

/// A set of descriptors inside QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FdSetInfo {
    /// The set.
    #[serde(rename = "fdset-id")]
    pub id: FdSet,
    /// What is in it.
    pub fds: Vec<FdInSet>,
}

/// QEMU's run state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Whether the guest's processors run.
    pub running: bool,
    /// QEMU's word for it: `running`, `paused`, `inmigrate`, ...
    pub status: String,
}

/// A connection to the monitor of one QEMU; cheap to clone, closed when the last clone is dropped.
///
/// QEMU serves one client per monitor socket at a time. Every command can fail with [`QmpError::Closed`] or
/// [`QmpError::Timeout`] (after which the connection is closed), and with [`QmpError::Refused`].
#[derive(Debug, Clone)]
pub struct Monitor {
    ends: Ends,
    patience: Duration,
    /// Whoever chooses a port for a device, until it is taken; the number of the last one that was.
    turn: Arc<Mutex<Option<u32>>>,
    memory: Arc<Memory>,
}

impl Monitor {
    /// Connects to a monitor's socket and makes it ready for commands.
    ///
    /// `patience` is how long QEMU has for the greeting and for each answer later. Adding a device means talking to it, so
    /// give it more than the slowest device needs.
    ///
    /// # Errors
    /// The socket is missing, is no socket, nobody listens, or QEMU does not answer in time.
    pub async fn connect(socket: &Path, patience: Duration) -> Result<Self, QmpError> {
        Self::greet(socket::connect(socket).await?, patience).await
    }

    /// Like [`Monitor::connect`], for the socket `name` in a folder that is open already.
    ///
    /// # Errors
    /// As above.
    pub async fn connect_at(folder: BorrowedFd<'_>, name: &str, patience: Duration) -> Result<Self, QmpError> {
        Self::greet(socket::connect_at(folder, name).await?, patience).await
    }

    async fn greet(stream: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        let ends = driver::start(stream, patience).await?;
        let monitor = Self { ends, patience, turn: Arc::default(), memory: Arc::default() };
        monitor.execute("qmp_capabilities", json!({}), None).await?;
        Ok(monitor)
    }

    /// Completes when the connection is gone, with the reason.
    pub async fn closed(&self) -> Arc<str> {
        let mut closed = self.ends.closed.clone();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the monitor's task is gone".into())
    }

    /// A stream of what QEMU tells by itself. A listener that is too slow misses events and is told so.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.ends.events.subscribe()
    }

    /// Waits until nobody else who has this connection chooses a port for a device: the number of the last one that was taken.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, Option<u32>> {
        self.turn.lock().await
    }

    /// What QEMU said last of USB devices.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Sets a property of a device.
    pub(crate) async fn set_property(&self, id: &str, property: &str, value: Value) -> Result<(), QmpError> {
        let path = format!("{PERIPHERALS}/{id}");
        self.execute("qom-set", json!({"path": path, "property": property, "value": value}), None).await.map(drop)
    }

    /// Gives QEMU a copy of a descriptor, into `set`, with a note that [`Monitor::query_fdsets`] shows. A set that is not
    /// there is made.
    ///
    /// # Errors
    /// See [`Monitor`]. A descriptor that cannot be duplicated closes nothing.
    pub async fn add_fd(&self, descriptor: BorrowedFd<'_>, set: FdSet, opaque: &str) -> Result<(), QmpError> {
        let copy = descriptor.try_clone_to_owned().map_err(|error| QmpError::Nonsense {
            command: "add-fd",
            what: format!("cannot duplicate the descriptor for it: {error}"),
        })?;
        self.execute("add-fd", json!({ "fdset-id": set.0, "opaque": opaque }), Some(copy)).await.map(drop)
    }

    /// Drops a set. What a device has opened from it stays open until the device is gone; while the guest is paused QEMU
    /// goes on listing the set.
    ///
    /// # Errors
    /// See [`Monitor`]; refused when there is no such set.
    pub async fn remove_fd(&self, set: FdSet) -> Result<(), QmpError> {
        self.execute("remove-fd", json!({ "fdset-id": set.0 }), None).await.map(drop)
    }

    /// All sets with the notes of their descriptors.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn query_fdsets(&self) -> Result<Vec<FdSetInfo>, QmpError> {
        self.ask("query-fdsets", json!({}), None).await
    }

    /// Gives the guest the USB device whose usbfs node is in `set`, on this port of bus `bus`.
    ///
    /// # Errors
    /// See [`Monitor`]; refused when the id or the port is taken, or the device cannot be opened.
    pub async fn device_add_usb_host(&self, id: &str, bus: &str, set: FdSet, port: &str) -> Result<(), QmpError> {
        let properties = json!({"bus": bus, "port": port, "hostdevice": format!("/dev/fdset/{}", set.0)});
        self.device_add("usb-host", id, properties).await
    }

    /// Adds any device.
    pub(crate) async fn device_add(&self, driver: &str, id: &str, mut properties: Value) -> Result<(), QmpError> {
        if let Some(fields) = properties.as_object_mut() {
            fields.insert("driver".into(), driver.into());
            fields.insert("id".into(), id.into());
        }
        self.execute("device_add", properties, None).await.map(drop)
    }

    /// Takes a device away from the guest, and returns when it is gone. A device that is not there is gone.
    ///
    /// # Errors
    /// See [`Monitor`]; a timeout when QEMU agrees but the device stays.
    pub async fn device_del(&self, id: &str) -> Result<(), QmpError> {
        const COMMAND: &str = "device_del";
        let mut events = self.events();
        match self.execute(COMMAND, json!({ "id": id }), None).await {
            Ok(_) => {}
            Err(error) if error.is_device_not_found() => return Ok(()),
            Err(error @ QmpError::Refused { .. }) => {
                let there = self.peripherals().await?.iter().any(|peripheral| peripheral == id);
                return if there { Err(error) } else { Ok(()) };
            }
            Err(error) => return Err(error),
        }
        let gone = async {
            loop {
                match events.recv().await {
                    Ok(Event { name, device: Some(device) }) if name == "DEVICE_DELETED" && device == id => {
                        return Ok(());
                    }
                    Ok(_) => {}
                    // The event may be among those that were missed.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        if !self.peripherals().await?.iter().any(|peripheral| peripheral == id) {
                            return Ok(());
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(QmpError::Closed { reason: self.closed().await });
                    }
                }
            }
        };
        tokio::select! {
            gone = timeout_at(Instant::now() + self.patience, gone) => {
                gone.unwrap_or(Err(QmpError::Timeout { command: COMMAND, patience: self.patience }))
            }
            reason = self.closed() => Err(QmpError::Closed { reason }),
        }
    }

    /// Ids of all devices that were added with one, in order.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn peripherals(&self) -> Result<Vec<String>, QmpError> {
        #[derive(Deserialize)]
        struct Property {
            name: String,
            #[serde(rename = "type")]
            kind: String,
        }
        let properties: Vec<Property> = self.ask("qom-list", json!({ "path": PERIPHERALS }), None).await?;
        let children = properties.into_iter().filter(|property| property.kind.starts_with("child<"));
        let mut ids: Vec<String> = children.map(|property| property.name).collect();
        ids.sort();
        Ok(ids)
    }

    /// One property of a device; `None` when it has no such property or there is no such device.
    pub(crate) async fn property(&self, id: &str, property: &str) -> Result<Option<Value>, QmpError> {
        let path = format!("{PERIPHERALS}/{id}");
        match self.execute("qom-get", json!({ "path": path, "property": property }), None).await {
            Ok(value) => Ok(Some(value)),
            Err(QmpError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The USB devices of the guest and where it sees them.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn usb_topology(&self) -> Result<Vec<GuestUsb>, QmpError> {
        let text: String = self.ask("human-monitor-command", json!({"command-line": "info usb"}), None).await?;
        Ok(topology::parse(&text))
    }

    /// Whether the guest runs.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn query_status(&self) -> Result<Status, QmpError> {
        self.ask("query-status", json!({}), None).await
    }

    /// Lets the guest run.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn cont(&self) -> Result<(), QmpError> {
        self.execute("cont", json!({}), None).await.map(drop)
    }

    /// Pauses the guest.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn stop(&self) -> Result<(), QmpError> {
        self.execute("stop", json!({}), None).await.map(drop)
    }

    /// Presses the guest's power button. What comes of it is the guest's affair.
    ///
    /// # Errors
    /// See [`Monitor`].
    pub async fn system_powerdown(&self) -> Result<(), QmpError> {
        self.execute("system_powerdown", json!({}), None).await.map(drop)
    }

    /// Ends QEMU, without asking the guest.
    ///
    /// # Errors
    /// See [`Monitor`]. That the connection closes is success.
    pub async fn quit(&self) -> Result<(), QmpError> {
        match self.execute("quit", json!({}), None).await {
            Ok(_) | Err(QmpError::Closed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs a command whose answer has a shape.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Result<T, QmpError> {
        let answer = self.execute(command, arguments, descriptor).await?;
        serde_json::from_value(answer).map_err(|error| QmpError::Nonsense { command, what: error.to_string() })
    }

    /// Runs a command.
    pub(crate) async fn execute(
        &self,
        execute: &'static str,
        arguments: Value,
        descriptor: Option<OwnedFd>,
    ) -> Result<Value, QmpError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { execute, arguments, descriptor, reply };
        if self.ends.commands.send(command).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        Err(QmpError::Closed { reason: self.closed().await })
    }
}
