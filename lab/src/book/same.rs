//! Whether a command printed what a page shows.
//!
//! Nobody can know the five characters at the end of a name, or how old something is. So a name of the page stands for one of the
//! cluster, the same each time; ages stand for any age, a guest's bus and port for any, `...` alone in a line for any lines, and the
//! space between words for any.

use std::collections::BTreeMap;

/// Names of the page, and what they stand for.
#[derive(Debug, Clone, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// Says what a text of the page stands for.
    pub fn insert(&mut self, shown: &str, real: &str) {
        self.0.insert(shown.to_owned(), real.to_owned());
    }

    /// A text of the page in words of the cluster. Longer names go first, because one may be a part of another.
    #[must_use]
    pub fn translate(&self, text: &str) -> String {
        let mut names: Vec<_> = self.0.iter().collect();
        names.sort_by_key(|(shown, _)| std::cmp::Reverse(shown.len()));
        names.into_iter().fold(text.to_owned(), |text, (shown, real)| text.replace(shown, real))
    }

    /// Compares. When all is the same, names that the page shows for the first time are learned.
    ///
    /// # Errors
    /// The first line of the page that was not printed; or what was printed beyond the page.
    pub fn compare(&mut self, shown: &[String], printed: &str) -> Result<(), String> {
        let mut learned = self.clone();
        let mut printed = printed.lines().filter(|line| !line.trim().is_empty());
        let mut any = false;
        for line in shown.iter().filter(|line| !line.trim().is_empty()) {
            if line.trim() == "..." {
                any = true;
                continue;
            }
            let found = if any {
                printed.any(|real| learned.line(line, real))
            } else {
                printed.next().is_some_and(|real| learned.line(line, real))
            };
            if !found {
                return Err(format!("no line is like\n  {}", learned.translate(line)));
            }
            any = false;
        }
        match printed.next() {
            Some(line) if !any => return Err(format!("the page does not show\n  {line}")),
            _ => {}
        }
        *self = learned;
        Ok(())
    }

    /// Whether a line is the same. Only then are its names learned.
    fn line(&mut self, shown: &str, real: &str) -> bool {
        let mut learned = self.clone();
        let (mut left, mut right) = (shown.split_whitespace(), real.split_whitespace());
        let mut before = "";
        loop {
            match (left.next(), right.next()) {
                (Some(left), Some(right)) if learned.word(left, right) => before = left,
                (Some(left), Some(right))
                    if matches!(before, "bus" | "port") && is_number(left) && is_number(right) =>
                {
                    before = left
                }
                (None, None) => break,
                _ => return false,
            }
        }
        *self = learned;
        true
    }

    fn word(&mut self, shown: &str, real: &str) -> bool {
        if self.translate(shown) == real || (is_age(shown) && is_age(real)) {
            return true;
        }
        // `vm/name-k3f9a,` and `blue/usb-name-k3f9a-1a2b3c`: part for part.
        let parts =
            |word: &str| word.split(['/', ',', ':', ';', '"', '\'', '(', ')']).map(str::to_owned).collect::<Vec<_>>();
        let (left, right) = (parts(shown), parts(real));
        left.len() == right.len() && left.iter().zip(&right).all(|(left, right)| self.name(left, right))
    }

    fn name(&mut self, shown: &str, real: &str) -> bool {
        if self.translate(shown) == real || (is_age(shown) && is_age(real)) {
            return true;
        }
        let (Some((head, end)), Some((real_head, real_end))) = (shown.rsplit_once('-'), real.rsplit_once('-')) else {
            return false;
        };
        let random =
            |end: &str| matches!(end.len(), 5 | 6) && end.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let same = random(end) && end.len() == real_end.len() && random(real_end) && self.translate(head) == real_head;
        if same && !self.0.contains_key(shown) {
            self.insert(shown, real);
            return true;
        }
        false
    }
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_digit())
}

/// `7s`, `5m3s`, `2d`.
fn is_age(word: &str) -> bool {
    let units = word.chars().filter(|c| matches!(c, 's' | 'm' | 'h' | 'd')).count();
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let begins = word.starts_with(|c: char| c.is_ascii_digit()) && word.ends_with(['s', 'm', 'h', 'd']);
    begins && units + digits == word.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_name_of_the_page_stands_for_one_of_the_cluster() {
        let mut names = Names::default();
        names.compare(&lines("NAME  AGE\nstick-k3f9a   3s"), "NAME AGE\nstick-22wvd 1m2s\n").unwrap();
        assert_eq!(names.translate("kubectl usb why stick-k3f9a"), "kubectl usb why stick-22wvd");
        names.compare(&lines("pod blue/usb-stick-k3f9a-1a2b3c"), "pod blue/usb-stick-22wvd-ffffff").unwrap();
        // Another one under the same name is none.
        assert!(names.compare(&lines("stick-k3f9a"), "stick-aaaaa").is_err());
        // And neither is another kind of thing.
        assert!(names.compare(&lines("modem-k3f9a"), "webcam-22wvd").is_err());
        assert!(names.compare(&lines("3s"), "3").is_err());
        names.compare(&lines("guest bus 0 port 3"), "guest bus 0 port 12").unwrap();
        names.compare(&lines("guest bus 0 port 3"), "guest bus 1 port 9").unwrap();
        assert!(names.compare(&lines("guest bus 0 port 3"), "guest bus 0 port none").is_err());
    }

    #[test]
    fn dots_are_any_lines_and_everything_else_is_one() {
        let mut names = Names::default();
        names.compare(&lines("a\n...\nc"), "a\nb\nb\nc\n").unwrap();
        names.compare(&lines("a\n..."), "a\nb\n").unwrap();
        for (shown, printed) in [("a", "a\nb\n"), ("a\nb", "a\n"), ("a\n...\nd", "a\nb\n"), ("", "a"), ("a b", "a")] {
            assert!(names.compare(&lines(shown), printed).is_err(), "{shown:?} {printed:?}");
        }
    }

    #[test]
    fn what_is_not_the_same_teaches_nothing() {
        let mut names = Names::default();
        assert!(names.compare(&lines("stick-k3f9a True"), "stick-22wvd False").is_err());
        names.compare(&lines("stick-k3f9a True"), "stick-33wvd True").unwrap();
    }
}
