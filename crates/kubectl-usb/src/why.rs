//! `why`: the chain from the cable to the guest, as a list with one mark for each link.

use patchbay_core::controller::why::{Finding, Link, Remedy, Trouble};
use patchbay_core::names::{DeviceName, Namespace, VmName};

use crate::advice::{self, Line};
use crate::style::{BAD, FAINT, GOOD, STRONG, paint};

const HOLDS: &str = "✓";
const BROKEN: &str = "✗";
const BEYOND: &str = "·";

/// What is shown of a device.
#[derive(Debug)]
pub(crate) struct Device<'a> {
    /// Its name.
    pub(crate) name: &'a DeviceName,
    /// What it is.
    pub(crate) product: Option<String>,
    /// The chain.
    pub(crate) found: &'a [Finding],
    /// The chain is made from what one namespace shows.
    pub(crate) partial: bool,
}

/// What holds a chain up.
pub(crate) fn trouble(found: &[Finding]) -> Option<&Trouble> {
    found.last().and_then(|finding| finding.state.as_ref().err())
}

/// The chain of a device.
pub(crate) fn device(shown: &Device<'_>) -> String {
    let mut text = format!("{} {}", paint(FAINT, "USB device"), paint(STRONG, shown.name.as_str()));
    text.push_str(&shown.product.as_ref().map(|p| format!(": {p}")).unwrap_or_default());
    text.push_str("\n\n");
    let width = Link::TO_A_GUEST.iter().map(|l| l.title().len()).max().unwrap_or(0);
    for finding in shown.found {
        let (mark, style, words) = match &finding.state {
            Ok(words) => (HOLDS, GOOD, words),
            Err(trouble) => (BROKEN, BAD, &trouble.why),
        };
        text.push_str(&format!("{} {:width$}   {words}\n", paint(style, mark), finding.link.title()));
    }
    let last = shown.found.last();
    for link in last.into_iter().flat_map(|last| beyond(last, shown.partial)) {
        text.push_str(&paint(FAINT, &format!("{BEYOND} {}", link.title())));
        text.push('\n');
    }
    text.push('\n');
    match trouble(shown.found) {
        Some(trouble) => text.push_str(&todo(&trouble.remedy, "What to do: as it says.\n")),
        None => text.push_str("Nothing holds it up: it is where it should be.\n"),
    }
    text
}

/// The links that were not reached.
pub(crate) fn beyond(last: &Finding, partial: bool) -> impl Iterator<Item = Link> {
    let (last, broken) = (last.link, last.state.is_err());
    let told = [Link::Given, Link::Ready, Link::Listed, Link::Running, Link::Plugged];
    let all: Vec<Link> = if partial { told.to_vec() } else { Link::TO_A_GUEST.to_vec() };
    let reached = all.iter().position(|l| *l == last);
    all.into_iter().skip(reached.map_or(usize::MAX, |at| at + 1)).filter(move |_| broken)
}

fn todo(remedy: &Remedy, otherwise: &str) -> String {
    let lines = advice::lines(remedy);
    if lines.is_empty() {
        return otherwise.to_owned();
    }
    let line = |line: &Line| match line {
        Line::Say(text) => format!("{text}\n"),
        Line::Run(text) => format!("  {}\n", paint(STRONG, text)),
    };
    let all: String = lines.iter().map(line).collect();
    format!("What to do: {all}")
}

