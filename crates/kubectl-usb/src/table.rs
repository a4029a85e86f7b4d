//! Tables: aligned columns, as kubectl prints them.

use anstyle::Style;
use patchbay_core::device::clean;

use crate::style::{PLAIN, paint};

/// The longest text of a cell, in bytes.
const LONGEST: usize = 512;

/// What stands for nothing.
const NOTHING: &str = "-";

/// Spaces between columns.
const GAP: usize = 3;

/// Text as one line, cleaned of what could move the cursor.
pub(crate) fn line(text: &str) -> String {
    clean(text, LONGEST).unwrap_or_else(|| NOTHING.to_owned())
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Text in a style. What a device or another program has written cannot move the cursor.
    pub(crate) fn new(text: &str, style: Style) -> Self {
        Self { text: line(text), style }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, PLAIN)
    }
}

impl From<Option<&str>> for Cell {
    fn from(text: Option<&str>) -> Self {
        Self::new(text.unwrap_or_default(), PLAIN)
    }
}

/// The widths of columns, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Columns(Vec<usize>);

impl Columns {
    /// Makes room for a line.
    fn fit(&mut self, row: &[Cell]) {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.text.chars().count();
            match self.0.get_mut(column) {
                Some(widest) => *widest = (*widest).max(width),
                None => self.0.push(width),
            }
        }
    }

    /// A line, for which columns become wider where they have to. Nothing is behind its last cell.
    pub(crate) fn line(&mut self, row: &[Cell]) -> String {
        self.fit(row);
        let mut text = String::new();
        for (column, (cell, width)) in row.iter().zip(&self.0).enumerate() {
            text.push_str(&paint(cell.style, &cell.text));
            if column + 1 < row.len() {
                text.push_str(&" ".repeat(width - cell.text.chars().count() + GAP));
            }
        }
        text.push('\n');
        text
    }

    /// Lines that are known all at once.
    pub(crate) fn lines(&mut self, rows: &[Vec<Cell>]) -> String {
        rows.iter().for_each(|row| self.fit(row));
        rows.iter().map(|row| self.line(row)).collect()
    }
}

/// Lines of cells, the first of which are the headings.
pub(crate) fn render(rows: &[Vec<Cell>]) -> String {
    Columns::default().lines(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::BAD;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["NAME".into(), "NODE".into()], vec!["a-long-name".into(), Cell::new("", BAD)]];
        let text = anstream::adapter::strip_str(&render(&rows)).to_string();
        assert_eq!(text, "NAME          NODE\na-long-name   -\n");
    }

    #[test]
    fn a_device_cannot_write_to_the_terminal() {
        assert_eq!(Cell::from("A\u{1b}[31mB\n").text, "A [31mB");
    }
}
