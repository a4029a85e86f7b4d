//! Container images as OCI archives, made without a container tool (OCI image specification 1.0: image layout,
//! manifest, configuration).
//!
//! Layers are plain tar files without compression: they go to a node of this machine, where unpacking costs more
//! than reading. The same files give the same bytes, so digests only change when content does. An archive may leave
//! out layers that a node has already from another image: importing then moves only what is new.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::tree::{Entry, Kind, Tree};

/// What images call this machine's processor, as Go does.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Tar's unit.
const BLOCK: u64 = 512;

/// A layer: a tar file and what it is called.
#[derive(Debug, Clone)]
pub struct Layer {
    path: PathBuf,
    digest: String,
    size: u64,
}

impl Layer {
    /// Writes `tree` as a layer to `path`.
    ///
    /// # Errors
    /// If a file cannot be read, a path is over 100 bytes, or `path` cannot be written.
    pub fn write(path: &Path, tree: &Tree) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut out = BufWriter::new(file);
        for (name, entry) in tree.entries() {
            member(name, entry, &mut out).with_context(|| format!("cannot put {name} into {}", path.display()))?;
        }
        end(&mut out)?;
        out.flush().with_context(|| format!("cannot write {}", path.display()))?;
        Self::open(path)
    }

    /// The layer in a tar file whose digest is known: hashing is the slow part.
    ///
    /// # Errors
    /// If the file is not there, or the digest is not of the form `sha256:...`.
    pub fn known(path: &Path, digest: &str) -> Result<Self> {
        let size = fs::metadata(path).with_context(|| format!("cannot see the layer {}", path.display()))?.len();
        let Some(digest) = digest.strip_prefix("sha256:") else { bail!("{digest} is no digest of a layer") };
        Ok(Self { path: path.to_owned(), digest: digest.to_owned(), size })
    }

    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("cannot open the layer {}", path.display()))?;
        let mut hash = Sha256::new();
        let size = io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), digest: hex(&hash.finalize()), size })
    }

    /// `sha256:...` of the tar file.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{}", self.digest)
    }
}

/// What a container of an image runs, and how.
#[derive(Debug, Clone, Default)]
pub struct Process<'a> {
    /// The command line.
    pub entrypoint: &'a [&'a str],
    /// `uid:gid`; root if empty.
    pub user: &'a str,
    /// Variables besides `PATH`, as `NAME=value`.
    pub environment: &'a [&'a str],
}

/// Writes an image of `layers`, lowest first, named `reference` to `archive`, and returns the digest of its manifest.
/// The files of the layers for which `present` says true are left out.
///
/// # Errors
/// If a layer cannot be read or the archive cannot be written.
pub fn write(
    archive: &Path,
    reference: &str,
    process: &Process<'_>,
    layers: &[&Layer],
    present: impl Fn(&Layer) -> bool,
) -> Result<String> {
    let mut environment = vec!["PATH=/bin:/sbin:/usr/bin:/usr/sbin"];
    environment.extend(process.environment);
    let config = serde_json::to_vec(&json!({
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Entrypoint": process.entrypoint, "User": process.user, "Env": environment},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.digest()).collect::<Vec<_>>()},
    }))?;
    let (config_digest, config_size) = (hex(&Sha256::digest(&config)), config.len());
    let layer_list: Vec<_> = layers
        .iter()
        .map(|l| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": l.digest(), "size": l.size}))
        .collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config_digest}"),
            "size": config_size,
        },
        "layers": layer_list,
    }))?;
    let manifest_digest = hex(&Sha256::digest(&manifest));
    let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest_digest}"),
            "size": manifest.len(),
            "annotations": {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag},
        }],
    }))?;

    let mut tree = Tree::new();
    tree.file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", 0o644, index);
    tree.file(&format!("blobs/sha256/{config_digest}"), 0o644, config);
    tree.file(&format!("blobs/sha256/{manifest_digest}"), 0o644, manifest);
    for layer in layers.iter().filter(|layer| !present(layer)) {
        tree.copy(&format!("blobs/sha256/{}", layer.digest), 0o644, &layer.path);
    }
    // Renamed when complete: a cluster that starts meanwhile must not read half an archive.
    let partial = archive.with_extension("partial");
    Layer::write(&partial, &tree)?;
    fs::rename(&partial, archive).with_context(|| format!("cannot rename {}", partial.display()))?;
    Ok(format!("sha256:{manifest_digest}"))
}

