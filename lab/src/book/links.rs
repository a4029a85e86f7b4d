//! Where the links of the documentation lead.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Links of a file that lead nowhere: a file that there is not, or a heading that it does not have. Addresses of other places
/// are not looked at.
///
/// # Errors
/// The file cannot be read.
pub fn broken(file: &Path) -> Result<Vec<String>> {
    let text = read(file)?;
    let folder = file.parent().context("a file is in a folder")?;
    let mut broken = Vec::new();
    for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
        let (Event::Start(Tag::Link { dest_url, .. }) | Event::Start(Tag::Image { dest_url, .. })) = event else {
            continue;
        };
        if dest_url.contains("://") {
            continue;
        }
        let (path, heading) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
        let target = if path.is_empty() { file.to_owned() } else { folder.join(path) };
        let there = target.exists() && (heading.is_empty() || headings(&read(&target)?).iter().any(|h| h == heading));
        if !there {
            broken.push(format!("{}: {dest_url}", file.display()));
        }
    }
    Ok(broken)
}

/// The Markdown files below a folder.
///
/// # Errors
/// It cannot be read.
pub fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pages(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The headings of a page, as links name them.
fn headings(text: &str) -> Vec<String> {
    let (mut found, mut heading) = (Vec::new(), None::<String>);
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(part) | Event::Code(part) if let Some(heading) = &mut heading => heading.push_str(&part),
            Event::End(TagEnd::Heading(_)) => found.extend(heading.take().map(|text| anchor(&text))),
            _ => {}
        }
    }
    found
}

fn anchor(heading: &str) -> String {
    let kept = heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::repository;

    #[test]
    fn headings_are_named_as_in_links() {
        assert_eq!(headings("# What works, and `what` not\n\n## A-b\n"), ["what-works-and-what-not", "a-b"]);
    }

    #[test]
    fn all_links_lead_somewhere() {
        let root = repository();
        let mut files = pages(&root.join("docs")).unwrap();
        files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
        let broken: Vec<_> = files.iter().flat_map(|file| broken(file).unwrap()).collect();
        assert!(broken.is_empty(), "{broken:#?}");
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("page.md");
        std::fs::write(&file, "# Here\n[a](#here) [b](#there) [c](no.md) [d](https://example.com)\n").unwrap();
        let broken = broken(&file).unwrap();
        assert_eq!(broken.len(), 2, "{broken:?}");
    }
}
