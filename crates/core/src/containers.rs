//! What becomes of the device nodes that the containers of ordinary pods have.
//!
//! A container has the device nodes it was started with. When its device was away and is back under another number, those are
//! dead; what it gets at its next start is written anew at once, and until then it has nothing.

use crate::device::BusAddress;
use crate::importer::Reach;

/// How the device of a claim is for the containers that use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// They have it.
    InReach,
    /// It has this number now, and what they get at their next start has to be written.
    Outdated(BusAddress),
    /// That is written; they have the device once all of them were started since.
    Written,
    /// It is not on this node; why, for people.
    Away(String),
}

/// Says how it is: how far the device is, under which number they were given it, and for which number what they get next is
/// written.
pub fn nodes(reach: Option<&Reach>, given: Option<BusAddress>, written: Option<BusAddress>) -> Nodes {
    match reach {
        None => Nodes::Away("the agent has just started".to_owned()),
        Some(Reach::Away(why)) => Nodes::Away(why.clone()),
        Some(Reach::Here(address)) if given == Some(*address) => Nodes::InReach,
        Some(Reach::Here(address)) if written == Some(*address) => Nodes::Written,
        Some(Reach::Here(address)) => Nodes::Outdated(*address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_back_under_another_number_is_written_once_and_then_waited_for() {
        let number = |device| BusAddress { bus: 3, device };
        let here = |device| Some(Reach::Here(number(device)));
        let away = Some(Reach::Away("its cable is out".to_owned()));
        for (what, reach, given, written, expected) in [
            ("as it was given", here(7), Some(7), None, Nodes::InReach),
            ("back", here(8), Some(7), None, Nodes::Outdated(number(8))),
            ("back, and written", here(8), Some(7), Some(8), Nodes::Written),
            ("back once more", here(9), Some(7), Some(8), Nodes::Outdated(number(9))),
            ("back as it was given, by chance", here(7), Some(7), Some(8), Nodes::InReach),
            ("nobody knows as what it was given", here(7), None, None, Nodes::Outdated(number(7))),
            ("away", away, Some(7), None, Nodes::Away("its cable is out".to_owned())),
            ("not looked for yet", None, Some(7), Some(8), Nodes::Away("the agent has just started".to_owned())),
        ] {
            assert_eq!(nodes(reach.as_ref(), given.map(number), written.map(number)), expected, "{what}");
        }
    }
}
