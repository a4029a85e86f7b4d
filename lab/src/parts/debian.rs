//! Packages of Debian releases other than the host's: looked up and downloaded with a package manager state of our
//! own, unpacked, never installed. The host need not even be Debian, only have apt and Debian's keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};

use super::{Builder, minutes};
use crate::command::Command;
use crate::progress;

/// Newest kernel sources first; then the release whose kernel is the stock one.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
";
/// The packages any part may ask for.
const PACKAGES: &str = r"^linux-(source-[0-9.]+|image-[0-9.]+-[0-9]+-amd64)$";
/// How long the lists are used. A new kernel is some minutes of building: not a surprise for every morning.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);

/// Debian's packages, as far as the lab is interested.
pub(super) struct Debian {
    folder: PathBuf,
    log: PathBuf,
    offers: Vec<Offer>,
    unreachable: Option<anyhow::Error>,
}

/// A version of a package that can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) package: String,
    pub(super) version: String,
}

impl Debian {
    /// Reads the lists, over the network if they are not there or old. Without a network old ones are used; without
    /// any, nothing is on offer.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub(super) fn open(builder: &Builder) -> Result<Self> {
        let _lock = builder.cache.lock("apt")?;
        let folder = builder.cache.folder("apt")?;
        for part in [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/trusted.gpg.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {part} in {}", folder.display()))?;
        }
        let sources = folder.join("etc/sources.list");
        let list = folder.join("offers");
        let usable = fs::read_to_string(&sources).is_ok_and(|text| text == SOURCES);
        let mut debian = Self { folder, log: builder.cache.log("apt"), offers: Vec::new(), unreachable: None };
        if !usable || !is_fresh(&list) {
            fs::write(&sources, SOURCES).context("cannot write the list of package sources")?;
            let update = progress::step("reading Debian's package lists", || debian.update(&list));
            if let Err(error) = update {
                if list.exists() {
                    progress::say("  Debian's package lists are out of reach, using the old ones");
                }
                debian.unreachable = Some(error);
            }
        }
        if let Ok(text) = fs::read_to_string(&list) {
            debian.offers = parse(&text);
        }
        Ok(debian)
    }

    /// The newest package whose name gives a version at least `least` when `number` reads it.
    pub(super) fn newest(&self, least: Version, number: impl Fn(&str) -> Option<Version>) -> Option<&Offer> {
        newest(&self.offers, least, number)
    }

    /// Why nothing is on offer.
    pub(super) fn nothing(&self, what: &str) -> anyhow::Error {
        match &self.unreachable {
            Some(error) => anyhow!("{what} is neither cached nor can it be looked up: {error:#}"),
            None => anyhow!(
                "Debian offers no {what} any more: the list of sources in lab/src/parts/debian.rs needs a newer release"
            ),
        }
    }

    /// Downloads a package and unpacks it into `folder`.
    ///
    /// # Errors
    /// If it cannot be downloaded or unpacked.
    pub(super) fn unpack(&self, offer: &Offer, folder: &Path) -> Result<()> {
        let download = folder.join("download");
        fs::create_dir(&download).with_context(|| format!("cannot make {}", download.display()))?;
        let wanted = format!("{}={}", offer.package, offer.version);
        self.apt("apt-get")
            .args(["download", &wanted])
            .folder(&download)
            .deadline(minutes(30))
            .advice("Check the network, then try again.")
            .run()?;
        let Some(file) = fs::read_dir(&download)?.next() else { bail!("apt-get has downloaded nothing for {wanted}") };
        Command::new("dpkg", &self.log)
            .args(["-x"])
            .args([file?.path().as_path(), folder])
            .deadline(minutes(5))
            .run()?;
        fs::remove_dir_all(&download).with_context(|| format!("cannot remove {}", download.display()))
    }

    fn update(&self, list: &Path) -> Result<()> {
        // Without the error mode a list that cannot be read is only a warning.
        self.apt("apt-get")
            .args(["-o", "APT::Update::Error-Mode=any", "update"])
            .deadline(minutes(10))
            .advice("Check the network, then try again.")
            .run()?;
        let names = self.apt("apt-cache").args(["search", "--names-only", PACKAGES]).text()?;
        let names = names.lines().filter_map(|line| line.split_whitespace().next());
        let offers = self.apt("apt-cache").args(["madison"]).args(names).text()?;
        fs::write(list, offers + "\n").with_context(|| format!("cannot write {}", list.display()))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program, &self.log);
        let folder = |name: &str| self.folder.join(name).display().to_string();
        for option in [
            format!("Dir::Etc={}", folder("etc")),
            format!("Dir::State={}", folder("state")),
            format!("Dir::Cache={}", folder("cache")),
            "Dir::State::status=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command = command.args(["-o", &option]);
        }
        command
    }
}

