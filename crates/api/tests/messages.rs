//! The page of all messages agrees with the catalogue.

use std::path::PathBuf;

use patchbay_core::messages;

#[test]
fn the_page_of_messages_that_is_checked_in_is_that_of_the_catalogue() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/messages.md");
    let page = messages::page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == page,
        "docs/messages.md is out of date: write it anew with `UPDATE=1 cargo test -p patchbay-api --test messages`"
    );
    assert!(messages::all().all(|entry| page.contains(entry.means) && page.contains(entry.cure)));
}
