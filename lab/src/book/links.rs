//! Where the links of the documentation lead.

use std::path::{Component, Path, PathBuf};

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
    for dest_url in links(&text) {
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

/// What is wrong with the folder of a book, beside [`broken`] links: a page that its `SUMMARY.md` does not name, and a link out of the
/// folder, which leads nowhere once the book is built. Such a file is named as a path of the repository instead.
///
/// # Errors
/// A file cannot be read.
pub fn outside(book: &Path) -> Result<Vec<String>> {
    let summary = book.join("SUMMARY.md");
    let named: Vec<_> = links(&read(&summary)?).into_iter().map(|link| book.join(link)).collect();
    let mut wrong = Vec::new();
    for page in pages(book)?.into_iter().filter(|page| *page != summary) {
        if !named.contains(&page) {
            wrong.push(format!("{}: not in SUMMARY.md", page.display()));
        }
        let folder = page.parent().and_then(|folder| folder.strip_prefix(book).ok()).unwrap_or(Path::new(""));
        let depth = folder.components().count();
        for link in links(&read(&page)?) {
            let up = Path::new(&link).components().filter(|part| *part == Component::ParentDir).count();
            if up > depth && !link.contains("://") {
                wrong.push(format!("{}: {link} is not in the book", page.display()));
            }
        }
    }
    Ok(wrong)
}

/// Where the links and pictures of a page lead.
fn links(text: &str) -> Vec<String> {
    let all = Parser::new_ext(text, Options::ENABLE_TABLES);
    let targets = all.filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => Some(dest_url.into_string()),
        _ => None,
    });
    targets.collect()
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
    fn every_page_is_in_the_book_and_none_leads_out_of_it() {
        let wrong = outside(&repository().join("docs")).unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn a_page_that_was_left_out_and_a_link_out_of_the_book_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = folder.path().join("tasks");
        std::fs::create_dir(&tasks).unwrap();
        std::fs::write(folder.path().join("SUMMARY.md"), "# Summary\n\n- [One](tasks/one.md)\n").unwrap();
        std::fs::write(
            tasks.join("one.md"),
            "[in](../two.md) [out](../../README.md) [web](https://a.example/../../..)\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("two.md"), "[out](../README.md)\n").unwrap();
        let wrong = outside(folder.path()).unwrap();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
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
