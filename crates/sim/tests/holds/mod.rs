//! Exploring a scenario as a test.

use patchbay_sim::Scenario;
use patchbay_sim::explorer::explore;

/// More worlds than this are a mistake in the test.
const LIMIT: usize = 1_000_000;

/// Explores, and fails with the story of the first broken law; also when there are so few worlds that the exploration
/// cannot have been what it is meant to be.
#[track_caller]
pub(crate) fn holds(name: &str, at_least: usize, scenario: &Scenario) {
    match explore(scenario, LIMIT) {
        Ok(report) => {
            println!("{name}: {report}");
            assert!(report.worlds >= at_least, "{name}: {report}");
        }
        Err(violation) => panic!("{name}: {violation}"),
    }
}