/// One member of a tar file (POSIX.1-1988 `ustar`): a header block, then the content padded to whole blocks.
fn member(name: &str, entry: &Entry, out: &mut impl Write) -> Result<()> {
    let (kind, target, size) = match &entry.kind {
        Kind::Folder => (b'5', "", 0),
        Kind::Bytes(_) | Kind::Copy(_) => (b'0', "", entry.size()?),
        Kind::Link(target) => (b'2', target.as_str(), 0),
        Kind::Device { .. } => bail!("an image has no devices"),
    };
    if name.len() > 100 || target.len() > 100 {
        bail!("the path or link target is over 100 bytes");
    }
    // name[100] mode[8] uid[8] gid[8] size[12] mtime[12] checksum[8] type[1] link[100] magic[8] ...
    let header = |checksum: &str| {
        let mut header = Vec::with_capacity(512);
        header.extend_from_slice(name.as_bytes());
        header.resize(100, 0);
        header.extend_from_slice(format!("{:07o}\0", entry.mode).as_bytes());
        header.extend_from_slice(b"0000000\x000000000\0");
        header.extend_from_slice(format!("{size:011o}\0").as_bytes());
        header.extend_from_slice(b"00000000000\0");
        header.extend_from_slice(checksum.as_bytes());
        header.push(kind);
        header.extend_from_slice(target.as_bytes());
        header.resize(257, 0);
        header.extend_from_slice(b"ustar\x0000");
        header.resize(512, 0);
        header
    };
    // The checksum is the sum of all bytes, counting its own field as spaces.
    let sum: u32 = header("        ").iter().map(|byte| u32::from(*byte)).sum();
    out.write_all(&header(&format!("{sum:06o}\0 ")))?;
    entry.write_content(size, out)?;
    let padding = usize::try_from(size.next_multiple_of(BLOCK) - size)?;
    Ok(out.write_all(&vec![0; padding])?)
}

/// The two empty blocks at the end of a tar file.
fn end(out: &mut impl Write) -> Result<()> {
    Ok(out.write_all(&[0; 1024])?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use serde_json::Value;

    use super::*;

    fn unpack(archive: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        let status = Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(to).status().unwrap();
        assert!(status.success());
    }

    fn tree() -> Tree {
        let mut tree = Tree::new();
        tree.file("bin/program", 0o755, vec![7; 1000]).link("bin/sh", "program").folder("tmp", 0o1777);
        tree.file("etc/empty", 0o600, "");
        tree
    }

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// The file a descriptor points to, whose digest and size are checked.
    fn blob(root: &Path, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
        let path = root.join("blobs/sha256").join(&digest);
        let content = fs::read(&path).unwrap();
        assert_eq!(hex(&Sha256::digest(&content)), digest);
        assert_eq!(descriptor["size"].as_u64().unwrap(), u64::try_from(content.len()).unwrap());
        path
    }

    #[test]
    fn tar_unpacks_a_layer_to_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        Layer::write(&folder.path().join("layer"), &tree()).unwrap();
        let root = folder.path().join("root");
        unpack(&folder.path().join("layer"), &root);
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(fs::read(root.join("bin/program")).unwrap(), vec![7; 1000]);
        assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("program"));
        assert_eq!((mode("bin/program"), mode("tmp"), mode("etc/empty")), (0o755, 0o1777, 0o600));
        assert_eq!(fs::read(root.join("etc/empty")).unwrap(), b"");
    }

    #[test]
    fn the_same_tree_gives_the_same_layer() {
        let folder = tempfile::tempdir().unwrap();
        let one = Layer::write(&folder.path().join("one"), &tree()).unwrap();
        let two = Layer::write(&folder.path().join("two"), &tree()).unwrap();
        assert_eq!(one.digest(), two.digest());
    }

    #[test]
    fn every_digest_and_size_in_an_image_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let base = Layer::write(&folder.path().join("base"), &tree()).unwrap();
        let top = Layer::write(&folder.path().join("top"), Tree::new().file("app", 0o755, "x")).unwrap();
        let process = Process { entrypoint: &["/app", "run"], user: "65532:65532", environment: &["A=b"] };
        let archive = folder.path().join("image.tar");
        let digest = write(&archive, "localhost/test/app:lab", &process, &[&base, &top], |_| false).unwrap();

        let root = folder.path().join("image");
        unpack(&archive, &root);
        assert_eq!(json(&root.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
        let index = json(&root.join("index.json"));
        let described = &index["manifests"][0];
        assert_eq!(described["digest"], digest);
        assert_eq!(described["annotations"]["io.containerd.image.name"], "localhost/test/app:lab");
        let manifest = json(&blob(&root, described));
        let config = json(&blob(&root, &manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/app", "run"]));
        assert_eq!(config["config"]["User"], "65532:65532");
        let layers: Vec<_> = manifest["layers"].as_array().unwrap().iter().map(|l| blob(&root, l)).collect();
        assert_eq!(layers.len(), 2);
        assert_eq!(config["rootfs"]["diff_ids"], json!([base.digest(), top.digest()]));
    }

    #[test]
    fn a_layer_that_nodes_have_is_named_but_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let base = Layer::write(&folder.path().join("base"), &tree()).unwrap();
        let top = Layer::write(&folder.path().join("top"), Tree::new().file("app", 0o755, "x")).unwrap();
        let archive = folder.path().join("image.tar");
        let known = base.digest();
        let thin =
            write(&archive, "localhost/test/app:lab", &Process::default(), &[&base, &top], |l| l.digest() == known);
        let root = folder.path().join("image");
        unpack(&archive, &root);
        assert!(!root.join("blobs/sha256").join(&base.digest).exists());
        assert!(root.join("blobs/sha256").join(&top.digest).exists());
        let full = write(&archive, "localhost/test/app:lab", &Process::default(), &[&base, &top], |_| false);
        assert_eq!(thin.unwrap(), full.unwrap(), "it is the same image");
    }
}
