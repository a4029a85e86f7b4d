//! What must hold on a whole cluster, one function each. A scenario makes its own namespace and removes it; after each,
//! nothing may be left of any attachment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cluster::Lab;
use crate::walk;

mod assignments;
mod contested;
mod crowd;
mod dead;
mod deleted;
mod devices;
mod host;
mod hostile;
mod hotplug;
mod installation;
mod interrupted;
mod kinds;
mod kubelet;
mod life;
mod limits;
mod metrics;
mod migration;
mod nodes;
mod operations;
mod outages;
mod outsiders;
mod partition;
mod pods;
mod processes;
pub(crate) mod reading;
mod replug;
mod tasks;
mod trust;
mod twins;
mod wiretap;

/// Time for everything an attachment uses to be given back.
const SETTLE: Duration = Duration::from_secs(30);

/// The lab that a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needs {
    /// Nodes.
    pub nodes: u8,
    /// USB ports of each; a kernel has 32 at most.
    pub usb_ports: u8,
    /// Whether the first node has Debian's kernel and QEMU's USB controllers, whatever the others are.
    pub emulated: bool,
}

impl Needs {
    /// What is enough for most.
    pub const ORDINARY: Self = Self { nodes: 2, usb_ports: 4, emulated: false };
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name: a sentence.
    pub name: &'static str,
    /// The lab it needs.
    pub needs: Needs,
    /// What it does.
    pub run: fn(&Lab) -> Result<()>,
}

/// A scenario of three nodes with more USB ports than devices may be lent from one.
const fn large(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, needs: Needs { nodes: 3, usb_ports: 17, emulated: false }, run }
}

/// A scenario with devices that only an emulator has, in its first node.
const fn emulated(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, needs: Needs { nodes: 2, usb_ports: 4, emulated: true }, run }
}

