//! Writes the archive format of initial ramdisks ("newc": `Documentation/driver-api/early-userspace/buffer-format.rst`
//! in the kernel's source): per file a header of 13 numbers of 8 hexadecimal digits after the magic, the name with
//! its NUL, the content, both padded to 4 bytes.

use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::tree::{Entry, Kind, Tree};

/// The file types of `st_mode`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// Writes `tree` as an archive.
///
/// # Errors
/// If a file cannot be read, is over 4 GiB, or `out` fails.
pub fn write(tree: &Tree, out: &mut impl Write) -> Result<()> {
    let mut inode = 0;
    for (path, entry) in tree.entries() {
        inode += 1;
        member(inode, path, entry, out).with_context(|| format!("cannot archive {path}"))?;
    }
    let end = Entry { mode: 0, kind: Kind::Bytes(Vec::new()) };
    member(0, "TRAILER!!!", &end, out)?;
    Ok(())
}

fn member(inode: u32, path: &str, entry: &Entry, out: &mut impl Write) -> Result<()> {
    let (file_type, major, minor) = match &entry.kind {
        Kind::Folder => (FOLDER, 0, 0),
        Kind::Bytes(_) | Kind::Copy(_) => (FILE, 0, 0),
        Kind::Link(_) => (LINK, 0, 0),
        Kind::Device { major, minor } => (DEVICE, *major, *minor),
    };
    let Ok(size) = u32::try_from(entry.size()?) else { bail!("the file is over 4 GiB") };
    let name_size = u32::try_from(path.len() + 1)?;
    let (links, nobody) = (1, 0);
    write!(out, "070701")?;
    // inode mode uid gid links mtime size device-major device-minor rdev-major rdev-minor name-size check
    for field in [inode, file_type | entry.mode, nobody, nobody, links, 0, size, 0, 0, major, minor, name_size, 0] {
        write!(out, "{field:08X}")?;
    }
    write!(out, "{path}\0")?;
    pad(6 + 13 * 8 + u64::from(name_size), out)?;
    if let Kind::Link(target) = &entry.kind {
        out.write_all(target.as_bytes())?;
    }
    entry.write_content(u64::from(size), out)?;
    pad(u64::from(size), out)
}

/// Fills up to a multiple of 4 bytes after `written` of them.
fn pad(written: u64, out: &mut impl Write) -> Result<()> {
    for _ in 0..written.wrapping_neg() % 4 {
        out.write_all(&[0])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive the way the kernel does: name, mode, device and content of each member.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut members = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, minor) = (field(1), field(10));
            let (size, name_size) = (usize::try_from(field(6)).unwrap(), usize::try_from(field(11)).unwrap());
            let name = std::str::from_utf8(&archive[110..110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(archive[110 + name_size - 1], 0);
            let start = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(archive.len(), start);
                return members;
            }
            members.push((name, mode, minor, archive[start..start + size].to_vec()));
            archive = &archive[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn an_archive_holds_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::write(&source, "copied").unwrap();
        let mut tree = Tree::new();
        tree.file("init", 0o755, "12345").link("bin/sh", "busybox").copy("etc/file", 0o600, &source);
        tree.device("dev/console", 0o600, 5, 1);
        let mut archive = Vec::new();
        write(&tree, &mut archive).unwrap();
        let expected = [
            ("bin", 0o040_755, 0, ""),
            ("bin/sh", 0o120_777, 0, "busybox"),
            ("dev", 0o040_755, 0, ""),
            ("dev/console", 0o020_600, 1, ""),
            ("etc", 0o040_755, 0, ""),
            ("etc/file", 0o100_600, 0, "copied"),
            ("init", 0o100_755, 0, "12345"),
        ];
        let expected: Vec<_> = expected.map(|(n, m, d, c)| (n.to_owned(), m, d, c.as_bytes().to_vec())).into();
        assert_eq!(read(&archive), expected);
    }
}
