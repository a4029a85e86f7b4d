//! Reasons of conditions in the documentation, and those that the code has.
//!
//! A condition is written `Type=Status/Reason` in code.

use std::collections::BTreeSet;

use pulldown_cmark::{Event, Options, Parser};

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

#[cfg(test)]
mod tests {
    use patchbay_core::messages;

    use super::*;
    use crate::book::links;
    use crate::install::repository;

    fn is_true_to_the_code(shown: &Shown) -> bool {
        messages::all().any(|entry| {
            (entry.kind.as_str(), entry.reason.is_true(), entry.reason.as_str())
                == (&*shown.kind, shown.truth, &*shown.reason)
        })
    }

    #[test]
    fn conditions_are_read() {
        let page = "# All\n\n`Ready=True/Ready` `a=b` `x=True/1` `Ready=Maybe/Ready`\n";
        let ready = Shown { kind: "Ready".to_owned(), truth: true, reason: "Ready".to_owned() };
        assert_eq!(conditions(page), BTreeSet::from([ready]));
    }

    #[test]
    fn every_condition_of_the_docs_is_one_that_the_code_can_write() {
        for page in links::pages(&repository().join("docs")).unwrap() {
            let text = std::fs::read_to_string(&page).unwrap();
            let wrong: Vec<_> = conditions(&text).into_iter().filter(|shown| !is_true_to_the_code(shown)).collect();
            assert!(wrong.is_empty(), "{}: {wrong:?}", page.display());
        }
    }
}