/// All scenarios, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    let scenario = |name, run| Scenario { name, needs: Needs::ORDINARY, run };
    vec![
        scenario("nodes_become_ready_and_run_a_pod", nodes::become_ready_and_run_a_pod),
        scenario("the_labs_own_tools_do_what_they_say", nodes::tools_do_what_they_say),
        scenario(
            "devices_are_attached_to_a_machine_on_another_node_and_detached",
            devices::are_attached_to_a_machine_on_another_node_and_detached,
        ),
        scenario("devices_on_the_machines_own_node_need_no_usbip", devices::on_the_machines_own_node_need_no_usbip),
        scenario(
            "devices_come_and_go_in_any_order_beside_one_that_is_read",
            hotplug::in_any_order_beside_one_that_is_read,
        ),
        scenario(
            "of_two_machines_that_list_a_device_one_has_it_and_the_other_is_next",
            contested::one_has_it_and_the_other_is_next,
        ),
        scenario("replugged_devices_return_in_any_port_of_any_node", replug::return_in_any_port_of_any_node),
        scenario("replugged_devices_return_whatever_step_they_interrupt", replug::return_whatever_step_they_interrupt),
        scenario("replugged_devices_return_ten_times_in_a_row", replug::return_ten_times_in_a_row),
        scenario("devices_of_another_namespace_are_not_attached", devices::of_another_namespace_are_not_attached),
        scenario("devices_return_when_their_machine_is_restarted", devices::return_when_their_machine_is_restarted),
        scenario("devices_return_when_qemu_crashed", devices::return_when_qemu_crashed),
        scenario("devices_are_free_while_their_machine_is_stopped_or_gone", life::stopped_killed_and_deleted),
        scenario("operations_start_stop_and_restart_a_machine", operations::start_stop_and_restart),
        scenario("devices_follow_their_machine_when_its_node_is_drained", life::drained),
        scenario("reassigned_devices_leave_one_machine_before_they_enter_another", assignments::changed_while_attached),
        scenario("a_device_that_is_withdrawn_leaves_an_importer_that_does_nothing", trust::importer_does_nothing),
        scenario("reading_goes_on_while_all_certificates_change", trust::all_certificates_change),
        // First of their lab: they want every place of a kernel, which loses some to devices that are pulled out while lent.
        large("devices_without_a_free_port_wait_and_disturb_nobody", limits::full_importer),
        large("devices_over_the_limit_of_their_home_node_wait_and_disturb_nobody", limits::full_home_node),
        large("devices_of_many_kinds_are_used_in_a_guest_of_another_node", kinds::gadgets),
        emulated("devices_on_emulated_controllers_are_used_in_a_guest_of_another_node", kinds::emulated),
        scenario("devices_without_serial_are_told_apart_by_port", twins::without_serial),
        scenario("devices_of_the_same_serial_are_told_apart_by_port", twins::of_one_serial),
        scenario("pods_ask_a_serial_adapter_on_another_node", pods::a_serial_adapter_answers_a_job_on_another_node),
        scenario(
            "pods_read_a_scanner_that_is_pulled_out_and_put_back",
            pods::a_scanner_is_read_and_read_on_after_it_was_pulled_out,
        ),
        scenario("pods_read_a_disk_at_home_and_elsewhere", pods::a_disk_is_read_at_home_and_on_another_node),
        scenario(
            "pods_and_machines_wait_for_each_other_and_say_for_whom",
            pods::pods_and_machines_wait_for_each_other_and_say_for_whom,
        ),
        scenario("reading_goes_on_with_the_importers_agent_killed", processes::agent_of_the_importer_killed),
        scenario("reading_goes_on_with_the_home_nodes_agent_killed", processes::agent_of_the_home_node_killed),
        scenario("an_attach_survives_the_death_of_all_our_processes", processes::everything_killed_while_attaching),
        scenario("reading_goes_on_while_kubelets_restart", kubelet::restarted_with_attached_devices),
        scenario(
            "an_attach_survives_the_death_of_the_agent_between_prepare_and_start",
            kubelet::agent_killed_between_prepare_and_start,
        ),
        scenario("a_kubelet_that_asks_for_claims_that_are_gone_is_answered", kubelet::asks_for_claims_that_are_gone),
        scenario(
            "a_kubelet_is_reminded_of_a_claim_that_it_could_not_prepare",
            kubelet::reminded_of_what_it_could_not_prepare,
        ),
        scenario("twenty_claims_at_once_on_one_node_are_all_answered", crowd::twenty_claims_at_once),
        scenario(
            "metrics_follow_a_device_into_a_guest_and_out_again",
            metrics::follow_a_device_into_a_guest_and_out_again,
        ),
        scenario("what_is_deleted_by_hand_comes_back_and_so_does_the_device", deleted::objects_come_back),
        scenario("absent_devices_that_nobody_has_assigned_are_forgotten", deleted::absent_devices_are_forgotten),
        scenario("the_tasks_of_the_docs_go_as_they_are_written", tasks::go_as_they_are_written),
        scenario("devices_return_when_nodes_were_rebooted", outages::nodes_rebooted),
        large("a_home_node_out_of_reach_holds_up_only_its_own_devices", outages::home_node_out_of_reach),
        large("a_machine_of_a_dead_node_starts_elsewhere_with_its_device", dead::machine_and_device_of_dead_nodes),
        large(
            "a_machine_that_is_cut_off_loses_its_device_to_the_next",
            partition::machine_that_is_cut_off_loses_its_device,
        ),
        scenario("reading_goes_on_while_the_api_server_is_away", outages::api_server_away),
        scenario("a_disk_the_node_has_mounted_is_not_lent", host::a_mounted_disk_is_not_lent),
        scenario("a_disk_that_is_assigned_is_kept_from_its_own_node", host::a_tenants_disk_is_kept_from_its_node),
        scenario("a_device_that_comes_and_goes_in_a_storm_disturbs_nobody", hostile::a_storm_disturbs_nobody),
        scenario("ports_that_somebody_else_uses_are_not_offered", outsiders::ports_of_theirs_are_not_offered),
        scenario(
            "the_chart_is_upgraded_while_a_guest_reads_uninstalled_and_installed_again",
            installation::upgraded_uninstalled_and_installed_again,
        ),
        scenario("the_tasks_of_the_docs_about_the_chart_go_as_they_are_written", tasks::of_the_chart),
        scenario("a_node_without_vhci_is_home_and_local_only", limits::node_without_vhci),
        large("migration_takes_a_machine_and_its_device_from_node_to_node", migration::from_node_to_node),
        large("migration_without_a_free_port_is_refused_and_disturbs_nobody", migration::without_a_free_port),
        large("migration_that_is_stopped_in_the_middle_leaves_all_where_it_was", migration::stopped_in_the_middle),
        large("migration_whose_target_ends_leaves_all_where_it_was", interrupted::by_the_end_of_the_target),
        large("migration_goes_on_without_a_device_that_is_pulled_out", interrupted::by_the_cable),
        large("migration_many_times_in_a_row_gives_no_wrong_block", migration::many_times),
        large("a_short_walk_of_all_that_happens_leaves_all_as_a_model_says", walk::short),
    ]
}

