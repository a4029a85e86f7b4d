//! A node of the lab, of whatever kind: the seam between scenarios and machines.
//!
//! Scenarios use only what is public here. A second kind of machine (another kernel, emulated host controllers) has its
//! own way to boot and to plug devices; commands, files, power and cables are the same.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::channel::{Channel, Output};
use crate::parts::Image;
use crate::stick::{Function, Stick, quoted};
use crate::stock::Stock;
use crate::switch::{Port, Switch};
use crate::uml::{Machine, Uml};
use crate::{bake, network, wait};

/// Time for commands that have no reason to take long.
pub const COMMAND: Duration = Duration::from_secs(30);
/// Time for the import of an image.
const IMPORT: Duration = Duration::from_secs(120);
/// Where the node sees [`Machine::share`].
const SHARE: &str = "/host";

/// What a node runs on.
#[derive(Debug, Clone)]
pub enum Hardware {
    /// User-Mode Linux.
    Uml,
    /// Debian's own kernel in QEMU.
    Stock {
        /// The disk with the kernel's modules.
        modules: PathBuf,
    },
}

/// A node, running or not.
pub struct Node {
    hardware: Hardware,
    machine: Machine,
    switch: Arc<Switch>,
    running: Mutex<Option<Running>>,
    plugged: Mutex<Vec<Stick>>,
    lent: AtomicU64,
}

struct Running {
    power: Power,
    channel: Channel,
}

enum Power {
    Uml(Uml),
    Stock(Stock),
}

impl Power {
    fn pid(&self) -> u32 {
        match self {
            Self::Uml(uml) => uml.pid(),
            Self::Stock(stock) => stock.pid(),
        }
    }

    fn check(&mut self) -> Result<()> {
        match self {
            Self::Uml(uml) => uml.check(),
            Self::Stock(stock) => stock.check(),
        }
    }

    fn kill(self) {
        match self {
            Self::Uml(uml) => uml.kill(),
            Self::Stock(stock) => stock.kill(),
        }
    }
}

impl Node {
    /// A node that is off. It is on port `number - 1` of the switch.
    pub fn new(hardware: Hardware, machine: Machine, switch: Arc<Switch>) -> Self {
        let (running, plugged) = (Mutex::new(None), Mutex::default());
        Self { hardware, machine, switch, running, plugged, lent: AtomicU64::new(0) }
    }

    /// Its name, in the lab and in Kubernetes.
    pub fn name(&self) -> &str {
        &self.machine.name
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        network::node(self.machine.number)
    }

    /// The log of its console.
    pub fn console(&self) -> &Path {
        &self.machine.console
    }

    /// Switches it on and waits until it takes commands. Its data disk is as it was, and what was plugged in still is.
    ///
    /// # Errors
    /// When it is on already or does not come up.
    pub fn boot(&self) -> Result<()> {
        self.switch_on()?;
        let plugged = self.plugged().clone();
        plugged.iter().try_for_each(|stick| self.insert(stick).map(drop))
    }

    fn switch_on(&self) -> Result<()> {
        let mut running = self.running();
        if running.is_some() {
            bail!("{} is on already", self.name());
        }
        fs::create_dir_all(&self.machine.share)
            .with_context(|| format!("cannot make {}", self.machine.share.display()))?;
        let cable = self.switch.cable(self.port())?;
        let (power, channel) = match &self.hardware {
            Hardware::Uml => {
                let (uml, channel) = Uml::boot(&self.machine, Some(&cable))?;
                (Power::Uml(uml), channel)
            }
            Hardware::Stock { modules } => {
                let (stock, channel) = Stock::boot(&self.machine, modules, &cable)?;
                (Power::Stock(stock), channel)
            }
        };
        *running = Some(Running { power, channel });
        Ok(())
    }

    /// Pulls its power plug: nothing is synced, nobody is told.
    pub fn power_off(&self) {
        if let Some(running) = self.running().take() {
            running.power.kill();
        }
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.running().is_some()
    }

