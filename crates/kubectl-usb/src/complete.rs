//! What kubectl offers when somebody presses Tab behind `kubectl usb`: commands, flags, and values that are fixed.
//!
//! kubectl runs `kubectl_complete-usb` with the words so far, the last one unfinished. It reads one candidate a line, a tab and
//! what it is for, and after them how to go on: [`NOTHING_ELSE`] or [`FILES`].

use std::fmt::Write as _;

use clap::{Arg, Command};

/// The program's name when it shall complete.
pub(crate) const NAME: &str = "kubectl_complete-usb";

/// Names of files are no candidates.
const NOTHING_ELSE: &str = ":4";
/// Names of files are.
const FILES: &str = ":0";

/// The candidates for the last word, for kubectl.
pub(crate) fn answer(mut command: Command, words: &[String]) -> String {
    // Gives the subcommands what is global.
    command.build();
    let (last, before) = words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let mut at = &command;
    let mut flag: Option<&Arg> = None;
    for word in before {
        let found = flag.is_none().then(|| at.find_subcommand(word)).flatten();
        // The word behind a flag that takes a value is that value.
        flag = if flag.is_some() { None } else { flags(at).find(|flag| takes_a_value(flag) && is_called(flag, word)) };
        at = found.unwrap_or(at);
    }
    let mut answer = String::new();
    let mut offer = |word: &str, about: String| {
        if word.starts_with(last) {
            // What is written to a String is written.
            let _ = writeln!(answer, "{word}\t{about}");
        }
    };
    let text = |about: Option<&clap::builder::StyledStr>| about.map(ToString::to_string).unwrap_or_default();
    if let Some(flag) = flag {
        let values = flag.get_possible_values();
        values.iter().for_each(|value| offer(value.get_name(), text(value.get_help())));
        let path = flag.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == "FILE"));
        return answer + if path { FILES } else { NOTHING_ELSE } + "\n";
    }
    if last.starts_with('-') {
        for flag in flags(at).filter(|flag| !flag.is_hide_set()) {
            flag.get_long().into_iter().for_each(|long| offer(&format!("--{long}"), text(flag.get_help())));
        }
    } else {
        at.get_subcommands().for_each(|command| offer(command.get_name(), text(command.get_about())));
    }
    answer + NOTHING_ELSE + "\n"
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
        let answer = answer(Args::command(), &words);
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
            (&["attach", "webcam", ""], &[]),
            (&["list", "--namespace", ""], &[]),
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
