//! For how long a guest is without its device while its machine moves: each move, their range and their median.

use super::svg::{Anchor, Picture, ticks};
use crate::bench::figures::Times;
use crate::bench::moves::Moves;

const WIDTH: f64 = 860.0;
/// Where the axis begins and ends.
const AXIS: (f64, f64) = (150.0, 800.0);
/// The upper end of the first row, and from row to row.
const FIRST: f64 = 66.0;
const ROW: f64 = 62.0;
const MS: f64 = 1000.0;

/// The picture; none where nothing has moved.
pub(super) fn picture(moves: &[Moves]) -> Option<String> {
    let longest = moves.iter().map(|moves| moves.whole.worst().max(moves.gap.worst())).fold(f64::NAN, f64::max);
    let marks = ticks(Some(longest).filter(|longest| longest.is_finite())? / MS);
    let scale = (AXIS.1 - AXIS.0) / (marks.last()? * MS);
    let mut rows = 0.0;
    moves.iter().for_each(|_| rows += ROW);
    let end = FIRST + rows;
    let mut picture = Picture::new(WIDTH, "A machine moves: for how long its guest is without the device");
    for mark in marks {
        let x = AXIS.0 + mark * MS * scale;
        picture.line("grid", (x, FIRST - 14.0), (x, end));
        picture.text("small", (x, end + 18.0), Anchor::Middle, &format!("{mark} s"));
    }
    let mut y = FIRST + 12.0;
    for moves in moves {
        picture.text("", (16.0, y + 12.0), Anchor::Start, &moves.way);
        range(&mut picture, &moves.gap, ("range", "s2"), y, scale);
        range(&mut picture, &moves.whole, ("range2", "k1"), y + 22.0, scale);
        y += ROW;
    }
    let y = end + 44.0;
    for (class, x, what) in
        [("s2", 16.0, "the guest is without the device"), ("k1", 270.0, "the whole move, from the request")]
    {
        picture.dot(class, (x + 6.0, y - 4.0), 5.0);
        picture.text("", (x + 20.0, y), Anchor::Start, what);
    }
    let note = "A dot is a move; the bar their range, the mark their median.";
    picture.text("small", (16.0, y + 24.0), Anchor::Start, note);
    let said = moves.iter().map(|moves| format!("{} {:.1} s", moves.way, moves.gap.median() / MS));
    let label = format!("Medians of the time without the device: {}.", said.collect::<Vec<_>>().join(", "));
    Some(picture.finish(y + 42.0, &label))
}

fn range(picture: &mut Picture, times: &Times, (line, dot): (&str, &str), y: f64, scale: f64) {
    let x = |ms: f64| AXIS.0 + ms * scale;
    if times.each().is_empty() {
        return;
    }
    picture.line(line, (x(times.best()), y), (x(times.worst()), y));
    times.each().iter().for_each(|ms| picture.dot(dot, (x(*ms), y), 3.5));
    let middle = x(times.median());
    picture.line("middle", (middle, y - 9.0), (middle, y + 9.0));
    picture.text("small", (x(times.worst()) + 14.0, y + 4.0), Anchor::Start, &format!("{:.1} s", times.median() / MS));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plot::results::example;

    #[test]
    fn each_move_is_a_dot_and_each_kind_has_its_median() {
        let moves = example().migrations;
        let svg = picture(&moves).unwrap();
        let dots: usize = moves.iter().map(|moves| moves.gap.each().len() + moves.whole.each().len()).sum();
        // And two in the legend.
        assert_eq!(svg.matches("<circle").count(), dots + 2);
        assert!(svg.contains("remote to remote 2.9 s"), "{svg}");
    }

    #[test]
    fn without_moves_there_is_no_picture() {
        assert_eq!(picture(&[]), None);
        assert_eq!(picture(&[Moves::default()]), None);
    }
}
