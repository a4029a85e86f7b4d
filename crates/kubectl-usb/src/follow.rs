//! `watch`: one line for each change of what `list` shows.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::list::Row;
use crate::style::{FAINT, STRONG};
use crate::table::{Cell, Columns};

/// Says what has changed since it was last said.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    columns: Columns,
    known: BTreeMap<String, Vec<Cell>>,
    /// While all are told anew: those that were not told yet.
    missing: BTreeSet<String>,
    /// Until all were told for the first time: the lines, which then get common columns.
    first: Vec<Vec<Cell>>,
    begun: bool,
}

impl Follow {
    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// All are told anew: what is not among them is gone.
    pub(crate) fn begin(&mut self) {
        self.missing = self.known.keys().cloned().collect();
    }

    /// All have been told: the headings and how it is, or what has vanished meanwhile.
    pub(crate) fn end(&mut self, now: Timestamp) -> String {
        if !self.begun {
            self.begun = true;
            let head = std::iter::once("TIME").chain(Row::HEAD).chain(["MESSAGE"]);
            let head = head.map(|text| Cell::new(text, STRONG)).collect();
            let lines: Vec<_> = std::iter::once(head).chain(std::mem::take(&mut self.first)).collect();
            return self.columns.lines(&lines);
        }
        std::mem::take(&mut self.missing).iter().map(|name| self.gone(name, now)).collect()
    }

    /// A device is like this: a line, unless that was said.
    pub(crate) fn is(&mut self, row: &Row, now: Timestamp) -> String {
        let name = row.name().to_owned();
        self.missing.remove(&name);
        let cells = row.told();
        if self.known.get(&name) == Some(&cells) {
            return String::new();
        }
        let line = self.line(now, &cells);
        self.known.insert(name, cells);
        line
    }

    /// A device is no more.
    pub(crate) fn gone(&mut self, name: &str, now: Timestamp) -> String {
        if self.known.remove(name).is_none() {
            return String::new();
        }
        let mut cells = vec![Cell::from(name)];
        cells.resize(Row::HEAD.len(), Cell::from(""));
        cells.push(Cell::new("forgotten", FAINT));
        self.line(now, &cells)
    }

    fn line(&mut self, now: Timestamp, cells: &[Cell]) -> String {
        let time = Cell::new(&now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), FAINT);
        let cells: Vec<_> = std::iter::once(time).chain(cells.iter().cloned()).collect();
        if !self.begun {
            self.first.push(cells);
            return String::new();
        }
        self.columns.line(&cells)
    }
}

#[cfg(test)]
mod tests {
    use patchbay_api::NodeUSBDevice;

    use super::*;
    use crate::samples::{condition, node_device, plain};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn attached(status: &str, reason: &str, message: &str) -> NodeUSBDevice {
        let mut object = node_device("webcam", 1, Some("blue"));
        let ready = condition("Ready", "True", "Ready", "Device is ready to use");
        let attached = condition("Attached", status, reason, message);
        object.status.get_or_insert_default().conditions = Some(vec![ready, attached]);
        object
    }

    #[test]
    fn each_change_has_a_line_and_nothing_else_has() {
        let mut follow = Follow::default();
        follow.begin();
        let free = attached("False", "Available", "Device is available for attachment");
        let mut text = follow.is(&Row::from(&free), at(0));
        text += &follow.end(at(1));
        text += &follow.is(&Row::from(&free), at(1));
        let full = "all 8 USB 2.0 USB/IP ports of node node-2 are in use";
        text += &follow.is(&Row::from(&attached("False", "NoFreeUSBIPPort", full)), at(2));
        text += &follow.gone("webcam", at(3));
        text += &follow.gone("webcam", at(4));
        let expected = "\
TIME                   NAME     NODE     PORT   NAMESPACE   USED BY   READY   ATTACHED   MESSAGE
1970-01-01T00:00:00Z   webcam   node-1   1-1    blue        -         True    False      Device is available for attachment
1970-01-01T00:00:02Z   webcam   node-1   1-1    blue        -         True    NoFreeUSBIPPort   all 8 USB 2.0 USB/IP ports of node node-2 are in use
1970-01-01T00:00:03Z   webcam   -        -      -           -         -       -                 forgotten
";
        assert_eq!(plain(&text), expected);
    }

    #[test]
    fn what_vanishes_while_nobody_looks_is_told_when_somebody_looks_again() {
        let mut follow = Follow::default();
        let rows = ["disk", "webcam"].map(|name| Row::from(&node_device(name, 1, None)));
        follow.begin();
        let told = rows.iter().map(|row| follow.is(row, at(0))).collect::<String>();
        assert_eq!((told.as_str(), follow.end(at(0)).lines().count()), ("", 3));
        follow.begin();
        assert_eq!(follow.is(&rows[1], at(1)), "");
        let text = plain(&follow.end(at(1)));
        assert!(text.starts_with("1970-01-01T00:00:01Z   disk ") && text.ends_with("forgotten\n"), "{text}");
    }
}
