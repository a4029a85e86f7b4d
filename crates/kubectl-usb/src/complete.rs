//! What kubectl offers when somebody presses Tab behind `kubectl usb`: commands, flags, values that are fixed, and names.
//!
//! kubectl runs `kubectl_complete-usb` with the words so far, the last one unfinished. It reads one candidate a line, a tab and
//! what it is for, and after them how to go on: [`NOTHING_ELSE`] or [`FILES`].

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Arg, Command};

use crate::args::Connection;

/// The program's name when it shall complete.
pub(crate) const NAME: &str = "kubectl_complete-usb";

/// Nobody waits longer for a name than it takes to type it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Names of files are no candidates.
const NOTHING_ELSE: &str = ":4";
/// Names of files are.
const FILES: &str = ":0";

/// Names that the cluster has, or the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Of devices.
    Devices,
    /// Of virtual machines in the namespace.
    Machines,
    /// Of both, those of machines with `vm/` before them.
    DevicesAndMachines,
    /// Of namespaces.
    Namespaces,
    /// Reasons of conditions and Events.
    Reasons,
}

/// The candidates for the last word, for kubectl. `names` tells those that the line cannot know, of the cluster that the line is
/// about.
pub(crate) fn answer(
    mut command: Command,
    words: &[String],
    names: impl FnOnce(Names, Connection) -> Vec<String>,
) -> String {
    // Gives the subcommands what is global.
    command.build();
    let (last, before) = words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let mut at = &command;
    let mut flag: Option<&Arg> = None;
    let mut positionals = 0;
    let mut connection = Connection { namespace: None, context: None, kubeconfig: None, request_timeout: PATIENCE };
    for word in before {
        // The word behind a flag that takes a value is that value.
        if let Some(flag) = flag.take() {
            match flag.get_id().as_str() {
                "namespace" => connection.namespace = Some(word.clone()),
                "context" => connection.context = Some(word.clone()),
                "kubeconfig" => connection.kubeconfig = Some(word.into()),
                _ => {}
            }
        } else if word.starts_with('-') {
            flag = flags(at).find(|flag| takes_a_value(flag) && is_called(flag, word));
        } else if let Some(found) = at.find_subcommand(word) {
            at = found;
        } else {
            positionals += 1;
        }
    }
    let mut answer = String::new();
    let mut offer = |word: &str, about: String| {
        if word.starts_with(last) {
            // What is written to a String is written.
            let _ = writeln!(answer, "{word}\t{about}");
        }
    };
    let text = |about: Option<&clap::builder::StyledStr>| about.map(ToString::to_string).unwrap_or_default();
    if flag.is_none() && last.starts_with('-') {
        for flag in flags(at).filter(|flag| !flag.is_hide_set()) {
            flag.get_long().into_iter().for_each(|long| offer(&format!("--{long}"), text(flag.get_help())));
        }
        return answer + NOTHING_ELSE + "\n";
    }
    let Some(wanted) = flag.or_else(|| at.get_positionals().nth(positionals)) else {
        at.get_subcommands().for_each(|command| offer(command.get_name(), text(command.get_about())));
        return answer + NOTHING_ELSE + "\n";
    };
    let values = wanted.get_possible_values();
    values.iter().for_each(|value| offer(value.get_name(), text(value.get_help())));
    let of = kind(wanted).map(|kind| names(kind, connection)).unwrap_or_default();
    of.iter().for_each(|name| offer(name, String::new()));
    answer + if is_value(wanted, "FILE") { FILES } else { NOTHING_ELSE } + "\n"
}

/// What an argument names.
fn kind(wanted: &Arg) -> Option<Names> {
    let kinds = [
        ("DEVICE", Names::Devices),
        ("VM", Names::Machines),
        ("DEVICE|VM", Names::DevicesAndMachines),
        ("NAMESPACE", Names::Namespaces),
        ("REASON", Names::Reasons),
    ];
    let of_value = kinds.into_iter().find(|(value, _)| is_value(wanted, value)).map(|(_, kind)| kind);
    of_value.or((wanted.get_id() == "namespace").then_some(Names::Namespaces))
}

fn is_value(argument: &Arg, name: &str) -> bool {
    argument.get_value_names().is_some_and(|names| names.iter().any(|value| value.as_str() == name))
}

fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|argument| !argument.is_positional())
}

fn takes_a_value(flag: &Arg) -> bool {
    flag.get_action().takes_values()
}

fn is_called(flag: &Arg, word: &str) -> bool {
    let long = flag.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long));
    long || flag.get_short().is_some_and(|short| word.strip_prefix('-') == Some(short.to_string().as_str()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Args;

    fn offered(words: &[&str]) -> (Vec<String>, String) {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let names = |kind, connection: Connection| {
            vec![format!("{kind:?}-of-{}", connection.namespace.unwrap_or_default()), "other".to_owned()]
        };
        let answer = answer(Args::command(), &words, names);
        let mut lines: Vec<_> =
            answer.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect();
        let end = lines.pop().unwrap();
        (lines, end)
    }

    #[test]
    fn commands_flags_and_values_are_offered_where_they_may_stand() {
        for (words, expected) in [
            (&["wa"][..], &["watch"][..]),
            (&["-n", "list", "at"], &["attach"]),
            (&["list", "-o", "w"], &["wide"]),
            (&["list", "--output", "y"], &["yaml"]),
            (&["list", "--al"], &["--all-namespaces"]),
            (&["attach", "--wa"], &["--wait"]),
            (&["attach", "--kubec"], &["--kubeconfig"]),
            (&["attach", "--timeout", ""], &[]),
            (&["list", ""], &[]),
            (&["attach", "De"], &["Devices-of-"]),
            (&["attach", "webcam", "Ma"], &["Machines-of-"]),
            (&["-n", "blue", "attach", "--wait", "webcam", "Ma"], &["Machines-of-blue"]),
            (&["assign", "webcam", "Na"], &["Namespaces-of-"]),
            (&["list", "--namespace", "Na"], &["Namespaces-of-"]),
            (&["why", "-n", "blue", ""], &["DevicesAndMachines-of-blue", "other"]),
            (&["explain", "Re"], &["Reasons-of-"]),
            (&["attach", "webcam", "linux-vm", ""], &[]),
        ] {
            let (words_offered, end) = offered(words);
            assert_eq!(
                (words_offered.as_slice(), end.as_str()),
                (expected.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>().as_slice(), NOTHING_ELSE),
                "{words:?}"
            );
        }
        assert!(offered(&[""]).0.contains(&"why".to_owned()) && !offered(&[]).0.is_empty());
    }

    #[test]
    fn a_file_is_wanted_where_a_flag_takes_one() {
        for words in [&["list", "--kubeconfig", ""][..], &["sysdump", "-o", "a"]] {
            assert_eq!(offered(words), (Vec::new(), FILES.to_owned()), "{words:?}");
        }
    }
}
