//! The tasks of the documentation.

use anyhow::{Result, ensure};

use crate::book::{links, play};
use crate::cluster::Lab;
use crate::install::repository;

/// Every page is done from its first command to its last, and each command prints what the page shows.
pub(super) fn go_as_they_are_written(lab: &Lab) -> Result<()> {
    let pages = links::pages(&repository().join("docs/tasks"))?;
    let names: Vec<_> = pages.iter().filter_map(|page| page.file_stem()?.to_str()).collect();
    ensure!(!names.is_empty(), "there are no tasks");
    names.iter().try_for_each(|name| play::play(lab, name))
}
