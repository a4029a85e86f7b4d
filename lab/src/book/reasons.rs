//! Reasons of conditions in the documentation, and those that the code has.
//!
//! A condition is written `Type=Status/Reason` in code. The page of troubles ends with a table of all reasons: the condition, whose
//! it is, the reasons when it is true, and those when it is false.

use std::collections::BTreeSet;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A condition as a page shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// Its type.
    pub kind: String,
    /// Whether it is true.
    pub truth: bool,
    /// Its reason.
    pub reason: String,
}

/// The conditions that a page shows as `Type=Status/Reason`.
#[must_use]
pub fn conditions(page: &str) -> BTreeSet<Shown> {
    let parser = Parser::new_ext(page, Options::ENABLE_TABLES);
    parser.filter_map(|event| if let Event::Code(code) = event { condition(&code) } else { None }).collect()
}

fn condition(code: &str) -> Option<Shown> {
    let (kind, rest) = code.split_once('=')?;
    let (status, reason) = rest.split_once('/')?;
    let truth = match status {
        "True" => true,
        "False" => false,
        _ => return None,
    };
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic());
    (word(kind) && word(reason)).then(|| Shown { kind: kind.to_owned(), truth, reason: reason.to_owned() })
}

/// What the table under a heading has: code in its first column is the condition, in its third reasons when it is true, in its
/// fourth reasons when it is false.
#[must_use]
pub fn table(page: &str, heading: &str) -> BTreeSet<Shown> {
    let (mut found, mut here, mut title) = (BTreeSet::new(), false, None::<String>);
    let (mut column, mut kind) = (0_usize, String::new());
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => title = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => here = title.take().is_some_and(|title| title == heading),
            Event::Text(text) if let Some(title) = &mut title => title.push_str(&text),
            Event::Start(Tag::TableRow) => column = 0,
            Event::End(TagEnd::TableCell) => column += 1,
            Event::Code(code) if here && column == 0 => kind = code.to_string(),
            Event::Code(code) if here && column >= 2 => {
                found.insert(Shown { kind: kind.clone(), truth: column == 2, reason: code.to_string() });
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use patchbay_core::conditions::{ConditionType, Reason};

    use super::*;
    use crate::book::links;
    use crate::install::repository;

    fn types() -> impl Iterator<Item = &'static str> {
        [ConditionType::OF_DEVICE, ConditionType::OF_VM, ConditionType::OF_OPERATION]
            .into_iter()
            .flatten()
            .map(|kind| kind.as_str())
    }

    fn is_true_to_the_code(shown: &Shown) -> bool {
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == shown.reason);
        types().any(|kind| kind == shown.kind) && reason.is_some_and(|reason| reason.is_true() == shown.truth)
    }

    #[test]
    fn conditions_and_tables_are_read() {
        let page = "# All\n\n`Ready=True/Ready` `a=b` `x=True/1` `Ready=Maybe/Ready`\n\n## Every one\n\n\
                    | condition | of | true | false |\n|---|---|---|---|\n| `A` | `K` | `B` | `C`, `D` |\n\n## Else\n\n`E`\n";
        let shown = |kind: &str, truth, reason: &str| Shown { kind: kind.to_owned(), truth, reason: reason.to_owned() };
        assert_eq!(conditions(page), BTreeSet::from([shown("Ready", true, "Ready")]));
        assert_eq!(
            table(page, "Every one"),
            BTreeSet::from([shown("A", true, "B"), shown("A", false, "C"), shown("A", false, "D")])
        );
    }

    #[test]
    fn every_condition_of_the_docs_is_one_that_the_code_can_write() {
        for page in links::pages(&repository().join("docs")).unwrap() {
            let text = std::fs::read_to_string(&page).unwrap();
            let wrong: Vec<_> = conditions(&text).into_iter().filter(|shown| !is_true_to_the_code(shown)).collect();
            assert!(wrong.is_empty(), "{}: {wrong:?}", page.display());
        }
    }

    #[test]
    fn the_page_of_troubles_has_every_reason_and_no_other() {
        let text = std::fs::read_to_string(repository().join("docs/troubleshooting.md")).unwrap();
        let listed = table(&text, "Every reason");
        let wrong: Vec<_> = listed.iter().filter(|shown| !is_true_to_the_code(shown)).collect();
        assert!(wrong.is_empty(), "the code has no such reasons: {wrong:?}");
        let of = |reasons: &BTreeSet<Shown>| reasons.iter().map(|shown| shown.reason.clone()).collect::<BTreeSet<_>>();
        let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !of(&listed).contains(reason.as_str())).collect();
        assert!(missing.is_empty(), "not on the page: {missing:?}");
        assert_eq!(listed.iter().map(|shown| shown.kind.as_str()).collect::<BTreeSet<_>>(), types().collect());
    }
}