    /// Fails if its kernel has died by itself.
    ///
    /// # Errors
    /// With the end of its console.
    pub fn check(&self) -> Result<()> {
        self.running().as_mut().map_or(Ok(()), |running| running.power.check())
    }

    /// The process that is the node's kernel, while it is on.
    pub fn pid(&self) -> Option<u32> {
        self.running().as_ref().map(|running| running.power.pid())
    }

    /// Runs a shell script in it.
    ///
    /// # Errors
    /// When the node is off or does not answer, or the script takes longer than `deadline`.
    pub fn sh(&self, script: &str, deadline: Duration) -> Result<Output> {
        if Channel::fits(script) {
            return self.channel_run(script, deadline);
        }
        self.in_share("script", script.as_bytes(), |path| self.channel_run(&format!("sh {path}"), deadline))
    }

    /// Runs a shell script that must succeed, and returns what it says.
    ///
    /// # Errors
    /// As [`Node::sh`], and when its exit code is not 0.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.sh(script, COMMAND)?;
        if output.code != 0 {
            bail!(
                "on {} this ended with {}:\n{}\nit said:\n{}",
                self.name(),
                output.code,
                script.trim(),
                output.text()
            );
        }
        Ok(output.text())
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// When the node is off or its file system is full.
    pub fn put(&self, bytes: &[u8], path: &str) -> Result<()> {
        let to = quoted(path);
        self.in_share("file", bytes, |from| {
            self.run(&format!("mkdir -p \"$(dirname {to})\" && cp {from} {to}")).map(drop)
        })
    }

    /// Gives its containerd an image from an archive of the host.
    ///
    /// # Errors
    /// When something of the image is missing.
    pub fn import(&self, image: &Image) -> Result<()> {
        let bytes = fs::read(&image.archive).with_context(|| format!("cannot read {}", image.archive.display()))?;
        self.in_share("image.tar", &bytes, |path| {
            let output = self.sh(&bake::import(image, path), IMPORT)?;
            anyhow::ensure!(output.code == 0, "ctr said:\n{}", output.text());
            Ok(())
        })
        .with_context(|| format!("cannot import {} into {}", image.reference, self.name()))
    }

    /// Plugs a device in. Returns the moment from which the node's kernel could see it.
    ///
    /// # Errors
    /// When one of that name is plugged in already, or all USB ports are taken.
    pub fn plug(&self, stick: &Stick) -> Result<Instant> {
        let moment = self.insert(stick)?;
        self.plugged().push(stick.clone());
        Ok(moment)
    }

    fn insert(&self, stick: &Stick) -> Result<Instant> {
        let context = || format!("cannot plug {} into {}", stick.name, self.name());
        if let Some(moment) = self.stock(|stock| {
            stock.insert(stick)?;
            let moment = Instant::now();
            stock.connect(stick).map(|()| moment)
        }) {
            return moment.with_context(context);
        }
        let image = stick.image();
        self.in_share(&format!("{}.img", stick.name), &image, |path| self.must(&stick.insert(path)))
            .with_context(context)?;
        let moment = Instant::now();
        self.must(&stick.connect()).with_context(context)?;
        Ok(moment)
    }

    /// The device node in this node at which a device that is plugged into it ends: a serial port's other side.
    ///
    /// # Errors
    /// When it is not plugged in, or has no far end.
    pub fn far_end(&self, stick: &Stick) -> Result<String> {
        Ok(self.run(&stick.far_end())?.trim().to_owned())
    }

    /// The same for one function of a composite device.
    ///
    /// # Errors
    /// When it is not plugged in, or the function has no far end.
    pub fn far_end_of(&self, stick: &Stick, function: Function) -> Result<String> {
        let script = stick.far_end_of(function).with_context(|| format!("{function:?} has no far end"))?;
        Ok(self.run(&script)?.trim().to_owned())
    }

