//! Whether the drivers of a node have a device that is in no session, or nobody has it.
//!
//! A device that is assigned to a namespace is a tenant's. While none of its users has it, it is withheld from the drivers of
//! the node it is plugged into, so that the node neither mounts its disk nor listens to it. Whoever uses it on that very node
//! gets it through those drivers, and so does the node itself once the device is assigned to nobody.

use crate::device::BusAddress;

/// When a device that nobody uses goes back to the drivers of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Returned {
    /// When it is assigned to no namespace any more.
    #[default]
    Unassigned,
    /// As soon as its last user has released it: the nodes themselves use the devices that come back.
    AtOnce,
}

/// Who has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Keeper {
    /// The drivers of the node, or any of them that wants it.
    Drivers,
    /// Nobody: we have withheld it.
    Ours,
    /// Nobody: somebody else does not let the node use it.
    Another,
}

/// Who has the device with this address now. `withheld` is the address of the one that we have withheld in its place, so that
/// one which has been away since, or which somebody else has blocked, is not taken for ours.
pub fn keeper(address: BusAddress, authorized: bool, withheld: Option<BusAddress>) -> Keeper {
    match withheld {
        _ if authorized => Keeper::Drivers,
        Some(ours) if ours == address => Keeper::Ours,
        Some(_) | None => Keeper::Another,
    }
}

/// A device that is in no session with another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Idle {
    /// It is assigned to a namespace; None when that is not known.
    pub assigned: Option<bool>,
    /// A pod or machine of its own node has it, or is about to; None when that is not known.
    pub used_here: Option<bool>,
    /// The node itself uses it.
    pub host_uses: bool,
    /// Who has it now.
    pub keeper: Keeper,
}

/// What to do about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing.
    Leave,
    /// Take it from the drivers of the node.
    Withhold,
    /// Let the drivers of the node have it.
    Return,
}

/// Decides about one device. What is not known changes nothing, and what somebody else keeps from the node stays so.
pub fn step(idle: &Idle, returned: Returned) -> Step {
    let (Some(assigned), Some(used_here)) = (idle.assigned, idle.used_here) else { return Step::Leave };
    let withheld = assigned && !used_here && returned == Returned::Unassigned;
    match idle.keeper {
        Keeper::Drivers if withheld && !idle.host_uses => Step::Withhold,
        Keeper::Ours if !withheld => Step::Return,
        Keeper::Drivers | Keeper::Ours | Keeper::Another => Step::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Idle = Idle { assigned: Some(true), used_here: Some(false), host_uses: false, keeper: Keeper::Drivers };

    #[test]
    fn a_tenants_device_is_with_nobody_while_nobody_uses_it() {
        use Keeper::{Another, Drivers, Ours};
        let at_once = |idle| (idle, Returned::AtOnce);
        let default = |idle| (idle, Returned::Unassigned);
        let table = [
            ("assigned", default(IDLE), Step::Withhold),
            ("withheld already", default(Idle { keeper: Ours, ..IDLE }), Step::Leave),
            ("the node has its disk mounted", default(Idle { host_uses: true, ..IDLE }), Step::Leave),
            ("a pod of the node has it", default(Idle { used_here: Some(true), ..IDLE }), Step::Leave),
            ("a pod of the node wants it", default(Idle { used_here: Some(true), keeper: Ours, ..IDLE }), Step::Return),
            ("assigned to nobody", default(Idle { assigned: Some(false), ..IDLE }), Step::Leave),
            (
                "assigned to nobody any more",
                default(Idle { assigned: Some(false), keeper: Ours, ..IDLE }),
                Step::Return,
            ),
            ("nodes use what comes back", at_once(IDLE), Step::Leave),
            ("nodes use what comes back from now on", at_once(Idle { keeper: Ours, ..IDLE }), Step::Return),
            ("not known whether assigned", default(Idle { assigned: None, ..IDLE }), Step::Leave),
            ("nor whether it still is", default(Idle { assigned: None, keeper: Ours, ..IDLE }), Step::Leave),
            ("not known whether used", default(Idle { used_here: None, ..IDLE }), Step::Leave),
            ("an administrator has blocked it", default(Idle { keeper: Another, ..IDLE }), Step::Leave),
            (
                "and does so when it is given up",
                default(Idle { assigned: Some(false), keeper: Another, ..IDLE }),
                Step::Leave,
            ),
        ];
        for (what, (idle, returned), expected) in table {
            assert_eq!(step(&idle, returned), expected, "{what}");
        }
        assert_eq!(step(&Idle { keeper: Drivers, ..IDLE }, Returned::default()), Step::Withhold, "the default");
    }

    #[test]
    fn what_is_blocked_is_ours_only_if_it_is_the_very_one() {
        let [one, other] = [2, 3].map(|device| BusAddress { bus: 1, device });
        for (authorized, withheld, expected) in [
            (true, None, Keeper::Drivers),
            (true, Some(one), Keeper::Drivers),
            (false, Some(one), Keeper::Ours),
            (false, Some(other), Keeper::Another),
            (false, None, Keeper::Another),
        ] {
            assert_eq!(keeper(one, authorized, withheld), expected, "{authorized} {withheld:?}");
        }
    }

    /// What the step makes of a device.
    fn after(idle: Idle, step: Step) -> Idle {
        match step {
            Step::Leave => idle,
            Step::Withhold => Idle { keeper: Keeper::Ours, ..idle },
            Step::Return => Idle { keeper: Keeper::Drivers, ..idle },
        }
    }

    #[test]
    fn a_step_is_never_followed_by_another_one_and_takes_nothing_that_is_used() {
        let known = [None, Some(false), Some(true)];
        for (assigned, used_here) in known.into_iter().flat_map(|a| known.map(|u| (a, u))) {
            for (host_uses, keeper) in [false, true]
                .into_iter()
                .flat_map(|h| [Keeper::Drivers, Keeper::Ours, Keeper::Another].map(|keeper| (h, keeper)))
            {
                for returned in [Returned::Unassigned, Returned::AtOnce] {
                    let idle = Idle { assigned, used_here, host_uses, keeper };
                    let first = step(&idle, returned);
                    assert_eq!(step(&after(idle, first), returned), Step::Leave, "{idle:?} {returned:?}");
                    if first == Step::Withhold {
                        assert!(!host_uses && used_here == Some(false) && assigned == Some(true), "{idle:?}");
                    }
                }
            }
        }
    }
}
