//! Tables in Markdown, which read well as they are.

/// A table with a heading; figures stand at the right of their columns, words (the first and the last column) at the left.
pub(super) fn table(heading: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let columns = heading.len();
    let all: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default().max(2)
    };
    let is_words = |column: usize| column == 0 || column + 1 == columns;
    let line = |row: &Vec<String>| {
        let cell = |(column, cell): (usize, &String)| {
            let width = width(column);
            if is_words(column) { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") }
        };
        format!("|{}", row.iter().enumerate().map(cell).collect::<String>())
    };
    let rule = |column: usize| {
        let dashes = "-".repeat(width(column) + 1);
        if is_words(column) { format!("{dashes}-|") } else { format!("{dashes}:|") }
    };
    let rule = format!("|{}", (0..columns).map(rule).collect::<String>());
    let mut lines: Vec<String> = all.iter().map(line).collect();
    lines.insert(1.min(lines.len()), rule);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_below_each_other() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = table(row(["", "median", "aim"]), [row(["attach", "9 ms", "met"]), row(["detach", "1234 ms", ""])]);
        assert_eq!(
            table,
            "|        |  median | aim |\n\
             |--------|--------:|-----|\n\
             | attach |    9 ms | met |\n\
             | detach | 1234 ms |     |\n"
        );
    }
}
