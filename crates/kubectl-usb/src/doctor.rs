//! `doctor`: findings of the cluster and of each node, one a line, with what to do below those that are wrong.

use patchbay_core::doctor::{Finding, Remedy, Report, State, Verdict};

use crate::advice::Line;
use crate::cure;
use crate::style::{BAD, FAINT, GOOD, STRONG, WAITING, paint};

const WELL: &str = "✓";
const WRONG: &str = "✗";
const REST: &str = "·";

/// The longest name of a check.
const WIDTH: usize = "controller may".len();

/// The report.
pub(crate) fn report(report: &Report) -> String {
    let mut text = format!("{}\n", paint(STRONG, "cluster"));
    section(&report.cluster, &mut text);
    for (node, found) in &report.nodes {
        text.push_str(&format!("\n{} {}\n", paint(FAINT, "node"), paint(STRONG, node.as_str())));
        section(found, &mut text);
    }
    let count = |is: fn(&State) -> bool| report.all().filter(|finding| is(&finding.state)).count();
    let wrong = count(|state| matches!(state, State::Bad(..)));
    let unasked = count(|state| matches!(state, State::Unasked(_)));
    text.push('\n');
    text.push_str(&match report.verdict() {
        Verdict::Well => "Nothing is wrong.\n".to_owned(),
        Verdict::Unsure => format!("Nothing is wrong with what could be seen; {unasked} checks could not be made.\n"),
        Verdict::Wrong if unasked > 0 => format!("{}; {unasked} checks could not be made.\n", things(wrong)),
        Verdict::Wrong => format!("{}.\n", things(wrong)),
    });
    text
}

fn things(count: usize) -> String {
    if count == 1 { "One thing is wrong".to_owned() } else { format!("{count} things are wrong") }
}

fn section(found: &[Finding], text: &mut String) {
    for Finding { check, state } in found {
        let none = &Remedy::AsSaid;
        let (mark, style, words, remedy) = match state {
            State::Good(words) => (WELL, GOOD, words, none),
            State::Note(words, remedy) => (REST, WAITING, words, remedy),
            State::Bad(words, remedy) => (WRONG, BAD, words, remedy),
            State::Unasked(words) => (REST, FAINT, words, none),
        };
        let words = crate::table::line(words);
        text.push_str(&format!("{} {check:WIDTH$}   {words}\n", paint(style, mark)));
        for line in cure::lines(remedy) {
            text.push_str(&match line {
                Line::Say(text) => format!("    {text}\n"),
                Line::Run(text) => format!("      {}\n", paint(STRONG, &text)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::plain;

    fn finding(check: &'static str, state: State) -> Finding {
        Finding { check, state }
    }

    fn good(check: &'static str, text: &str) -> Finding {
        finding(check, State::Good(text.to_owned()))
    }

    #[test]
    fn what_is_wrong_is_followed_by_what_to_do() {
        let killed = "pod agent-x was killed, because it used more memory than it may (OOMKilled) (4 restarts)";
        let found = [
            good("node", "ready for 3h"),
            finding("agent", State::Bad(killed.to_owned(), Remedy::MoreMemory("agent"))),
            finding("USB/IP ports", State::Note("none".to_owned(), Remedy::AsSaid)),
        ];
        let unasked = State::Unasked("cannot list clusterroles: forbidden".to_owned());
        let cluster = vec![
            good("API server", "Kubernetes v1.34.4"),
            finding("definitions", State::Bad("usbdevices is missing".to_owned(), Remedy::Install)),
            finding("controller may", unasked),
        ];
        let all = Report { cluster, nodes: vec![("node-1".into(), found.to_vec())] };
        let expected = "\
cluster
✓ API server       Kubernetes v1.34.4
✗ definitions      usbdevices is missing
    Install it again, with the chart of the version that runs (helm install, if nothing runs):
      helm upgrade patchbay charts/patchbay -n patchbay --reset-then-reuse-values --force-conflicts
· controller may   cannot list clusterroles: forbidden

node node-1
✓ node             ready for 3h
✗ agent            pod agent-x was killed, because it used more memory than it may (OOMKilled) (4 restarts)
    Let it have more memory; no guest notices the restart:
      helm upgrade patchbay charts/patchbay -n patchbay --reset-then-reuse-values --set agent.resources.limits.memory=256Mi
· USB/IP ports     none

2 things are wrong; 1 checks could not be made.
";
        assert_eq!(plain(&report(&all)), expected);
    }

    #[test]
    fn the_last_line_says_whether_all_is_well() {
        let end = |found: Vec<Finding>| {
            let text = plain(&report(&Report { cluster: found, nodes: vec![] }));
            text.lines().last().unwrap().to_owned()
        };
        assert_eq!(end(vec![good("API server", "v1.34.4")]), "Nothing is wrong.");
        let unasked = finding("leader", State::Unasked("no".to_owned()));
        let text = "Nothing is wrong with what could be seen; 1 checks could not be made.";
        assert_eq!(end(vec![unasked]), text);
        let bad = finding("leader", State::Bad("none".to_owned(), Remedy::AsSaid));
        assert_eq!(end(vec![bad]), "One thing is wrong.");
    }

    #[test]
    fn what_others_have_written_stays_on_its_line() {
        let text = report(&Report { cluster: vec![good("leader", "a\n\u{1b}[2Jb")], nodes: vec![] });
        assert!(text.contains("a [2Jb\n"), "{text:?}");
    }
}
