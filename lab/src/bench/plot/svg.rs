//! Pictures as SVG: readable in light and in dark, their text is text, and they ask for nothing elsewhere.

use std::fmt::Write as _;

/// Colours by what they are for. `s1` to `s6` are ours and differ from `k1` and `k2`, which nobody can do without.
const STYLE: &str = "\
    .card { fill: #ffffff; } text { fill: #1f2328; font: 13px system-ui, sans-serif; } .small { font-size: 12px; fill: #57606a; }
    .head { font-weight: 600; font-size: 15px; } .grid { stroke: #d8dee4; } .axis { stroke: #8792a2; }
    .s1 { fill: #0a3069; } .s2 { fill: #0969da; } .s3 { fill: #54aeff; } .s4 { fill: #9fd0ff; } .s5 { fill: #e16f24; }
    .s6 { fill: #8250df; } .k1 { fill: #57606a; } .k2 { fill: #8c959f; }
    .on { fill: #ffffff; font-weight: 600; } .off { fill: #1f2328; font-weight: 600; }
    .line { stroke: #0969da; stroke-width: 2.5; fill: none; } .range { stroke: #0969da; stroke-width: 10; stroke-linecap: round; opacity: 0.35; }
    .range2 { stroke: #57606a; stroke-width: 10; stroke-linecap: round; opacity: 0.35; } .middle { stroke: #1f2328; stroke-width: 2.5; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; } text { fill: #e6edf3; } .small { fill: #9198a1; } .grid { stroke: #262c36; } .axis { stroke: #6e7681; }
      .s1 { fill: #1158c7; } .s2 { fill: #388bfd; } .s3 { fill: #79c0ff; } .s4 { fill: #cae8ff; } .s5 { fill: #f0883e; }
      .s6 { fill: #8957e5; } .k1 { fill: #6e7681; } .k2 { fill: #484f58; }
      .on { fill: #ffffff; } .off { fill: #0d1117; }
      .line, .range { stroke: #388bfd; } .range2 { stroke: #9198a1; } .middle { stroke: #e6edf3; }
    }";

/// Where a text stands relative to its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A picture in the making. Lengths are in pixels, from the upper left corner.
#[derive(Debug)]
pub(super) struct Picture {
    width: f64,
    body: String,
}

impl Picture {
    /// An empty one with a heading.
    pub(super) fn new(width: f64, heading: &str) -> Self {
        let mut picture = Self { width, body: String::new() };
        picture.text("head", (16.0, 28.0), Anchor::Start, heading);
        picture
    }

    /// A filled rectangle: its left upper corner, and how wide and high it is.
    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let (x, y, width, height) = (number(x), number(y), number(width), number(height));
        self.put(&format!(r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#));
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.path(class, &[from, to]);
    }

    /// Straight lines from point to point.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{} {}", number(*x), number(*y))).collect();
        self.put(&format!(r#"<path class="{class}" d="M{}"/>"#, points.join(" L")));
    }

    /// A dot.
    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        let (x, y, radius) = (number(x), number(y), number(radius));
        self.put(&format!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="{radius}"/>"#));
    }

    /// A text. `place` is on the line on which it is written.
    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let (x, y, text) = (number(x), number(y), escaped(text));
        self.put(&format!(r#"<text class="{class}" x="{x}" y="{y}"{anchor}>{text}</text>"#));
    }

    /// The file. `label` says in words what is to be seen.
    pub(super) fn finish(self, height: f64, label: &str) -> String {
        let (width, height, label) = (number(self.width), number(height), escaped(label));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">\n  \
             <style>\n{STYLE}\n  </style>\n  <rect class=\"card\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn put(&mut self, element: &str) {
        let _ = writeln!(self.body, "  {element}");
    }
}

/// As short as a tenth of a pixel permits.
fn number(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Marks of an axis from 0 that ends at `most` or a little later: at round figures, at most eight of them.
pub(super) fn ticks(most: f64) -> Vec<f64> {
    let rough = most.max(1e-9) / 8.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
    let mut ticks = vec![0.0];
    while let Some(last) = ticks.last().copied().filter(|last| *last < most) {
        ticks.push(last + step);
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_round_marks_and_reaches_beyond_the_largest_figure() {
        assert_eq!(ticks(918.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(ticks(8.0), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert!(ticks(0.0).len() <= 10);
    }

    #[test]
    fn what_is_written_is_text_and_no_markup() {
        let mut picture = Picture::new(100.0, "a < b & c");
        picture.rect("s1", (1.0, 2.25), (3.0, 4.0));
        let svg = picture.finish(50.0, "\"quoted\"");
        assert!(svg.contains(">a &lt; b &amp; c</text>") && svg.contains("&quot;quoted&quot;"), "{svg}");
        assert!(svg.contains(r#"<rect class="s1" x="1" y="2.2" width="3" height="4"/>"#), "{svg}");
        // Nothing is fetched: the only address is the name of the language.
        assert_eq!(svg.matches("http").count(), 1);
    }
}
