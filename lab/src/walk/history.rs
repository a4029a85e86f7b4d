//! What guests have said in a step, of all of them together: that no two had one device at one time, that nothing was read
//! wrong, and that no guest has lost a device, or has started anew, for no reason.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::things::Machine;
use super::witness::Change;

/// So far the clocks of nodes may be apart; for a device to go from one guest to another takes longer.
const APART: Duration = Duration::from_millis(150);

/// Something that a guest has said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// When, by the clock of its node.
    pub(super) at: Duration,
    /// Which guest.
    pub(super) machine: Machine,
    /// What.
    pub(super) change: Change,
}

/// Who had which device, by serial numbers.
pub(super) type Hands = BTreeMap<String, Machine>;

/// What should not have been in a step before which the devices were in these hands. `may_boot` says whether a guest may have
/// started in it, `may_blink` whether it may have lost a device.
pub(super) fn complaints(
    before: &Hands,
    mut said: Vec<Said>,
    may_boot: impl Fn(Machine) -> bool,
    may_blink: impl Fn(Machine, &str) -> bool,
) -> Vec<String> {
    said.sort_by_key(|said| said.at);
    let (mut hands, mut aborted, mut complaints) = (before.clone(), BTreeSet::new(), Vec::new());
    for (at, Said { machine, change, .. }) in said.iter().enumerate() {
        match change {
            Change::Booted => {
                hands.retain(|_, holder| holder != machine);
                if !aborted.remove(machine) && !may_boot(*machine) {
                    complaints.push(format!("the guest of {machine} has started anew, which nobody has asked for"));
                }
            }
            Change::Aborted => {
                hands.retain(|_, holder| holder != machine);
                aborted.insert(*machine);
            }
            Change::Wrong(line) => complaints.push(format!("{machine} has read something wrong: {line}")),
            Change::Went(serial) => {
                if hands.get(serial) == Some(machine) {
                    hands.remove(serial);
                    if !may_blink(*machine, serial) {
                        complaints.push(format!("{machine} has lost {serial}, which nobody has touched"));
                    }
                }
            }
            Change::Came(serial) => {
                let former = hands.insert(serial.clone(), *machine).filter(|former| former != machine);
                if let Some(former) = former.filter(|former| !lets_go(&said, at, *former, serial)) {
                    complaints.push(format!("{serial} has come to {machine} while {former} had it"));
                }
            }
        }
    }
    complaints
}

/// Whether a guest lets go of a device, or starts anew, so soon after something was said that it may have been before.
fn lets_go(said: &[Said], at: usize, machine: Machine, serial: &str) -> bool {
    let Some(now) = said.get(at).map(|said| said.at) else { return false };
    let soon = said.iter().skip(at).take_while(|said| said.at <= now + APART).filter(|said| said.machine == machine);
    soon.map(|said| &said.change).any(|change| match change {
        Change::Booted | Change::Aborted => true,
        Change::Went(it) => it == serial,
        Change::Came(_) | Change::Wrong(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Machine::{First, Second};

    fn said(at: u64, machine: Machine, change: Change) -> Said {
        Said { at: Duration::from_millis(at), machine, change }
    }

    fn came() -> Change {
        Change::Came("SN1".into())
    }

    fn went() -> Change {
        Change::Went("SN1".into())
    }

    fn told(before: &[(&str, Machine)], all: Vec<Said>, blinks: bool) -> String {
        let before = before.iter().map(|(serial, machine)| ((*serial).to_owned(), *machine)).collect();
        complaints(&before, all, |_| blinks, |_, _| blinks).join("; ")
    }

    #[test]
    fn a_device_goes_from_one_guest_to_another_and_is_never_in_both() {
        let good = vec![said(900, Second, came()), said(500, First, went())];
        assert_eq!(told(&[("SN1", First)], good, true), "", "lines arrive in any order");
        let bad = vec![said(500, Second, came()), said(900, First, went())];
        assert_eq!(told(&[("SN1", First)], bad, true), "SN1 has come to second while first had it");
        assert_eq!(
            told(&[], vec![said(1, First, came()), said(1000, Second, came())], true),
            "SN1 has come to second while first had it"
        );
        let clocks = vec![said(500, Second, came()), said(600, First, went())];
        assert_eq!(told(&[("SN1", First)], clocks, true), "", "clocks are apart");
        let crash = vec![said(500, First, Change::Booted), said(600, Second, came())];
        assert_eq!(told(&[("SN1", First)], crash, true), "");
        assert_eq!(told(&[("SN1", First)], vec![said(500, First, came())], true), "", "its own");
    }

    #[test]
    fn a_device_that_goes_and_comes_in_a_step_that_has_nothing_to_do_with_it_is_complained_of() {
        let blink = || vec![said(500, First, went()), said(900, First, came())];
        assert_eq!(told(&[("SN1", First)], blink(), false), "first has lost SN1, which nobody has touched");
        assert_eq!(told(&[("SN1", First)], blink(), true), "");
    }

    #[test]
    fn a_guest_that_starts_anew_by_itself_is_complained_of() {
        let booted = || vec![said(500, First, Change::Booted)];
        let complaint = "the guest of first has started anew, which nobody has asked for";
        assert_eq!((told(&[], booted(), false), told(&[], booted(), true)), (complaint.to_owned(), String::new()));
        // By a defect of QEMU's it may, once.
        let aborted = [vec![said(400, First, Change::Aborted)], booted()].concat();
        assert_eq!(told(&[("SN1", First)], aborted.clone(), false), "");
        assert_eq!(told(&[], [aborted, booted()].concat(), false), complaint);
    }

    #[test]
    fn what_was_read_wrong_is_complained_of_in_any_step() {
        let wrong = vec![said(500, First, Change::Wrong("bad=1".into()))];
        assert_eq!(told(&[], wrong, true), "first has read something wrong: bad=1");
    }
}
