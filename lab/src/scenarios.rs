//! What must hold on a whole cluster, one function each. A scenario makes its own namespace and removes it; after each,
//! nothing may be left of any attachment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::Lab;

mod devices;
mod nodes;
mod processes;

/// Time for everything an attachment uses to be given back.
const SETTLE: Duration = Duration::from_secs(30);

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name: a sentence.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Lab) -> Result<()>,
}

/// All scenarios, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    let scenario = |name, run| Scenario { name, run };
    vec![
        scenario("nodes_become_ready_and_run_a_pod", nodes::become_ready_and_run_a_pod),
        scenario("the_labs_own_tools_do_what_they_say", nodes::tools_do_what_they_say),
        scenario(
            "devices_are_attached_to_a_machine_on_another_node_and_detached",
            devices::are_attached_to_a_machine_on_another_node_and_detached,
        ),
        scenario("devices_on_the_machines_own_node_need_no_usbip", devices::on_the_machines_own_node_need_no_usbip),
        scenario(
            "devices_that_were_pulled_out_return_by_themselves",
            devices::that_were_pulled_out_return_by_themselves,
        ),
        scenario("devices_of_another_namespace_are_not_attached", devices::of_another_namespace_are_not_attached),
        scenario("devices_return_when_their_machine_is_restarted", devices::return_when_their_machine_is_restarted),
        scenario("devices_return_when_qemu_crashed", devices::return_when_qemu_crashed),
        scenario("reading_goes_on_with_the_importers_agent_killed", processes::agent_of_the_importer_killed),
        scenario("reading_goes_on_with_the_home_nodes_agent_killed", processes::agent_of_the_home_node_killed),
        scenario("an_attach_survives_the_death_of_all_our_processes", processes::everything_killed_while_attaching),
    ]
}

/// Those whose name contains `filter`.
///
/// # Errors
/// When there is none.
pub fn matching(filter: &str) -> Result<Vec<Scenario>> {
    let found: Vec<_> = all().into_iter().filter(|scenario| scenario.name.contains(filter)).collect();
    let names: Vec<_> = all().iter().map(|scenario| scenario.name).collect();
    ensure!(!found.is_empty(), "no scenario has {filter:?} in its name; there are:\n  {}", names.join("\n  "));
    Ok(found)
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Scenarios that passed.
    pub passed: u32,
    /// Scenarios that failed.
    pub failed: u32,
}

/// Runs scenarios `times` times, one line for each, and tells the result. A failed scenario leaves the logs of
/// everything; the next one gets a new lab from `start`, so that one failure stays one failure.
///
/// # Errors
/// When a lab does not start.
pub fn run(scenarios: &[Scenario], times: u32, mut start: impl FnMut() -> Result<Lab>) -> Result<Tally> {
    let mut lab: Option<Lab> = None;
    let mut tally = Tally::default();
    for round in 1..=times {
        for scenario in scenarios {
            let present = match lab.take() {
                Some(lab) => lab,
                None => start()?,
            };
            let begin = Instant::now();
            let result = (scenario.run)(&present).and_then(|()| present.assert_no_leaks(SETTLE).context("leaks"));
            let (time, round) =
                (begin.elapsed().as_secs_f32(), if times > 1 { format!(" ({round}/{times})") } else { String::new() });
            match result {
                Ok(()) => {
                    println!("ok      {}{round}  {time:.1} s", scenario.name);
                    tally.passed += 1;
                    lab = Some(present);
                }
                Err(error) => {
                    println!("FAILED  {}{round}  {time:.1} s\n{}", scenario.name, indented(&format!("{error:#}")));
                    present.collect_logs();
                    tally.failed += 1;
                }
            }
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_matches_nothing_lists_what_there_is() {
        let error = matching("no such thing").err().unwrap().to_string();
        assert!(all().iter().all(|scenario| error.contains(scenario.name)), "{error}");
        assert_eq!(matching("nodes_become").unwrap().len(), 1);
    }
}
