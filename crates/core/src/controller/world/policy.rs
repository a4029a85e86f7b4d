//! Whether a machine shall run: what its policy says, and what operations have asked for.

use serde::{Deserialize, Serialize};

use super::{Vm, VmPhase};

/// `VirtualMachine.spec.runPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RunPolicy {
    /// Always.
    AlwaysOn,
    /// Never.
    AlwaysOff,
    /// As operations say.
    Manual,
    /// Always, unless an operation has stopped it.
    #[default]
    AlwaysOnUnlessStoppedManually,
}

impl RunPolicy {
    /// As in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlwaysOn => "AlwaysOn",
            Self::AlwaysOff => "AlwaysOff",
            Self::Manual => "Manual",
            Self::AlwaysOnUnlessStoppedManually => "AlwaysOnUnlessStoppedManually",
        }
    }

    /// Whether operations may start and stop the machine.
    pub const fn is_by_hand(self) -> bool {
        matches!(self, Self::Manual | Self::AlwaysOnUnlessStoppedManually)
    }
}

/// What was asked for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Power {
    /// That it run.
    On,
    /// That it be stopped.
    Off,
}

impl Vm {
    /// Whether it shall run.
    pub fn run(&self) -> bool {
        match (self.policy, self.status.power) {
            (RunPolicy::AlwaysOn, _) | (RunPolicy::AlwaysOnUnlessStoppedManually, None) => true,
            (RunPolicy::AlwaysOff, _) => false,
            (_, Some(power)) => power == Power::On,
            // Nobody has asked for anything yet: it goes on with what it does.
            (RunPolicy::Manual, None) => {
                matches!(self.status.phase, Some(VmPhase::Starting | VmPhase::Running | VmPhase::Migrating))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::world::VmStatus;

    fn runs(policy: RunPolicy, power: Option<Power>, phase: Option<VmPhase>) -> bool {
        let status = VmStatus { power, phase, ..VmStatus::default() };
        let uid = "u".into();
        Vm { uid, generation: 1, deleting: false, policy, usb_devices: Vec::new(), status }.run()
    }

    #[test]
    fn operations_count_only_where_the_policy_leaves_it_to_them() {
        for power in [None, Some(Power::On), Some(Power::Off)] {
            assert!(runs(RunPolicy::AlwaysOn, power, None));
            assert!(!runs(RunPolicy::AlwaysOff, power, Some(VmPhase::Running)));
            assert_eq!(runs(RunPolicy::AlwaysOnUnlessStoppedManually, power, None), power != Some(Power::Off));
            assert_eq!(runs(RunPolicy::Manual, power, None), power == Some(Power::On));
        }
    }

    #[test]
    fn a_manual_machine_that_nobody_has_asked_anything_goes_on_with_what_it_does() {
        for (phase, expected) in [
            (None, false),
            (Some(VmPhase::Pending), false),
            (Some(VmPhase::Starting), true),
            (Some(VmPhase::Running), true),
            (Some(VmPhase::Stopping), false),
            (Some(VmPhase::Stopped), false),
        ] {
            assert_eq!(runs(RunPolicy::Manual, None, phase), expected, "{phase:?}");
        }
    }
}
