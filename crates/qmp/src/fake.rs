//! A monitor for tests: a server on a real socket whose answers the test decides.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};

use crate::{Monitor, QmpError};

/// Long enough for a busy machine, for answers that do come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

/// A folder with a monitor's socket in it, served by a thread.
pub(crate) struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    /// Serves one connection with `serve`.
    pub(crate) fn raw(serve: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qmp.sock")).unwrap();
        std::thread::spawn(move || serve(listener.accept().unwrap().0));
        Self { folder }
    }

    /// Greets, negotiates, and then answers every command with the lines of `answer`, in which `ID` stands for the
    /// command's id. No lines: the connection is closed.
    pub(crate) fn answering(
        mut answer: impl FnMut(&str, &Value, Option<OwnedFd>) -> Vec<String> + Send + 'static,
    ) -> Self {
        Self::raw(move |mut stream| {
            stream.write_all(GREETING.as_bytes()).unwrap();
            let descriptors = Arc::new(Mutex::new(Vec::new()));
            let mut reader = BufReader::new(WithRights {
                stream: stream.try_clone().unwrap(),
                descriptors: Arc::clone(&descriptors),
            });
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                let command: Value = serde_json::from_str(&line).unwrap();
                line.clear();
                let execute = command["execute"].as_str().unwrap();
                let replies = match execute {
                    "qmp_capabilities" => vec![done(&json!({}))],
                    // A descriptor may have come while an earlier command was answered.
                    "add-fd" | "getfd" => answer(execute, &command["arguments"], descriptors.lock().unwrap().pop()),
                    _ => answer(execute, &command["arguments"], None),
                };
                for reply in &replies {
                    let text = reply.replace("\"ID\"", &command["id"].to_string());
                    if stream.write_all(format!("{text}\r\n").as_bytes()).is_err() {
                        return;
                    }
                }
                if replies.is_empty() {
                    return;
                }
            }
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("qmp.sock")
    }

    pub(crate) async fn connect(&self, patience: Duration) -> Result<Monitor, QmpError> {
        Monitor::connect(&self.path(), patience).await
    }
}

/// A good answer.
pub(crate) fn done(value: &Value) -> String {
    json!({"return": value, "id": "ID"}).to_string()
}

/// A refusal.
pub(crate) fn refused(class: &str, description: &str) -> String {
    json!({"error": {"class": class, "desc": description}, "id": "ID"}).to_string()
}

/// The event that a device is gone.
pub(crate) fn deleted(id: &str) -> String {
    json!({"event": "DEVICE_DELETED", "data": {"device": id, "path": "/x"}, "timestamp": {"seconds": 1, "microseconds": 2}}).to_string()
}

/// A reader that keeps the descriptors which come along.
struct WithRights {
    stream: UnixStream,
    descriptors: Arc<Mutex<Vec<OwnedFd>>>,
}

impl Read for WithRights {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::net::recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::empty())?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.descriptors.lock().unwrap().extend(rights);
            }
        }
        Ok(got.bytes)
    }
}

/// As much of QEMU as plugging needs, to be shared with a [`Fake`] that serves it.
#[derive(Default)]
pub(crate) struct FakeQemu {
    /// Set, note.
    pub(crate) sets: Vec<(u32, String)>,
    /// Id, set, still reached.
    pub(crate) devices: Vec<(String, u32, bool)>,
    /// The ports that were asked for, by id.
    pub(crate) ports: BTreeMap<String, String>,
    /// Inode numbers of the descriptors that arrived.
    pub(crate) arrived: Vec<u64>,
    /// Commands that changed something.
    pub(crate) log: Vec<String>,
    /// How many questions were asked.
    pub(crate) asked: usize,
    /// Refuse descriptors.
    pub(crate) refuse_fd: bool,
    /// Refuse the next `device_add`.
    pub(crate) refuse_add: bool,
}

impl FakeQemu {
    /// A monitor of it.
    pub(crate) fn serve(qemu: &Arc<Mutex<Self>>) -> Fake {
        let qemu = Arc::clone(qemu);
        Fake::answering(move |execute, arguments, descriptor| {
            qemu.lock().unwrap().answer(execute, arguments, descriptor)
        })
    }

