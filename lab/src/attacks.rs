//! The tests that `docs/security.md` names for each attack are there.

use std::path::Path;

use crate::install::repository;

/// Where the table of attacks begins.
const HEADING: &str = "## Attacks that tests make";
/// What a row with a test in it looks like: the name, and the file below the repository's root.
const ROW_CELLS: usize = 4;

/// A test that the table names.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    name: String,
    file: String,
}

/// The words in back quotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The tests of the table; the words are what is wrong with it.
fn named(text: &str) -> Result<Vec<Named>, String> {
    let (_, table) = text.split_once(HEADING).ok_or("there is no table of attacks")?;
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let mut found = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [_, _, names, files] = cells.as_slice() else {
            return Err(format!("not {ROW_CELLS} cells: {row}"));
        };
        let (names, files) = (quoted(names), quoted(files));
        let [file] = files.as_slice() else { return Err(format!("not one file: {row}")) };
        if names.is_empty() {
            return Err(format!("no test: {row}"));
        }
        found.extend(names.iter().map(|name| Named { name: (*name).to_owned(), file: (*file).to_owned() }));
    }
    Ok(found)
}

/// Whether a source has a test, or a scenario, of this name.
fn has(source: &str, name: &str) -> bool {
    source.contains(&format!("fn {name}(")) || source.contains(&format!("\"{name}\""))
}

#[test]
fn every_attack_of_the_table_has_a_test_of_that_name() {
    let text = std::fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let tests = named(&text).unwrap();
    assert!(tests.len() >= 40, "{} tests", tests.len());
    let missing: Vec<_> = tests
        .iter()
        .filter(|test| {
            let path = repository().join(Path::new(&test.file));
            !std::fs::read_to_string(path).is_ok_and(|source| has(&source, &test.name))
        })
        .collect();
    assert!(missing.is_empty(), "docs/security.md names tests that are not there: {missing:#?}");
}

#[test]
fn a_table_is_read_and_rows_without_a_test_are_told() {
    let table = |row: &str| format!("x\n{HEADING}\n\n| attack | defence | test | in |\n|---|---|---|---|\n{row}\n");
    let read = named(&table("| a | b | `one`, `two` | `lab/src/attacks.rs` |")).unwrap();
    let test = |name: &str| Named { name: name.into(), file: "lab/src/attacks.rs".into() };
    assert_eq!(read, [test("one"), test("two")]);
    for bad in ["| a | b | one | `f` |", "| a | b | `one` | f |", "| a | `one` | `f` |"] {
        assert!(named(&table(bad)).is_err(), "{bad}");
    }
    assert!(has("async fn one() {", "one") && has("scenario(\"one\", f)", "one") && !has("fn one_more()", "one"));
}
