//! Endurance: a walk of many steps through all that happens in a cluster, chosen by a seed, after each of which all must be as a
//! model says.
//!
//! | module | |
//! |---|---|
//! | `things` | three nodes, two namespaces, three machines, four sticks |
//! | `operation` | what a step is |
//! | `model` | what the steps have made of the cluster |
//! | `choice`, `chance` | the next step, by the seed: whatever time anything takes, it is the same |
//! | `expected` | what must be true of a model when all has settled, and why a machine has not what it lists |
//! | `witness`, `history` | what guests have, by their consoles; what may never be in them |
//! | `seen` | what is, compared with what must be |
//! | `act` | does a step |
//! | `footprint` | what our processes take up at rest |
//!
//! All but the last two are pure. A step is done; then objects and guests are looked at until they are as expected, or the
//! deadline is over. Whoever has a device has read all of it. No two guests have one device at one time, none reads anything wrong,
//! none starts anew by itself (unless by a known defect of QEMU's, which is counted), and none loses a device that the step has
//! nothing to do with, be it for a moment. `kubectl usb why` has the reason of whatever a machine lists and has not got. Each
//! fifty steps, and at the end, everything is detached: nothing may be left, and our processes may not have grown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, ensure};
use kube::Api;
use kube::api::ListParams;
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine};
use serde::Serialize;
use serde_json::Value;

use crate::api::request;
use crate::case::Case;
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::product;
use crate::progress::{say, step};
use crate::scenarios::Needs;

mod act;
mod chance;
mod choice;
mod expected;
mod footprint;
mod history;
mod model;
mod operation;
mod seen;
mod things;
mod witness;

pub use choice::Pace;
use choice::Path;
use footprint::Footprint;
use history::{Hands, Said};
use model::Model;
use operation::Operation;
use seen::{Label, Labels, Seen, Witnesses};
use things::{Device, Machine, Process, Space};
use witness::Change;

/// The lab that a walk needs.
pub const NEEDS: Needs = Needs { nodes: 3, ..Needs::ORDINARY };
/// For all to be as it must be after a step: a kubelet pauses before it starts what has died twice, and tries again with a pod
/// that it could not start only after a minute and a half; Kubernetes calls a node that is off not ready after about one.
const SETTLED: Duration = Duration::from_secs(180);
/// For nothing to be left at rest: a kubelet looks for claims of pods that are gone once a minute.
const RECONCILED: Duration = Duration::from_secs(100);
/// Steps that a failure shows.
const SHOWN: usize = 12;

/// A walk that is under way.
struct Walk<'l> {
    lab: &'l Lab,
    /// The namespaces: `walk-a`, whose case all sticks belong to, and `walk-b`.
    first: Case<'l>,
    second: Case<'l>,
    path: Path,
    labels: Labels,
    guests: BTreeMap<Machine, Guest>,
    witnesses: Witnesses,
    /// Who had which device after the last step.
    hands: Hands,
    /// What `kubectl usb why` has explained last.
    explained: BTreeMap<(Machine, Device), Option<String>>,
    /// What our processes took up when they were warm.
    warm: Option<Footprint>,
    /// How often QEMU has ended by a defect of its own.
    aborted: usize,
    /// The steps so far, a line each.
    trail: Vec<String>,
    begun: Instant,
}

/// Walks; a line for each step.
///
/// # Errors
/// At the first step after which something is other than it must be: the seed, the step and the last ones before it, what must be
/// and what is, and the command that shows it again.
pub fn walk(lab: &Lab, seed: u64, steps: u32, pace: Pace) -> Result<()> {
    let quick = if pace == Pace::Quick { " --quick" } else { "" };
    say(&format!("lab walk --seed {seed} --steps {steps}{quick}"));
    if pace == Pace::Full {
        keep_controller(lab)?;
    }
    let mut walk = step("starting three machines", || Walk::begin(lab, seed, pace))?;
    for number in 1..=steps {
        let before = walk.path.model.clone();
        let operation = walk.path.next();
        let again = format!("lab walk --seed {seed} --steps {number}{quick}");
        walk.step(number, &before, &operation).map_err(|error| walk.failure(&again, error))?;
    }
    let again = format!("lab walk --seed {seed} --steps {steps}{quick}");
    let before = walk.path.model.clone();
    walk.path.model.apply(&Operation::Rest);
    walk.step(steps + 1, &before, &Operation::Rest).map_err(|error| walk.failure(&again, error))?;
    say(&format!("{steps} steps; QEMU has ended {} times by a defect of its own", walk.aborted));
    walk.first.end()?;
    walk.second.end()
}

/// The controller stays on the node that is never switched off: Kubernetes would start it elsewhere only after minutes.
fn keep_controller(lab: &Lab) -> Result<()> {
    let place = r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"node-1"}}}}}"#;
    let deployment = ["-n", "patchbay", "deployment/controller"];
    lab.kubectl(&[&["patch"], &deployment[..], &["--type=merge", "-p", place]].concat())?;
    lab.kubectl(&[&["rollout", "status"], &deployment[..], &["--timeout=50s"]].concat())?;
    product::wait_running(lab)
}

