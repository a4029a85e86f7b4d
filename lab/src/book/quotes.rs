//! What a page has between quotation marks, and whether a program can say it.
//!
//! A message of the page is like one of the code but for its holes: `...`, a single capital letter, or a number stands for what
//! the code fills in.

use std::path::Path;

use anyhow::{Context, Result};

/// Shorter pieces between two holes say nothing.
const LEAST: usize = 4;

/// The texts between quotation marks, on one line each.
#[must_use]
pub fn quotes(page: &str) -> Vec<String> {
    page.split('"').skip(1).step_by(2).map(folded).collect()
}

/// The pieces of a message between its holes.
#[must_use]
pub fn pieces(message: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut word = String::new();
    for c in message.replace("...", "\n").chars().chain(['\n']) {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        let hole = word.bytes().all(|b| b.is_ascii_digit())
            || (word.len() == 1 && word.bytes().all(|b| b.is_ascii_uppercase()));
        match (std::mem::take(&mut word), pieces.last_mut()) {
            (word, _) if hole && !word.is_empty() => pieces.push(String::new()),
            (word, Some(piece)) => piece.push_str(&word),
            (_, None) => {}
        }
        match pieces.last_mut() {
            Some(piece) if c != '\n' => piece.push(c),
            _ => pieces.push(String::new()),
        }
    }
    let trimmed = pieces.iter().map(|piece| piece.trim_matches(|c: char| " ,:;()./".contains(c)).to_owned());
    trimmed.filter(|piece| piece.len() >= LEAST).collect()
}

/// All text of the files below a folder with one of these endings, on one line, strings that go on in the next line put together.
///
/// # Errors
/// Something cannot be read.
pub fn sources(folder: &Path, endings: &[&str]) -> Result<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            text.push_str(&sources(&path, endings)?);
        } else if path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending)) {
            let one = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let joined: String =
                one.split("\\\n").enumerate().map(|(n, part)| if n == 0 { part } else { part.trim_start() }).collect();
            text.push_str(&folded(&joined));
            text.push('\n');
        }
    }
    Ok(text)
}

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::repository;

    #[test]
    fn a_message_is_taken_apart_at_its_holes() {
        let expected = ["node", "uses the device itself: a file system on it is mounted at", "unmount it there"];
        let message = "node N uses the device itself: a file system on it is mounted at P; unmount it there ...";
        assert_eq!(pieces(message), expected);
        assert_eq!(pieces("/sys/bus/P/authorized is 0"), ["sys/bus", "authorized is"]);
        assert_eq!(pieces("all 8 USB 2.0 USB/IP ports are in use"), ["USB/IP ports are in use"]);
        assert_eq!(quotes("a \"b\nc\" d \"e\""), ["b c", "e"]);
    }

    #[test]
    fn what_the_page_of_troubles_quotes_the_programs_say() {
        let mut said = sources(&repository().join("charts/patchbay/templates"), &["yaml", "tpl"]).unwrap();
        for entry in std::fs::read_dir(repository().join("crates")).unwrap() {
            said.push_str(&sources(&entry.unwrap().path().join("src"), &["rs"]).unwrap());
        }
        let page = std::fs::read_to_string(repository().join("docs/troubleshooting.md")).unwrap();
        let quotes = quotes(&page);
        assert!(quotes.len() > 40, "{quotes:?}");
        let wrong: Vec<_> = quotes
            .iter()
            .flat_map(|quote| pieces(quote).into_iter().map(move |piece| (piece, quote)))
            .filter(|(piece, _)| !said.contains(piece.as_str()))
            .collect();
        assert!(wrong.is_empty(), "nobody says: {wrong:#?}");
    }
}
