//! The data disk every node starts from: containerd's store with the images that hardly ever change, unpacked. Made once
//! per set of images, by a node without network or cluster, and cached. The others are imported into each node at its start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cache::{Cache, Inputs};
use crate::channel::Channel;
use crate::namespace;
use crate::parts::{Image, Parts};
use crate::progress::step;
use crate::stick::quoted;
use crate::uml::{Disk, Machine, Uml, make_disk};

/// Room for images, containers and logs of one node.
const SIZE: u32 = 4096;
/// Time for the import of one image; a large one takes 15 s on a quiet machine.
const IMPORT: Duration = Duration::from_secs(300);

/// The data disk with these parts' images.
///
/// # Errors
/// When an image cannot be imported, or is not complete afterwards.
pub fn data_disk(cache: &Cache, parts: &Parts) -> Result<PathBuf> {
    let mut inputs = Inputs::new().text("size", &SIZE.to_string()).text("root", &parts.root.display().to_string());
    for image in parts.base_images() {
        inputs = inputs.text(&image.reference, &image.digest);
    }
    let name = parts.release.entry("data");
    let entry = cache.entry(&name, inputs, |folder| {
        step("importing the images into a node's disk", || bake(parts, folder, &cache.log(&name)))
    })?;
    Ok(entry.join("data.ext4"))
}

fn bake(parts: &Parts, folder: &Path, log: &Path) -> Result<()> {
    let disk = folder.join("data.ext4");
    make_disk(&disk, SIZE, log)?;
    let archives: Vec<&Path> = parts.base_images().map(|image| image.archive.as_path()).collect();
    let share = common_folder(&archives).context("the image archives have no folder in common")?;
    let machine = Machine {
        name: "bake".into(),
        number: 1,
        linux: parts.linux.clone(),
        initramfs: parts.initramfs.clone(),
        root: parts.root.clone(),
        data: Disk::Own(disk),
        memory: 1536,
        share: share.clone(),
        state: namespace::state().join("bake"),
        console: log.to_owned(),
        arguments: Vec::new(),
    };
    let (mut uml, mut channel) = Uml::boot(&machine, None)?;
    run(&mut channel, "containerd-up")?;
    for image in parts.base_images() {
        let archive = format!("/host/{}", image.archive.strip_prefix(&share)?.display());
        run(&mut channel, &import(image, &archive)).with_context(|| format!("cannot import {}", image.reference))?;
    }
    run(
        &mut channel,
        "kill $(pidof containerd); while pidof containerd >/dev/null; do usleep 20000; done; rm -rf /var/log/*; sync",
    )?;
    // The file system is left as after a power cut with everything synced; the journal has nothing to replay.
    run(&mut channel, "mount -o remount,ro /var; sync")?;
    uml.check()?;
    uml.kill();
    Ok(())
}

/// Shell script that imports an image from an archive in the node, and checks that nothing of it is missing. What was
/// unpacked is on the disk afterwards: a node that loses its power right then must not start from files without content.
pub(crate) fn import(image: &Image, archive: &str) -> String {
    let reference = quoted(&image.reference);
    format!(
        "set -e; C='ctr -n k8s.io images'; $C import --snapshotter overlayfs {} >/dev/null\n\
         $C check name=={reference} | grep -q '[[:space:]]complete .*[[:space:]]true' || {{ $C check; exit 1; }}\n\
         sync",
        quoted(archive)
    )
}

fn run(channel: &mut Channel, script: &str) -> Result<String> {
    let output = channel.run(script, IMPORT)?;
    ensure!(output.code == 0, "`{script}` ended with {} in the node; it said:\n{}", output.code, output.text());
    Ok(output.text())
}

/// The deepest folder that holds all of these files.
fn common_folder(files: &[&Path]) -> Option<PathBuf> {
    let (first, rest) = files.split_first()?;
    first.ancestors().skip(1).find(|folder| rest.iter().all(|file| file.starts_with(folder))).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_folder_is_the_deepest_one() {
        let files = [Path::new("/cache/images-1/a.tar"), Path::new("/cache/images-2/b.tar")];
        assert_eq!(common_folder(&files), Some(PathBuf::from("/cache")));
        assert_eq!(common_folder(&files[..1]), Some(PathBuf::from("/cache/images-1")));
    }
}