impl<'l> Walk<'l> {
    /// Makes everything as the model begins.
    fn begin(lab: &'l Lab, seed: u64, pace: Pace) -> Result<Self> {
        let path = Path::begin(seed, pace);
        let (first, second) = (Case::begin(lab, Space::A.name())?, Case::begin(lab, Space::B.name())?);
        let plugged: Vec<_> = path.model.plugged.iter().map(|(device, node)| (node.name(), device.stick())).collect();
        let names = first.plug_all(&plugged)?;
        let label = |((device, name), (_, stick)): ((&Device, String), &(&str, crate::stick::Stick))| {
            let (serial, checksum) = (stick.serial.clone().unwrap_or_default(), stick.sha256());
            (*device, Label { name, serial, checksum })
        };
        let labels: Labels = path.model.plugged.keys().zip(names).zip(&plugged).map(label).collect();
        for (device, space) in &path.model.assigned {
            first.reassign(&labels.get(device).context("a stick without a name")?.name, Some(space.name()))?;
        }
        let mut guests = BTreeMap::new();
        for (machine, state) in &path.model.machines {
            let case = if machine.space() == Space::A { &first } else { &second };
            guests.insert(*machine, case.vm(machine.name(), state.node.name(), &[])?);
        }
        let mut walk = Self {
            lab,
            first,
            second,
            path,
            labels,
            guests,
            witnesses: Machine::ALL.map(|machine| (machine, witness::Witness::default())).into(),
            hands: Hands::new(),
            explained: BTreeMap::new(),
            warm: None,
            aborted: 0,
            trail: Vec::new(),
            begun: Instant::now(),
        };
        walk.settle(&mut Vec::new())?;
        Ok(walk)
    }