/// Those whose name contains one of `words`; without words, all.
///
/// # Errors
/// When one of the words is in no name.
pub fn matching(words: &[impl AsRef<str>]) -> Result<Vec<Scenario>> {
    let mut found = all();
    let names: Vec<_> = found.iter().map(|scenario| scenario.name).collect();
    for word in words.iter().map(AsRef::as_ref) {
        let known = names.iter().any(|name| name.contains(word));
        ensure!(known, "no scenario has {word:?} in its name; there are:\n  {}", names.join("\n  "));
    }
    found.retain(|scenario| words.is_empty() || words.iter().any(|word| scenario.name.contains(word.as_ref())));
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

/// Scenarios by the lab they need, small labs first. Those that need the same one run in the same one, so that few labs are
/// started.
pub fn by_needs(scenarios: &[Scenario]) -> BTreeMap<Needs, Vec<Scenario>> {
    let mut groups: BTreeMap<Needs, Vec<Scenario>> = BTreeMap::new();
    for scenario in scenarios {
        groups.entry(scenario.needs).or_default().push(*scenario);
    }
    groups
}

/// Runs scenarios `times` times, each time in a new lab, one line for each, and tells the result. A failed scenario leaves
/// the logs of everything; the next one gets a new lab from `start`, so that one failure stays one failure.
///
/// # Errors
/// When a lab does not start.
pub fn run(scenarios: &[Scenario], times: u32, mut start: impl FnMut(Needs) -> Result<Lab>) -> Result<Tally> {
    let mut tally = Tally::default();
    for (needs, group) in by_needs(scenarios) {
        for round in 1..=times {
            // A new lab each time: the kubelet starts what has died often only after minutes.
            let mut lab: Option<Lab> = None;
            let round = if times > 1 { format!(" ({round}/{times})") } else { String::new() };
            for scenario in &group {
                let present = match lab.take() {
                    Some(lab) => lab,
                    None => start(needs)?,
                };
                let begin = Instant::now();
                let result = (scenario.run)(&present).and_then(|()| present.assert_no_leaks(SETTLE).context("leaks"));
                let time = begin.elapsed().as_secs_f32();
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
        let error = matching(&["nodes", "no such thing"]).err().unwrap().to_string();
        assert!(all().iter().all(|scenario| error.contains(scenario.name)), "{error}");
        assert_eq!(matching(&["nodes_become", "labs_own_tools"]).unwrap().len(), 2);
        assert_eq!(matching(&[""; 0]).unwrap().len(), all().len());
    }

    #[test]
    fn scenarios_that_need_the_same_lab_run_together_and_small_labs_come_first() {
        let scenario = |name, nodes, usb_ports| {
            let needs = Needs { nodes, usb_ports, emulated: false };
            Scenario { name, needs, run: |_| Ok(()) }
        };
        let mixed = [scenario("a", 3, 17), scenario("b", 2, 4), scenario("c", 3, 4), scenario("d", 2, 4)];
        let names = |group: &Vec<Scenario>| group.iter().map(|s| s.name).collect::<String>();
        assert_eq!(by_needs(&mixed).values().map(names).collect::<Vec<_>>(), ["bd", "c", "a"]);
    }

    #[test]
    fn no_scenario_needs_more_usb_ports_than_a_kernel_has() {
        assert!(all().iter().all(|s| s.needs >= Needs::ORDINARY && s.needs.usb_ports <= 32));
    }
}
