//! The quick start and the tasks of the documentation.

use anyhow::{Context, Result, ensure};

use super::installation;
use crate::book::{links, play};
use crate::cluster::Lab;
use crate::install::repository;
use crate::product;

/// Those after which another chart is installed than before them, or none.
const OF_THE_CHART: &[&str] = &["upgrade", "uninstall"];

/// Done first: it is what people do first.
const QUICK_START: &str = "quickstart";

/// Every page is done from its first command to its last, and each command prints what the page shows.
pub(super) fn go_as_they_are_written(lab: &Lab) -> Result<()> {
    let names = names()?;
    ensure!(!names.is_empty(), "there are no tasks");
    play::play(lab, QUICK_START)?;
    let others = names.iter().filter(|name| !OF_THE_CHART.contains(&name.as_str()));
    others.into_iter().try_for_each(|name| task(lab, name))
}

/// Does the page of a task.
fn task(lab: &Lab, name: &str) -> Result<()> {
    play::play(lab, &format!("tasks/{name}"))
}

/// The upgrade from the chart of the commit before this one, and the uninstallation, are done as their pages say. Whatever comes
/// of it, the lab has its own installation again afterwards.
pub(super) fn of_the_chart(lab: &Lab) -> Result<()> {
    let done =
        installation::install_former(lab).and_then(|()| OF_THE_CHART.iter().try_for_each(|name| task(lab, name)));
    let restored = lab.install().and_then(|()| product::wait_running(lab));
    done.and(restored.context("the lab's own installation"))
}

/// The names of the pages.
fn names() -> Result<Vec<String>> {
    let pages = links::pages(&repository().join("docs/tasks"))?;
    Ok(pages.iter().filter_map(|page| Some(page.file_stem()?.to_str()?.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::page::{self, Step};

    #[test]
    fn every_page_has_something_to_do_and_belongs_to_one_scenario() {
        let names = names().unwrap();
        for name in &names {
            let steps = page::read(&repository().join("docs/tasks").join(name).with_extension("md")).unwrap();
            assert!(steps.iter().any(|step| matches!(step, Step::Type { .. })), "{name}");
        }
        let missing: Vec<_> = OF_THE_CHART.iter().filter(|name| !names.iter().any(|n| n == *name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
