//! What is to be said of a device, compared with what is said already.
//!
//! Of ten thousand devices one has changed. So what is to be said borrows from the world, and becomes a status only where it
//! differs.

use std::borrow::Cow;

use crate::conditions::{Condition, ConditionType, Reason, Seconds};
use crate::controller::world::DeviceStatus;
use crate::device::Attributes;
use crate::names::{DeviceName, NodeName, VmName};

/// A condition to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said<'w> {
    /// Why it is as it is.
    pub(super) reason: Reason,
    /// For people.
    pub(super) message: Cow<'w, str>,
}

impl<'w> Said<'w> {
    /// With a reason and a message.
    pub(super) fn new(reason: Reason, message: impl Into<Cow<'w, str>>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What `NodeUSBDevice` and `USBDevice` say.
#[derive(Clone, Debug)]
pub(super) struct Description<'w> {
    pub(super) node: Option<&'w NodeName>,
    /// Where it differs from the object's.
    pub(super) device_name: Option<&'w DeviceName>,
    pub(super) attributes: Option<&'w Attributes>,
    pub(super) ready: Said<'w>,
    /// Only `NodeUSBDevice` says it.
    pub(super) assigned: Option<Said<'w>>,
    pub(super) attached: Said<'w>,
    pub(super) generation: i64,
    pub(super) vm: Option<&'w VmName>,
}

impl Description<'_> {
    /// The conditions in the order of their types.
    fn conditions(&self) -> impl Iterator<Item = (ConditionType, &Said<'_>)> {
        let assigned = self.assigned.as_ref().map(|said| (ConditionType::Assigned, said));
        let first = std::iter::once((ConditionType::Ready, &self.ready));
        first.chain(assigned).chain(std::iter::once((ConditionType::Attached, &self.attached)))
    }

    /// Whether a status says just that.
    fn is(&self, status: &DeviceStatus) -> bool {
        let DeviceStatus { node, device_name, attributes, conditions, observed_generation, vm } = status;
        let mut told = conditions.iter();
        let same = |(kind, said): (ConditionType, &Said<'_>)| {
            told.next().is_some_and(|c| c.kind == kind && c.reason == said.reason && c.message == said.message)
        };
        self.conditions().all(same)
            && told.next().is_none()
            && *observed_generation == self.generation
            && node.as_ref() == self.node
            && device_name.as_ref() == self.device_name
            && attributes.as_ref() == self.attributes
            && vm.as_ref() == self.vm
    }

    /// The status after `before`.
    pub(super) fn status(&self, before: &DeviceStatus, now: Seconds) -> DeviceStatus {
        let next = |(kind, said): (ConditionType, &Said<'_>)| {
            Condition::next(kind, said.reason, said.message.clone().into_owned(), &before.conditions, now)
        };
        DeviceStatus {
            node: self.node.cloned(),
            device_name: self.device_name.cloned(),
            attributes: self.attributes.cloned(),
            conditions: self.conditions().map(next).collect(),
            observed_generation: self.generation,
            vm: self.vm.cloned(),
        }
    }

    /// The status after `before`, if it is another one.
    pub(super) fn news(&self, before: &DeviceStatus, now: Seconds) -> Option<DeviceStatus> {
        (!self.is(before)).then(|| self.status(before, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description<'static> {
        Description {
            node: None,
            device_name: None,
            attributes: None,
            ready: Said::new(Reason::Ready, "Device is ready to use"),
            assigned: Some(Said::new(Reason::Available, "No namespace")),
            attached: Said::new(Reason::Available, "Device is available"),
            generation: 3,
            vm: None,
        }
    }

    #[test]
    fn what_is_said_already_is_no_news() {
        let said = description();
        let status = said.status(&DeviceStatus::default(), 7);
        assert_eq!(said.news(&status, 9), None);
        let kinds: Vec<_> = status.conditions.iter().map(|c| c.kind).collect();
        assert_eq!(kinds, ConditionType::OF_DEVICE);
    }

    #[test]
    fn each_part_that_differs_is_news() {
        let vm = VmName::new("vm");
        let changes: [fn(&mut Description<'_>, &'static VmName); 5] = [
            |d, _| d.ready = Said::new(Reason::NotReady, "Device is ready to use"),
            |d, _| d.attached.message = Cow::Borrowed("else"),
            |d, _| d.assigned = None,
            |d, _| d.generation = 4,
            |d, vm| d.vm = Some(vm),
        ];
        let vm: &'static VmName = Box::leak(Box::new(vm));
        let status = description().status(&DeviceStatus::default(), 7);
        for change in changes {
            let mut other = description();
            change(&mut other, vm);
            let news = other.news(&status, 9).unwrap();
            assert_eq!(other.news(&news, 11), None);
        }
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_stays_true() {
        let status = description().status(&DeviceStatus::default(), 7);
        let mut other = description();
        other.ready = Said::new(Reason::NotReady, "gone");
        other.attached.message = Cow::Borrowed("else");
        let times: Vec<_> = other.news(&status, 9).unwrap().conditions.iter().map(|c| c.since).collect();
        assert_eq!(times, [9, 7, 7]);
    }
}
