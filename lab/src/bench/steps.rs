//! An attach taken apart: what audit log, agents and kernels say of each round, in the order in which it happens.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::attach::Round;
use super::audit::{self, Write};
use super::clock::{self, Clock};
use super::figures::{Row, Times};
use super::probe::{self, Uevent};
use super::{IMPORTER, NAMESPACE, VM};
use crate::cluster::Lab;

const CONTROLLER: &str = "system:serviceaccount:patchbay:controller";

/// Who is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The API server.
    Request,
    /// Our controller.
    Controller,
    /// The cluster's scheduler.
    Scheduler,
    /// The importer's kubelet, which calls the agent there.
    Prepare,
    /// Both agents.
    Link,
    /// The importer's kernel.
    Kernel,
    /// QEMU.
    Qemu,
    /// The guest, and who brings its line to us.
    Guest,
}

/// The steps in their order.
pub(super) const STEPS: [(&str, Part); 10] = [
    ("list changed (request and answer)", Part::Request),
    ("controller: the device's claim is made", Part::Controller),
    ("controller: the attachment pod is made", Part::Controller),
    ("scheduler: claims allocated, pod bound", Part::Scheduler),
    ("kubelet: calls Prepare; agent: claims prepared", Part::Prepare),
    ("link: call, checks, bind, TLS; given to vhci", Part::Link),
    ("vhci: the node's kernel has the device", Part::Kernel),
    ("QEMU takes it; agent: plugged", Part::Qemu),
    ("the guest sees it; its line is in the pod's log", Part::Guest),
    ("kubelet: the line's way from there to the lab", Part::Guest),
];

/// What was written down while the rounds ran.
pub(super) struct Records {
    /// The API server's.
    pub(super) writes: Vec<Write>,
    /// The importer's agent's.
    agent: Vec<(Duration, String)>,
    /// The importer's kernel.
    uevents: Vec<Uevent>,
    /// The guest's console, with the times at which the container runtime wrote it down.
    console: Vec<(Duration, String)>,
}

impl Records {
    /// Reads all of it.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub(super) fn read(lab: &Lab, clock: &Clock) -> Result<Self> {
        let importer = lab.node(IMPORTER)?;
        let skew = probe::skew(importer, clock)?;
        let read = |arguments: &[&str]| -> Result<Vec<(Duration, String)>> {
            let lines = lab.kubectl(arguments)?;
            Ok(lines.lines().filter_map(of_line).map(|(at, said)| (skew.ours(at), said)).collect())
        };
        let there = format!("spec.nodeName={IMPORTER}");
        let agents = ["-n", "patchbay", "-l", "app.kubernetes.io/component=agent"];
        let agent = lab.kubectl(&[&["get", "pods", "-o", "name", "--field-selector", &there][..], &agents].concat())?;
        Ok(Self {
            writes: audit::read(&lab.plane().audit_log())?,
            agent: read(&["logs", "-n", "patchbay", agent.trim()])?,
            uevents: probe::uevents(importer, clock)?,
            console: read(&["logs", "-n", NAMESPACE, &format!("vm-{VM}"), "--timestamps"])?,
        })
    }

    /// When the steps of a round ended; None for one of which nothing tells.
    fn ends(&self, round: &Round) -> [Option<Duration>; STEPS.len()] {
        let within = |at: &Duration| (round.asked..=round.recalled).contains(at);
        let write = |user: &'static str, what: &'static str| {
            let mine = move |w: &&Write| within(&w.at) && w.what == what && (user.is_empty() || w.user == user);
            self.writes.iter().find(mine).map(|w| w.at)
        };
        let agent = |text: &'static str| {
            let said: Vec<_> = self.agent.iter().filter(|(at, said)| within(at) && said.contains(text)).collect();
            // There are two claims: the later one counts. Of everything else there is one.
            said.iter().map(|(at, _)| *at).max()
        };
        let added = |(at, said): &&(Duration, String)| within(at) && said.contains("guest: usb add");
        [
            write("", "patch virtualmachines"),
            write(CONTROLLER, "create resourceclaims"),
            write(CONTROLLER, "create pods"),
            write("system:kube-scheduler", "create pods/binding"),
            agent(": claim prepared "),
            agent("steps: imported "),
            self.uevents.iter().find(|e| e.add && within(&e.at)).map(|e| e.at),
            agent("steps: plugged "),
            self.console.iter().find(added).map(|(at, _)| *at),
            Some(round.seen),
        ]
    }
}

/// The time of each step, from the end of the one before, over all rounds: as rows, and by name.
pub(super) fn breakdown(records: &Records, rounds: &[Round]) -> (Vec<Row>, BTreeMap<&'static str, Times>) {
    let mut times = STEPS.map(|(what, _)| (what, Times::default()));
    for round in rounds {
        let mut last = round.asked;
        for (end, (_, times)) in records.ends(round).into_iter().zip(&mut times) {
            if let Some(end) = end {
                times.push(end.saturating_sub(last));
                last = last.max(end);
            }
        }
    }
    (times.iter().map(|(what, times)| Row::times(what, times)).collect(), times.into_iter().collect())
}

/// Time and text of a line of a log.
fn of_line(line: &str) -> Option<(Duration, String)> {
    let (time, text) = line.split_once(' ')?;
    Some((clock::parse(time)?, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_measured_from_the_one_before_and_a_silent_one_costs_only_its_own_line() {
        let at = Duration::from_millis;
        let write = |ms, user: &str, what: &str| Write { at: at(ms), user: user.into(), what: what.into() };
        let records = Records {
            writes: vec![
                write(1005, "admin", "patch virtualmachines"),
                write(1020, CONTROLLER, "create resourceclaims"),
                write(1040, "system:kube-scheduler", "create pods/binding"),
            ],
            agent: [(1100, "a: claim prepared x"), (1102, "a: claim prepared y"), (9000, "a: claim prepared z")]
                .map(|(ms, text)| (at(ms), text.to_owned()))
                .to_vec(),
            uevents: vec![Uevent { at: at(1300), add: true, place: "9-1".to_owned() }],
            console: vec![(at(1490), "guest: usb add 2-1".to_owned())],
        };
        let round = Round { asked: at(1000), seen: at(1500), recalled: at(2000), gone: at(2100), settled: at(3000) };
        let (_, by) = breakdown(&records, &[round]);
        let median = |word: &str| by.iter().find(|(what, _)| what.contains(word)).unwrap().1.median();
        let shown = ["list", "device's claim", "pod bound", "prepared", "vhci: ", "guest", "kubelet: the"]
            .map(|w| median(w).round());
        assert_eq!(shown, [5.0, 15.0, 20.0, 62.0, 198.0, 190.0, 10.0]);
        assert!(median("attachment pod").is_nan() && median("plugged").is_nan());
    }
}
