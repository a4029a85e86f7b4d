//! Colours, and what is said beside. Whatever is printed goes through `anstream`, which leaves them away where there is no terminal.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};

/// As it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Not as it should be.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// On its way, or to be looked at.
pub(crate) const WAITING: Style = AnsiColor::Yellow.on_default();
/// Of little interest.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// Headings and names.
pub(crate) const STRONG: Style = Style::new().bold();
/// As text is.
pub(crate) const PLAIN: Style = Style::new();

/// Says something while somebody waits, on the standard error. Nobody has to hear it.
pub(crate) fn aside(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Text in a style.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