    fn case(&self, space: Space) -> &Case<'l> {
        match space {
            Space::A => &self.first,
            Space::B => &self.second,
        }
    }

    fn name(&self, device: Device) -> Result<&str> {
        self.labels.get(&device).map(|label| label.name.as_str()).with_context(|| format!("{device} has no name"))
    }

    /// Does a step and looks whether all is as it must be.
    fn step(&mut self, number: u32, before: &Model, operation: &Operation) -> Result<()> {
        let begin = Instant::now();
        self.trail.push(format!("{number:4}  {operation}"));
        self.prepare(before, operation);
        self.act(number, before, operation)?;
        let mut said = Vec::new();
        let settled = self.settle(&mut said);
        let device_of = |serial: &str| self.labels.iter().find(|(_, label)| label.serial == serial).map(|(d, _)| *d);
        let may_blink = |machine: Machine, serial: &str| {
            let device = device_of(serial);
            device.is_none_or(|device| {
                before.may_blink(operation, machine, device) || self.path.model.may_blink(operation, machine, device)
            })
        };
        let may_boot = |machine: Machine| before.may_boot(operation, machine);
        for aborted in said.iter().filter(|said| said.change == Change::Aborted) {
            self.aborted += 1;
            say(&format!("      QEMU has ended the guest of {} by a defect of its own", aborted.machine));
        }
        let complaints = history::complaints(&self.hands, said, may_boot, may_blink);
        let complaints = complaints.join("; ");
        let holders =
            settled.map_err(|error| if complaints.is_empty() { error } else { error.context(complaints.clone()) })?;
        ensure!(complaints.is_empty(), "{complaints}");
        let serial = |(device, machine): (&Device, &Machine)| Some((self.labels.get(device)?.serial.clone(), *machine));
        self.hands = holders.iter().filter_map(serial).collect();
        self.explain(&holders)?;
        if *operation == Operation::Rest {
            self.rest(number)?;
        }
        let all = self.begun.elapsed().as_secs();
        let line = format!("{number:4}  {operation:<60}  {:5.1} s", begin.elapsed().as_secs_f32());
        say(&format!("{line}   {:3} min {:2} s", all / 60, all % 60));
        Ok(())
    }

    /// What guests have said so far may not count any more after a step.
    fn prepare(&mut self, before: &Model, operation: &Operation) {
        // What they have said until now belongs to what was before.
        self.listen(&mut Vec::new());
        let serial = |device: &Device| self.labels.get(device).map(|label| label.serial.clone());
        let (mut restarts, mut doubts) = (Vec::new(), Vec::new());
        match operation {
            Operation::Stop(machine) | Operation::Restart(machine) | Operation::Kill(Process::Qemu(machine)) => {
                restarts.push(*machine);
            }
            Operation::Start(machine, _) => restarts.push(*machine),
            Operation::PowerOff(node) => {
                restarts.extend(before.machines.iter().filter(|(_, state)| state.node == *node).map(|(it, _)| *it));
            }
            Operation::Migrate(machine, _) => doubts.push((Some(*machine), None)),
            Operation::Replug(device, _) => doubts.push((None, serial(device))),
            Operation::Swap(one, other) => doubts.extend([one, other].map(|device| (None, serial(device)))),
            _ => {}
        }
        for (machine, witness) in &mut self.witnesses {
            if restarts.contains(machine) {
                witness.restarts();
                self.hands.retain(|_, holder| holder != machine);
            }
            for (of, serial) in &doubts {
                if of.is_none_or(|of| of == *machine) {
                    witness.doubts(serial.as_deref());
                }
            }
        }
    }

    /// Takes in what guests have said meanwhile.
    fn listen(&mut self, said: &mut Vec<Said>) {
        for (machine, guest) in &mut self.guests {
            let Some(witness) = self.witnesses.get_mut(machine) else { continue };
            let heard = guest.news().into_iter().filter_map(|line| Some((line.written, witness.hear(&line.text)?)));
            said.extend(heard.map(|(at, change)| Said { at, machine: *machine, change }));
        }
    }

    /// Looks until all is as it must be: who has which device.
    fn settle(&mut self, said: &mut Vec<Said>) -> Result<BTreeMap<Device, Machine>> {
        let (lab, expected) = (self.lab, expected::devices(&self.path.model));
        lab.wait_for("all to be as it must be", SETTLED, || {
            let seen = Seen {
                node_devices: all::<NodeUSBDevice>(lab)?,
                devices: all::<USBDevice>(lab)?,
                machines: all::<VirtualMachine>(lab)?,
            };
            self.listen(said);
            let (wrong, holders) = seen::compare(&self.path.model, &expected, &self.labels, &seen, &self.witnesses);
            if wrong.is_empty() { Ok(holders) } else { Err(format!("\n  {}", wrong.join("\n  "))) }
        })
    }

    /// Whatever a machine lists and has not got is explained to who asks; who has asked before and would hear the same is not
    /// asked again.
    fn explain(&mut self, holders: &BTreeMap<Device, Machine>) -> Result<()> {
        let mut waiting = BTreeMap::new();
        for device in Device::ALL {
            let reasons = expected::reasons(&self.path.model, device, holders.get(&device).copied());
            waiting.extend(reasons.into_iter().map(|(machine, words)| ((machine, device), words)));
        }
        for ((machine, device), words) in &waiting {
            if self.explained.get(&(*machine, *device)) != Some(words) {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.case(machine.space()).explained(machine.name(), self.name(*device)?, &words)?;
            }
        }
        self.explained = waiting;
        Ok(())
    }

    /// At rest nothing is left, and nothing has grown.
    fn rest(&mut self, number: u32) -> Result<()> {
        product::wait_running(self.lab)?;
        self.lab.assert_no_leaks(RECONCILED)?;
        let now = Footprint::measure(self.lab)?;
        say(&format!("      at rest: {now}"));
        match &self.warm {
            Some(warm) => {
                let grown = now.grown_since(warm);
                ensure!(grown.is_empty(), "since all was warm: {}", grown.join("; "));
            }
            None if number >= choice::REST => self.warm = Some(now),
            None => {}
        }
        Ok(())
    }

    /// All that is needed to understand a failure.
    fn failure(&self, again: &str, error: Error) -> Error {
        let mut text = format!("a step of a walk has failed\nto see it again: {again}\nthe last steps:\n");
        for line in self.trail.iter().skip(self.trail.len().saturating_sub(SHOWN)) {
            let _ = writeln!(text, "  {line}");
        }
        let _ = write!(text, "what must be:\n  {}", self.path.model.to_string().trim_end().replace('\n', "\n  "));
        anyhow!("{text}\nwhat is: {error:#}")
    }
}

/// All objects of a kind.
fn all<K>(lab: &Lab) -> Result<Vec<Value>, String>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + Serialize + std::fmt::Debug,
{
    let listed = request("list objects", Api::<K>::all(lab.api()).list(&ListParams::default()));
    let objects = listed.map_err(|error| format!("{error:#}"))?.items;
    objects.iter().map(|object| serde_json::to_value(object).map_err(|error| error.to_string())).collect()
}

/// A walk of some minutes, for `make test`.
///
/// # Errors
/// As [`walk`].
pub(crate) fn short(lab: &Lab) -> Result<()> {
    walk(lab, SHORT.0, SHORT.1, Pace::Quick)
}

/// Seed and steps of the walk that is always taken.
const SHORT: (u64, u32) = (2547, 25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_that_is_always_taken_has_something_of_most_kinds() {
        let mut path = Path::begin(SHORT.0, Pace::Quick);
        let kinds = (0..SHORT.1).map(|_| path.next()).fold(Vec::new(), |mut seen, operation| {
            let kind = std::mem::discriminant(&operation);
            if !seen.contains(&kind) {
                seen.push(kind);
            }
            seen
        });
        assert!(kinds.len() >= 12, "only {} kinds", kinds.len());
    }
}