/// Numbers compared from left to right.
pub(super) type Version = (u32, u32, u32);

fn newest(offers: &[Offer], least: Version, number: impl Fn(&str) -> Option<Version>) -> Option<&Offer> {
    // Of equal numbers the first: apt lists the newest version of a package first.
    let numbered = offers.iter().rev().filter_map(|offer| Some((number(&offer.package)?, offer)));
    numbered.filter(|(number, _)| *number >= least).max_by_key(|(number, _)| *number).map(|(_, offer)| offer)
}

/// Reads `1`, `1.2` or `1.2.3`.
pub(super) fn version(text: &str) -> Option<Version> {
    let mut numbers = text.split('.').map(str::parse::<u32>);
    let mut next = || numbers.next().unwrap_or(Ok(0)).ok();
    let version = (next()?, next()?, next()?);
    numbers.next().is_none().then_some(version)
}

/// Lines of `apt-cache madison`: `package | version | where`.
fn parse(text: &str) -> Vec<Offer> {
    let offer = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (package, version, place) = (fields.next()?, fields.next()?, fields.next()?);
        place.ends_with("Packages").then(|| Offer { package: package.to_owned(), version: version.to_owned() })
    };
    text.lines().filter_map(offer).collect()
}

fn is_fresh(list: &Path) -> bool {
    let age = |time: SystemTime| SystemTime::now().duration_since(time).unwrap_or_default();
    fs::metadata(list).and_then(|m| m.modified()).is_ok_and(|time| age(time) < FRESH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
 linux-source-7.2 | 7.2.13-1 | http://deb.debian.org/debian sid/main amd64 Packages
linux-source-7.10 | 7.10.2-1 | http://deb.debian.org/debian sid/main amd64 Packages
linux-source-7.10 | 7.10.1-1~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages
linux-source-6.1 | 6.1.176-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
     linux | 6.1.176-1 | http://deb.debian.org/debian bookworm/main Sources
linux-image-6.1.0-9-amd64 | 6.1.27-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
linux-image-6.1.0-56-amd64 | 6.1.192-2 | http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
";

    fn source(package: &str) -> Option<Version> {
        version(package.strip_prefix("linux-source-")?)
    }

    #[test]
    fn the_newest_kernel_is_chosen_by_number_not_by_letter() {
        let offers = parse(LIST);
        let found = newest(&offers, (6, 16, 0), source).unwrap();
        assert_eq!((found.package.as_str(), found.version.as_str()), ("linux-source-7.10", "7.10.2-1"));
        let image = |p: &str| version(p.strip_prefix("linux-image-6.1.0-")?.strip_suffix("-amd64")?);
        assert_eq!(newest(&offers, (0, 0, 0), image).unwrap().package, "linux-image-6.1.0-56-amd64");
    }

    #[test]
    fn a_kernel_that_is_too_old_is_not_on_offer() {
        let offers = parse(LIST);
        assert_eq!(newest(&offers, (7, 11, 0), source), None);
    }

    #[test]
    fn lines_about_source_packages_are_no_offers() {
        assert!(parse(LIST).iter().all(|offer| offer.package != "linux"));
        assert_eq!(parse(LIST).len(), 6);
    }

    #[test]
    fn only_numbers_are_versions() {
        assert_eq!(version("6.16"), Some((6, 16, 0)));
        assert_eq!(version("7.3-rt"), None);
        assert_eq!(version("1.2.3.4"), None);
    }
}
