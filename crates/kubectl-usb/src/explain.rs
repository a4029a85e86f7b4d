//! `explain`: what a reason means and what to do, from the catalogue.

use std::collections::BTreeSet;

use patchbay_core::messages::{self, Entry, NodeEntry, PodEntry};

use crate::Answer;
use crate::failure::Failure;
use crate::style::{FAINT, STRONG, paint};

/// Says what a reason means; without one, which there are.
///
/// # Errors
/// There is no such reason.
pub(crate) fn explain(reason: Option<&str>) -> Result<Answer, Failure> {
    let Some(reason) = reason else { return Ok(Answer { text: list(), ..Answer::default() }) };
    let texts: Vec<_> = all().filter(|said| said.reason.eq_ignore_ascii_case(reason)).map(|said| said.text()).collect();
    if texts.is_empty() {
        let advice = "Which there are:\n  kubectl usb explain".to_owned();
        return Err(Failure::Unfit(format!("Patchbay gives no reason {reason}"), advice));
    }
    Ok(Answer { text: texts.join("\n"), ..Answer::default() })
}

/// All reasons, each once.
pub(crate) fn reasons() -> Vec<String> {
    all().map(|said| said.reason.to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A reason, wherever it is given.
struct Said {
    /// Where: a type of condition, if need be with its object.
    place: String,
    reason: &'static str,
    means: &'static str,
    cure: &'static str,
}

/// The whole catalogue.
fn all() -> impl Iterator<Item = Said> {
    let conditions = messages::all().map(|Entry { kind, reason, means, cure }| {
        let place = format!("{}={}", kind.as_str(), if reason.is_true() { "True" } else { "False" });
        Said { place, reason: reason.as_str(), means, cure }
    });
    let nodes = messages::of_nodes().map(|NodeEntry { reason, means, cure, .. }| Said {
        place: "Event of a Node".to_owned(),
        reason,
        means,
        cure,
    });
    let pods = messages::of_pods().map(|PodEntry { condition, reason, means }| Said {
        place: format!("{condition} of a pod"),
        reason,
        means,
        cure: "",
    });
    conditions.chain(nodes).chain(pods)
}

impl Said {
    fn text(&self) -> String {
        let cure = match self.cure {
            "" => "Nothing is to be done.".to_owned(),
            cure => format!("What to do: {cure}"),
        };
        format!("{}, {}\n  {}\n  {cure}\n", self.place, paint(STRONG, self.reason), self.means)
    }
}

fn list() -> String {
    let width = all().map(|said| said.reason.len()).max().unwrap_or(0);
    all().map(|said| format!("{:width$}   {}\n", said.reason, paint(FAINT, &said.place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::plain;

    #[test]
    fn a_reason_is_explained_for_each_condition_that_gives_it() {
        let text = plain(&explain(Some("inuse")).unwrap().text);
        assert_eq!(
            text,
            "USBDevicesAttached=False, InUse\n  Another machine or a pod has a listed device. It is attached here when it is \
             released there.\n  What to do: Wait, or take it from there: `kubectl usb detach DEVICE VM`; end the pod that has \
             it.\n"
        );
        let text = plain(&explain(Some("NotFound")).unwrap().text);
        assert!(
            text.starts_with("Ready=False, NotFound\n") && text.contains("\n\nUSBDevicesAttached=False, NotFound\n"),
            "{text}"
        );
        let text = plain(&explain(Some("USBDeviceNotFound")).unwrap().text);
        assert!(
            text.starts_with("Event of a Node, USBDeviceNotFound\n") && text.contains("What to do: Plug it in"),
            "{text}"
        );
        assert!(plain(&explain(Some("ClaimLost")).unwrap().text).starts_with("Plugged of a pod, ClaimLost\n"));
        assert!(plain(&explain(Some("AllAttached")).unwrap().text).ends_with("Nothing is to be done.\n"));
    }

    #[test]
    fn without_a_reason_all_are_listed_and_of_another_one_it_is_said() {
        let text = plain(&explain(None).unwrap().text);
        assert_eq!(text.lines().count(), all().count());
        assert!(text.lines().next().unwrap().starts_with("Ready "), "{text}");
        assert_eq!(explain(Some("Nonsense")).unwrap_err().to_string(), "Patchbay gives no reason Nonsense");
    }
}
