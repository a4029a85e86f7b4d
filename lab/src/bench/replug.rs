//! A cable that is pulled and put back into the same port, while a machine lists the device: until it is in the guest again.

use anyhow::Result;

use super::clock::Clock;
use super::figures::Times;
use super::{HOME, ROUNDS, VM, attach};
use crate::case::{Case, SOON};
use crate::guest::Guest;
use crate::stick::Stick;

/// The rounds, the first one not counted: from the cable to the guest.
///
/// # Errors
/// When the guest does not see what it should.
pub(super) fn rounds(case: &Case<'_>, guest: &mut Guest, stick: &Stick, device: &str, clock: &Clock) -> Result<Times> {
    let node = case.lab.node(HOME)?;
    guest.forget();
    case.set_devices(VM, &[device])?;
    attach::comes(guest)?;
    let mut back = Times::default();
    for number in 0..=ROUNDS {
        case.wait_status(VM, device, true)?;
        guest.forget();
        node.unplug(stick)?;
        attach::goes(guest)?;
        case.wait_status(VM, device, false)?;
        guest.forget();
        let plugged = clock.unix(node.plug(stick)?);
        let seen = clock.unix(attach::comes(guest)?.at);
        if number > 0 {
            back.push(seen.saturating_sub(plugged));
        }
    }
    guest.forget();
    case.set_devices(VM, &[])?;
    attach::goes(guest)?;
    case.lab.assert_no_leaks(SOON)?;
    Ok(back)
}