    /// The port of this node that a device is in, as its kernel numbers ports: `2-1`.
    ///
    /// # Errors
    /// When its kernel has not seen it yet, or is Debian's, where the lab does not know.
    pub fn port_of(&self, stick: &Stick) -> Result<String> {
        let port = self.run(&stick.port())?.trim().to_owned();
        anyhow::ensure!(!port.is_empty(), "{} is in no port of {} yet", stick.name, self.name());
        Ok(port)
    }

    /// Presses the key A of a keyboard and lets it go.
    ///
    /// # Errors
    /// When the node does not take it in time: nobody listens to the keyboard.
    pub fn press_a(&self, keyboard: &Stick) -> Result<()> {
        let key = |down: bool| json!([{"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": "a"}}}]);
        self.stock(|stock| stock.input(&key(true)).and_then(|()| stock.input(&key(false)))).unwrap_or_else(|| {
            let far = self.far_end_of(keyboard, Function::Keyboard)?;
            // Usage 4 of the page of keys.
            self.report(&far, &[0, 0, 4, 0, 0, 0, 0, 0])?;
            self.report(&far, &[0; 8])
        })
    }

    /// Moves the pen of a tablet to a place; both numbers are at most 32767.
    ///
    /// # Errors
    /// When the node does not take it in time: nobody listens to the tablet.
    pub fn point(&self, tablet: &Stick, x: u16, y: u16) -> Result<()> {
        let to = |axis: &str, value: u16| json!({"type": "abs", "data": {"axis": axis, "value": value}});
        self.stock(|stock| stock.input(&json!([to("x", x), to("y", y)]))).unwrap_or_else(|| {
            let far = self.far_end_of(tablet, Function::Tablet)?;
            let ([x, more_x], [y, more_y]) = (x.to_le_bytes(), y.to_le_bytes());
            self.report(&far, &[0, x, more_x, y, more_y])
        })
    }

    /// Sends a report of a gadget.
    fn report(&self, far: &str, bytes: &[u8]) -> Result<()> {
        let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        self.run(&format!("timeout 10 printf '{octal}' >{far}")).map(drop)
    }

    /// What a speaker in this node has played since it was plugged in: frames of two signed 16-bit samples.
    ///
    /// # Errors
    /// When there never was one, or the node is no emulator.
    pub fn played(&self) -> Result<Vec<u8>> {
        self.stock(|stock| stock.played()).with_context(|| format!("{} has no speakers", self.name()))?
    }

    /// Pulls a device out. Returns the moment from which it could be missed.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn unplug(&self, stick: &Stick) -> Result<Instant> {
        let moment = Instant::now();
        self.stock(|stock| stock.remove(stick))
            .unwrap_or_else(|| self.must(&stick.remove()))
            .with_context(|| format!("cannot pull {} out of {}", stick.name, self.name()))?;
        self.plugged().retain(|plugged| plugged.name != stick.name);
        Ok(moment)
    }

    /// Lets a device drop off its bus and come up again at once, under another number, as one with a loose contact does.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn falter(&self, stick: &Stick) -> Result<()> {
        self.stock(|stock| {
            stock.remove(stick)?;
            stock.insert(stick)?;
            stock.connect(stick)
        })
        .unwrap_or_else(|| self.must(&stick.falter()))
        .with_context(|| format!("{} does not falter in {}", stick.name, self.name()))
    }

    /// Cuts its cable: it reaches nobody, not even the API server.
    pub fn cut(&self) {
        self.switch.ports().for_each(|port| self.switch.cut(self.port(), port));
    }

    /// Mends its cable.
    pub fn heal(&self) {
        self.switch.ports().for_each(|port| self.switch.heal(self.port(), port));
    }

    /// Cuts only the way between it and the control plane: it reaches the other nodes.
    pub fn cut_from_plane(&self) {
        self.switch.cut(self.port(), *self.switch.ports().end());
    }

    /// Cuts only the way between it and another node; both reach the API server.
    pub fn cut_from(&self, other: &Node) {
        self.switch.cut(self.port(), other.port());
    }

    /// Begins to record what passes the switch, of all nodes and the control plane.
    pub fn record(&self) {
        self.switch.record();
    }

    /// Ends that: all frames since, one after the other.
    ///
    /// # Errors
    /// When nothing was recorded, or too much.
    pub fn recorded(&self) -> Result<Vec<u8>> {
        self.switch.recorded()
    }

    /// Mends the way between it and another node.
    pub fn heal_from(&self, other: &Node) {
        self.switch.heal(self.port(), other.port());
    }

    /// Kills (SIGKILL) every process whose first argument is `argument`: `agent` kills `patchbay agent`.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, argument: &str) -> Result<()> {
        self.signal("KILL", argument)
    }

    /// The same with another signal: `STOP` stops them in their tracks until `CONT`.
    ///
    /// # Errors
    /// When there is none.
    pub fn signal(&self, signal: &str, argument: &str) -> Result<()> {
        let found = processes(argument);
        let wanted = quoted(argument);
        self.run(&format!(
            "{found}[ -n \"$found\" ] || {{ echo no process with the first argument {wanted}; exit 1; }}\nkill -{signal} $found"
        ))
        .map(drop)
    }

    /// What the kernel says of the processes with this first argument: `T (stopped)`, `S (sleeping)`, ...; a line for each.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn states(&self, argument: &str) -> Result<String> {
        let states = "for pid in $found; do sed -n 's/^State:[[:space:]]*//p' /proc/$pid/status; done";
        Ok(self.run(&format!("{}{states}", processes(argument)))?.trim().to_owned())
    }

    /// Whether a program with this first argument runs.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn runs(&self, argument: &str) -> Result<bool> {
        Ok(!self.run(&format!("{}echo $found", processes(argument)))?.trim().is_empty())
    }

    /// Works on the emulator, if the node is on and has one.
    fn stock<T>(&self, work: impl FnOnce(&mut Stock) -> Result<T>) -> Option<Result<T>> {
        match &mut self.running().as_mut()?.power {
            Power::Stock(stock) => Some(work(stock)),
            Power::Uml(_) => None,
        }
    }

    /// Runs a script of the lab's own: an error is what it says, not what it is.
    fn must(&self, script: &str) -> Result<()> {
        let output = self.sh(script, COMMAND)?;
        anyhow::ensure!(output.code == 0, output.text());
        Ok(())
    }

    fn port(&self) -> Port {
        Port::from(self.machine.number.saturating_sub(1))
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plugged(&self) -> MutexGuard<'_, Vec<Stick>> {
        self.plugged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel_run(&self, script: &str, deadline: Duration) -> Result<Output> {
        let mut running = self.running();
        let running = running.as_mut().with_context(|| format!("{} is off", self.name()))?;
        running
            .channel
            .run(script, wait::patient(deadline))
            .or_else(|error| {
                // A node that has died explains more than a channel that broke.
                running.power.check()?;
                Err(error)
            })
            .with_context(|| format!("on {}", self.name()))
    }

    /// Lends the node a file of the host for as long as `work` takes.
    fn in_share<T>(&self, name: &str, bytes: &[u8], work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        // A name of its own each time: the node may still have pages of an earlier file.
        let name = format!("{}-{name}", self.lent.fetch_add(1, Ordering::Relaxed));
        let path: PathBuf = self.machine.share.join(&name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        let result = work(&format!("{SHARE}/{name}"));
        let _ = fs::remove_file(&path);
        result
    }
}

/// Shell script that sets `found` to the numbers of the processes with this first argument.
fn processes(argument: &str) -> String {
    let wanted = quoted(argument);
    format!(
        "found=; for f in $(grep -l -e {wanted} /proc/[0-9]*/cmdline 2>/dev/null); do\n\
         [ \"$({{ tr '\\0' '\\n' <$f; }} 2>/dev/null | sed -n 2p)\" = {wanted} ] || continue\n\
         p=${{f%/cmdline}}; found=\"$found ${{p#/proc/}}\"; done\n"
    )
}