    fn has_set(&self, path: &str) -> bool {
        self.sets.iter().any(|(set, _)| path == format!("/dev/fdset/{set}"))
    }

    fn answer(&mut self, execute: &str, arguments: &Value, descriptor: Option<OwnedFd>) -> Vec<String> {
        let text = |field: &str| arguments[field].as_str().unwrap_or_default().to_owned();
        if matches!(execute, "add-fd" | "remove-fd" | "device_add" | "device_del") {
            self.log.push(execute.to_owned());
        } else {
            self.asked += 1;
        }
        match execute {
            "add-fd" => {
                let Some(descriptor) = descriptor.filter(|_| !self.refuse_fd) else {
                    return vec![refused("GenericError", "No file descriptor supplied via SCM_RIGHTS")];
                };
                self.arrived.push(rustix::fs::fstat(&descriptor).unwrap().st_ino);
                let set = arguments["fdset-id"].as_u64().unwrap().try_into().unwrap();
                assert!(self.sets.iter().all(|(taken, _)| *taken != set), "two descriptors in one set");
                self.sets.push((set, text("opaque")));
                vec![done(&json!({"fdset-id": set, "fd": 15}))]
            }
            "remove-fd" => {
                self.sets.retain(|(set, _)| u64::from(*set) != arguments["fdset-id"]);
                vec![done(&json!({}))]
            }
            "query-fdsets" => {
                let sets =
                    self.sets.iter().map(|(set, note)| json!({"fdset-id": set, "fds": [{"fd": 15, "opaque": note}]}));
                vec![done(&sets.collect())]
            }
            "device_add" if std::mem::take(&mut self.refuse_add) => {
                vec![refused("GenericError", "failed to open the device")]
            }
            "device_add" if !self.has_set(&text("hostdevice")) => {
                vec![refused("GenericError", "Could not open '/dev/fdset/0': Bad file descriptor")]
            }
            "device_add" => {
                assert_eq!((text("driver").as_str(), text("bus").as_str()), ("usb-host", "usb0.0"));
                assert!(self.ports.values().all(|port| *port != text("port")), "two devices in one port");
                self.ports.insert(text("id"), text("port"));
                let set = text("hostdevice").strip_prefix("/dev/fdset/").unwrap().parse().unwrap();
                assert!(self.devices.iter().all(|(id, ..)| *id != text("id")));
                self.devices.push((text("id"), set, true));
                vec![done(&json!({}))]
            }
            "device_del" => {
                let before = self.devices.len();
                self.devices.retain(|(id, ..)| *id != text("id"));
                self.ports.remove(&text("id"));
                if self.devices.len() == before {
                    return vec![refused("DeviceNotFound", "Device not found")];
                }
                vec![done(&json!({})), deleted(&text("id"))]
            }
            "qom-list" => {
                let devices = self.devices.iter().map(|(id, ..)| json!({"name": id, "type": "child<usb-host>"}));
                vec![done(&devices.chain([json!({"name": "type", "type": "string"})]).collect())]
            }
            "qom-get" => {
                let path = text("path");
                let id = path.strip_prefix("/machine/peripheral/").unwrap();
                let Some((_, set, attached)) = self.devices.iter().find(|(there, ..)| there == id) else {
                    return vec![refused("DeviceNotFound", "no such device")];
                };
                vec![match text("property").as_str() {
                    "attached" => done(&json!(attached)),
                    _ => done(&json!(format!("/dev/fdset/{set}"))),
                }]
            }
            "human-monitor-command" => {
                let port = |id: &str| self.ports.get(id).map_or("1", String::as_str);
                let lines = self.devices.iter().enumerate().map(|(n, (id, ..))| {
                    format!("  Device 0.{n}, Port {}, Speed 5000 Mb/s, Product Stick, ID: {id}\r\n", port(id))
                });
                vec![done(&json!(lines.collect::<String>()))]
            }
            other => panic!("{other} is not expected"),
        }
    }
}
