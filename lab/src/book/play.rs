//! Does what a page of the documentation says, with a real cluster, and compares what is printed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::page::{self, Step};
use super::same::Names;
use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::helm::chart;
use crate::install::{TAG, repository};
use crate::scenarios::reading;
use crate::stick::Stick;

/// The namespace that pages speak of.
const NAMESPACE: &str = "my-project";
/// Within this, what a command that only looks prints has to be what the page shows.
const SEEN: Duration = Duration::from_secs(90);
/// Commands that only look: they may be typed again until it is so.
const LOOKS: &[&str] = &["get", "describe", "events", "logs", "usb list", "usb why", "usb tree", "usb doctor"];
/// Images of the pages, and what the lab has instead of them.
const IMAGES: [(&str, &str); 2] = [
    ("example/linux-machine:1", "localhost/patchbay/guest:lab"),
    ("image: busybox", "image: localhost/patchbay/tool:lab"),
];
/// Where the pages get the program from. In a lab its tag is not the version of the chart.
const REPOSITORY: &str = "image.repository=registry.example/patchbay";
/// The tag of the version that pages upgrade to.
const NEWER: &str = "image.tag=0.1.1";
/// A disk with little on it: it is read as a whole.
const SIZE: usize = 1 << 20;

/// Somebody who does what a page says.
struct Player<'l> {
    case: Case<'l>,
    names: Names,
    /// Where the page's files are.
    folder: PathBuf,
    sticks: Vec<Stick>,
    /// The guest that was last looked at, and has been heard since.
    guest: Option<Guest>,
}

/// Does the page `docs/<name>.md`, such as `tasks/assign`, and takes everything away again.
///
/// # Errors
/// The first step that does not go as the page says.
pub fn play(lab: &Lab, name: &str) -> Result<()> {
    let steps = page::read(&repository().join("docs").join(name).with_extension("md"))?;
    ensure!(steps.iter().any(|step| matches!(step, Step::Type { .. })), "there is nothing to do in {name}");
    let folder = lab.logs().join("book").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut player =
        Player { case: Case::begin(lab, NAMESPACE)?, names: lab_names(), folder, sticks: Vec::new(), guest: None };
    for step in &steps {
        player.step(step).with_context(|| format!("docs/{name}.md"))?;
    }
    player.case.end()
}

/// What the lab has instead of what the pages speak of.
fn lab_names() -> Names {
    let mut names = Names::default();
    IMAGES.iter().for_each(|(shown, real)| names.insert(shown, real));
    names.insert("charts/patchbay", &chart().display().to_string());
    let image =
        format!("image.repository=localhost/patchbay/patchbay --set image.pullPolicy=Never --set image.tag={TAG}");
    names.insert(REPOSITORY, &image);
    names.insert(NEWER, &format!("image.tag={TAG}"));
    names
}

impl Player<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::File { name, text } => {
                let path = self.folder.join(name);
                std::fs::write(&path, self.names.translate(text))
                    .with_context(|| format!("cannot write {}", path.display()))
            }
            Step::Type { command, shown } => self.types(command, shown).with_context(|| format!("$ {command}")),
            Step::Hand(words) => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.hand(&words).with_context(|| words.join(" "))
            }
        }
    }

    fn types(&mut self, command: &str, shown: &[String]) -> Result<()> {
        let real = self.names.translate(command);
        let looks = LOOKS.iter().any(|verb| command.starts_with(&format!("kubectl {verb}")));
        if !looks {
            let printed = self.case.lab.typed(&real, &self.folder)?;
            return self
                .names
                .compare(shown, &printed)
                .map_err(|why| anyhow!("{why}\nof what was printed:\n{printed}"));
        }
        let lab = self.case.lab;
        lab.wait_for("what the page shows", SEEN, || {
            let printed = lab.typed(&real, &self.folder).map_err(|error| format!("{error:#}"))?;
            self.names.compare(shown, &printed).map_err(|why| format!("{why}\nof what was printed:\n{printed}"))
        })
    }

    /// What hands do: `plug NODE STICK [PRODUCT]`, `unplug NODE STICK`, and look at: `guest VM boots`, `guest VM reads STICK`,
    /// and later `guest has read on`: without a break, and nothing wrong.
    fn hand(&mut self, words: &[&str]) -> Result<()> {
        match words {
            ["plug", node, name] => self.hand(&["plug", node, name, "DataTraveler"]),
            ["plug", node, name, product] => {
                let stick = Stick::new(name).strings(Some("Kingston"), Some(product)).size(SIZE);
                self.case.plug(node, &stick)?;
                self.sticks.push(stick);
                Ok(())
            }
            ["unplug", node, name] => {
                let stick = self.stick(name)?;
                self.case.unplug(node, stick).map(drop)
            }
            ["guest", vm, "boots"] => {
                let guest = self.case.lab.guest(NAMESPACE, vm);
                guest.wait_line("that it has booted", BOOT, |line| line.text.contains("guest: booted").then_some(()))
            }
            ["guest", vm, "reads", name] => {
                let mut guest = self.case.lab.guest(NAMESPACE, vm);
                guest.reads(self.stick(name)?, BOOT)?;
                guest.forget();
                self.guest = Some(guest);
                Ok(())
            }
            ["guest", "has", "read", "on"] => {
                reading::has_gone_on(self.guest.as_ref().context("no guest was looked at")?, SOON)
            }
            _ => bail!("nobody knows how to do that"),
        }
    }

    /// The stick that was plugged in under this name.
    fn stick(&self, name: &str) -> Result<&Stick> {
        self.sticks.iter().rfind(|stick| stick.name == name).with_context(|| format!("no {name} was plugged in"))
    }
}