/// A machine and its devices: of each only where it is, or what holds it up.
pub(crate) fn machine(
    (namespace, vm): (&Namespace, &VmName),
    runs: &Result<String, Trouble>,
    devices: &[(DeviceName, Vec<Finding>)],
) -> String {
    let mut text = format!("{} {}\n\n", paint(FAINT, "virtual machine"), paint(STRONG, &format!("{namespace}/{vm}")));
    let width = devices.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0);
    for (name, found) in devices {
        let (mark, style, words) = match found.last().map(|f| (f.link, &f.state)) {
            Some((_, Ok(words))) => (HOLDS, GOOD, words.clone()),
            Some((Link::Running, Err(_))) => (BEYOND, FAINT, "waits for the machine".to_owned()),
            Some((_, Err(trouble))) => (BROKEN, BAD, trouble.why.clone()),
            None => (BEYOND, FAINT, String::new()),
        };
        text.push_str(&format!("{} {:width$}   {words}\n", paint(style, mark), name.as_str()));
    }
    if devices.is_empty() {
        text.push_str("It lists no USB devices.\n");
    }
    text.push('\n');
    let first = devices.iter().find_map(|(name, found)| Some((name, trouble(found)?)));
    text.push_str(&match (runs, first) {
        (Err(trouble), _) => format!("{}.\n{}", capital(&trouble.why), todo(&trouble.remedy, "")),
        (Ok(_), Some((name, trouble))) => {
            let all = format!("All links of one:\n  kubectl usb why {name} -n {namespace}\n");
            format!("{}{all}", todo(&trouble.remedy, ""))
        }
        (Ok(_), None) if devices.is_empty() => {
            format!("Attach one:\n  kubectl usb attach DEVICE {vm} -n {namespace}\n")
        }
        (Ok(_), None) => "Nothing holds it up: all its USB devices are in the guest.\n".to_owned(),
    });
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::plain;

    fn good(link: Link, words: &str) -> Finding {
        Finding { link, state: Ok(words.to_owned()) }
    }

    fn bad(link: Link, why: &str, remedy: Remedy) -> Finding {
        Finding { link, state: Err(Trouble { why: why.to_owned(), remedy }) }
    }

    fn shown(found: &[Finding], partial: bool) -> String {
        let name = DeviceName::new("webcam");
        plain(&device(&Device { name: &name, product: Some("Webcam C920".to_owned()), found, partial }))
    }

    #[test]
    fn a_chain_ends_with_what_holds_it_up_and_what_to_do() {
        let remedy = Remedy::MakeNamespace { namespace: "blue".into(), device: "webcam".into() };
        let found = [
            good(Link::Cable, "port 1-1 of node node-1"),
            bad(Link::Assigned, "namespace blue does not exist", remedy),
        ];
        let expected = "\
USB device webcam: Webcam C920

✓ plugged in         port 1-1 of node node-1
✗ assigned           namespace blue does not exist
· in its namespace
· listed
· machine runs
· attachment made
· scheduled
· prepared
· in the guest

What to do: Create the namespace, or assign the device to another one:
  kubectl create namespace blue
  kubectl usb assign webcam NAMESPACE --overwrite
";
        assert_eq!(shown(&found, false), expected);
    }

    #[test]
    fn a_chain_that_holds_says_so() {
        let text = shown(&[good(Link::Plugged, "guest bus 0 port 9")], false);
        assert!(
            text.ends_with(
                "✓ in the guest       guest bus 0 port 9\n\nNothing holds it up: it is where it should be.\n"
            )
        );
    }

    #[test]
    fn of_what_one_namespace_shows_nothing_else_is_promised() {
        let found = [good(Link::Given, "USBDevice blue/webcam"), bad(Link::Ready, "it is absent", Remedy::AsSaid)];
        let text = shown(&found, true);
        assert!(text.ends_with("· listed\n· machine runs\n· in the guest\n\nWhat to do: as it says.\n"), "{text}");
    }

    #[test]
    fn a_machine_has_a_line_for_each_device() {
        let key = (Namespace::new("blue"), VmName::new("linux-vm"));
        let devices = [
            ("webcam".into(), vec![good(Link::Plugged, "guest bus 0 port 9")]),
            ("key".into(), vec![bad(Link::Scheduled, "no port", Remedy::FreePort("node-2".into()))]),
        ];
        let runs = Ok("it runs".to_owned());
        let expected = "\
virtual machine blue/linux-vm

✓ webcam   guest bus 0 port 9
✗ key      no port

What to do: Who has the ports:
  kubectl usb tree
All links of one:
  kubectl usb why key -n blue
";
        assert_eq!(plain(&machine((&key.0, &key.1), &runs, &devices)), expected);
        let text = plain(&machine((&key.0, &key.1), &runs, &devices[..1]));
        assert!(text.ends_with("Nothing holds it up: all its USB devices are in the guest.\n"));
    }

    #[test]
    fn a_machine_that_does_not_run_says_so_once() {
        let key = (Namespace::new("blue"), VmName::new("linux-vm"));
        let why = "virtual machine blue/linux-vm does not run: it is stopped";
        let trouble = Trouble { why: why.to_owned(), remedy: Remedy::AsSaid };
        let devices = [("webcam".into(), vec![bad(Link::Running, why, Remedy::AsSaid)])];
        let text = plain(&machine((&key.0, &key.1), &Err(trouble), &devices));
        let end = "· webcam   waits for the machine\n\nVirtual machine blue/linux-vm does not run: it is stopped.\n";
        assert!(text.ends_with(end), "{text}");
        let text = plain(&machine((&key.0, &key.1), &Ok(String::new()), &[]));
        assert!(text.ends_with("Attach one:\n  kubectl usb attach DEVICE linux-vm -n blue\n"), "{text}");
    }
}
