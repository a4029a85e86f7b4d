//! A running `patchbay vm` under test, in a folder of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; how long QEMU may take to end is asserted apart.
const DEADLINE: Duration = Duration::from_secs(60);

/// A machine image and a run folder.
pub(crate) struct Image(TempDir);

impl Image {
    pub(crate) fn new(description: &Value) -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        image.file("machine.json", description.to_string().as_bytes());
        fs::create_dir(image.run()).unwrap();
        image
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) {
        fs::write(self.0.path().join(name), content).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.path("run")
    }
}

/// `patchbay vm`.
pub(crate) struct Engine {
    image: Image,
    child: Child,
}

impl Engine {
    pub(crate) fn start(image: Image, arguments: &[&str]) -> Self {
        let child = Self::spawn(&image, arguments);
        Self { image, child }
    }

    /// Starts it once more after its end, in the same pod.
    pub(crate) fn again(&mut self, arguments: &[&str]) {
        self.end();
        self.child = Self::spawn(&self.image, arguments);
    }

    fn spawn(image: &Image, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_patchbay"))
            .args(["vm", "--accelerator=tcg", "--machine"])
            .arg(image.path("machine.json"))
            .arg("--run-dir")
            .arg(image.run())
            .args(arguments)
            .env("PATCHBAY_VM_MEMORY", "33554432")
            .env("PATCHBAY_VM_QEMU", "qemu-system-x86_64")
            .stdin(Stdio::null())
            .stdout(File::create(image.path("console")).unwrap())
            .stderr(File::create(image.path("log")).unwrap())
            .spawn()
            .unwrap()
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// All that was on standard output.
    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.image.path("console")).unwrap()
    }

    /// All that was on standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.image.path("log")).unwrap()
    }

    /// Waits until something holds.
    pub(crate) fn wait_for(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !holds(self) {
            let late = Instant::now() > deadline;
            assert!(!late, "waited in vain for {what}\nconsole: {}\nlog: {}", self.console(), self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    pub(crate) fn wait_for_console(&mut self, text: &str) {
        self.wait_for(text, |engine| engine.console().contains(text));
    }

    pub(crate) fn wait_for_log(&mut self, text: &str) {
        self.wait_for(text, |engine| engine.log().contains(text));
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        self.wait_for("the end", |engine| {
            status = engine.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// QEMU, if it runs: the only child of the engine.
    pub(crate) fn qemu(&self) -> Option<Pid> {
        let engine = self.child.id();
        let children = fs::read_to_string(format!("/proc/{engine}/task/{engine}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    /// What QEMU answers the agent to one command.
    pub(crate) fn ask(&self, command: &str, arguments: &Value) -> Value {
        let stream = UnixStream::connect(self.image.run().join("qmp.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut lines = BufReader::new(&stream).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        let mut next = |field: &str| lines.find(|line: &Value| line.get(field).is_some()).unwrap()[field].take();
        next("QMP");
        let mut answer = Value::Null;
        for (command, arguments) in [("qmp_capabilities", &json!({})), (command, arguments)] {
            writeln!(&stream, "{}", json!({"execute": command, "arguments": arguments})).unwrap();
            answer = next("return");
        }
        answer
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(qemu) = self.qemu() {
            let _ = kill_process(qemu, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
