//! The page of the API agrees with the definitions.

use std::path::PathBuf;

use patchbay_api::reference;

#[test]
fn the_page_of_the_api_is_made_from_the_definitions() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let page = reference::page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/api.md is out of date: write it anew with `UPDATE=1 cargo test -p patchbay-api --test reference`"
    );
}
