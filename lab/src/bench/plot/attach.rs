//! Where the time of an attach goes: ours and by hand, one above the other, in the order in which it happens.

use super::results::Bench;
use super::svg::{Anchor, Picture, ticks};
use crate::bench::steps::{Part, STEPS};

const WIDTH: f64 = 860.0;
/// Where bars begin and where the longest may end.
const BARS: (f64, f64) = (96.0, 780.0);
const HEIGHT: f64 = 44.0;
/// Of the bars, from above.
const ROWS: [f64; 2] = [52.0, 108.0];
/// Where the legend begins.
const LEGEND: f64 = 210.0;
const LINE: f64 = 22.0;

/// What is drawn as one: its colour, the colour of figures on it, what it is, and whose part.
const PARTS: [(&str, &str, &str, Part); 8] = [
    ("s1", "on", "API server: the machine's list is changed", Part::Request),
    ("s2", "on", "controller: claim and attachment pod are made", Part::Controller),
    ("s3", "off", "scheduler: claims allocated, pod bound", Part::Scheduler),
    ("s4", "off", "kubelet: calls the agent, which prepares the claims", Part::Prepare),
    ("s5", "off", "agents: call, checks, bind, TLS, hand-over (by hand: usbip bind)", Part::Link),
    ("k1", "on", "kernel: has the device (by hand: usbip attach until then)", Part::Kernel),
    ("s6", "on", "agent and QEMU: it is plugged (by hand: QMP alone)", Part::Qemu),
    ("k2", "on", "guest: sees it, and its word is back", Part::Guest),
];

/// Milliseconds of each of [`PARTS`].
type Bar = [f64; PARTS.len()];

/// The picture; none where no step was measured.
pub(super) fn picture(bench: &Bench) -> Option<String> {
    let (ours, hand) = (ours(bench), by_hand(bench));
    let longest = sum(&ours).max(sum(&hand));
    if sum(&ours) <= 0.0 {
        return None;
    }
    let marks = ticks(longest);
    let scale = (BARS.1 - BARS.0) / marks.last().copied().unwrap_or(longest);
    let mut picture = Picture::new(WIDTH, "Where the time of an attach goes");
    for mark in marks {
        let x = BARS.0 + mark * scale;
        picture.line("grid", (x, 44.0), (x, 164.0));
        picture.text("small", (x, 182.0), Anchor::Middle, &format!("{mark:.0} ms"));
    }
    for ((name, bar), y) in [("Patchbay", &ours), ("by hand", &hand)].into_iter().zip(ROWS) {
        picture.text("", (16.0, y + HEIGHT / 2.0 + 5.0), Anchor::Start, name);
        let mut x = BARS.0;
        for ((class, figure, ..), ms) in PARTS.into_iter().zip(bar) {
            let width = ms * scale;
            // A little less than it is: a seam.
            picture.rect(class, (x, y), ((width - 1.0).max(0.0), HEIGHT));
            if width > 20.0 {
                let place = (x + width / 2.0, y + HEIGHT / 2.0 + 5.0);
                picture.text(figure, place, Anchor::Middle, &format!("{ms:.0}"));
            }
            x += width;
        }
        let total = if sum(bar) > 0.0 { format!("{:.0} ms", sum(bar)) } else { "not measured".to_owned() };
        picture.text("head", (x + 8.0, y + HEIGHT / 2.0 + 5.0), Anchor::Start, &total);
    }
    picture.text("small", (WIDTH - 110.0, LEGEND), Anchor::End, "Patchbay");
    picture.text("small", (WIDTH - 24.0, LEGEND), Anchor::End, "by hand");
    let mut y = LEGEND;
    for ((class, _, what, _), (ours, hand)) in PARTS.into_iter().zip(ours.into_iter().zip(hand)) {
        y += LINE;
        picture.rect(class, (16.0, y - 11.0), (14.0, 14.0));
        picture.text("", (40.0, y), Anchor::Start, what);
        let ms = |ms: f64| if ms > 0.0 { format!("{ms:.0} ms") } else { "-".to_owned() };
        picture.text("", (WIDTH - 110.0, y), Anchor::End, &ms(ours));
        picture.text("", (WIDTH - 24.0, y), Anchor::End, &ms(hand));
    }
    y += LINE + 4.0;
    let note = format!(
        "Medians of each step over {} rounds. Grey: kernel and guest, which any tool has to wait for.",
        bench.rounds
    );
    picture.text("small", (16.0, y), Anchor::Start, &note);
    let label = format!(
        "Where the time of an attach goes: {:.0} ms with Patchbay and {:.0} ms by hand; kernel and guest need most of it.",
        sum(&ours),
        sum(&hand)
    );
    Some(picture.finish(y + 18.0, &label))
}

fn ours(bench: &Bench) -> Bar {
    let step = |(name, _): &(&str, Part)| bench.attach_steps_ms.get(*name).map_or(0.0, |times| known(times.median()));
    PARTS.map(|(.., part)| STEPS.iter().filter(|(_, whose)| *whose == part).map(step).sum())
}

fn by_hand(bench: &Bench) -> Bar {
    let hand = &bench.by_hand;
    PARTS.map(|(.., part)| {
        let times = match part {
            Part::Request | Part::Controller | Part::Scheduler | Part::Prepare => return 0.0,
            Part::Link => &hand.bind,
            Part::Kernel => &hand.link,
            Part::Qemu => &hand.qemu,
            Part::Guest => &hand.guest,
        };
        known(times.median())
    })
}

/// What was not measured has no width.
fn known(ms: f64) -> f64 {
    if ms.is_finite() { ms } else { 0.0 }
}

fn sum(bar: &Bar) -> f64 {
    bar.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plot::results::example;

    #[test]
    fn every_step_has_its_place_in_the_bar_and_none_is_lost() {
        let bench = example();
        let all: f64 = bench.attach_steps_ms.values().map(|times| times.median()).sum();
        assert!((sum(&ours(&bench)) - all).abs() < 1e-6);
        assert!(STEPS.iter().all(|(_, part)| PARTS.iter().any(|(.., drawn)| drawn == part)));
    }

    #[test]
    fn the_picture_has_both_bars_with_their_sums() {
        let svg = picture(&example()).unwrap();
        assert!(svg.contains(">550 ms</text>") && svg.contains(">100 ms</text>"), "{svg}");
    }

    #[test]
    fn what_was_not_measured_by_hand_is_said_so_and_without_steps_there_is_no_picture() {
        let mut bench = example();
        bench.by_hand = crate::bench::byhand::ByHand::default();
        assert!(picture(&bench).unwrap().contains("not measured"));
        bench.attach_steps_ms.clear();
        assert_eq!(picture(&bench), None);
    }
}
