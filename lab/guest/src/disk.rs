//! Reads a disk: once from beginning to end for its checksum, then a block here and there for as long as it is
//! there, to see whether it goes on giving the same bytes. Every read goes to the device, none to a cache.
//!
//! The name of its USB product says whether it may also be written ([`Use`]).

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::{hex, tell};

/// Size of the reads for the checksum.
const CHUNK: usize = 256 * 1024;
/// Size of the later reads.
const BLOCK: usize = 4096;
/// Time from one later read of any disk to the next: a guest with many reads each more seldom, so that it is not busy with that.
const PAUSE: Duration = Duration::from_millis(50);
/// Disks that are being read.
static DISKS: AtomicU32 = AtomicU32::new(0);
/// Time from one line about them to the next.
const REPORT: Duration = Duration::from_secs(1);

/// How many blocks are read to know how long one takes.
const MEASURED: usize = 200;

/// What is written of a disk that is written once: where, and how many bytes.
const REGION: (u64, usize) = (1 << 20, 1 << 20);

/// What is done with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is read.
    Read,
    /// Between the two, one region is written with the inverse of all its bits.
    WriteOnce,
    /// Each of the later reads is followed by a write of something new, which nobody else would write.
    Rewrite,
    /// It is read as fast as it can be, and how fast that is is told.
    Measure,
}

impl Use {
    /// By the name of the USB product.
    pub(crate) fn of(product: Option<&str>) -> Self {
        match product {
            Some("Scratch Disk") => Self::WriteOnce,
            Some("Ledger Disk") => Self::Rewrite,
            Some("Bench Disk") => Self::Measure,
            _ => Self::Read,
        }
    }
}

/// Reads the disk in a thread of its own until `stop` is set.
pub(crate) fn watch(name: &str, serial: &str, size: u64, purpose: Use, stop: Arc<AtomicBool>) {
    let (name, serial) = (name.to_owned(), serial.to_owned());
    thread::spawn(move || {
        // A reader of cards without a card has a disk of no size.
        if size > 0
            && let Err(error) = read(&name, &serial, size, purpose, &stop)
            && !stop.load(Ordering::Relaxed)
        {
            tell!("disk {name} cannot be read: {error}");
        }
    });
}

fn read(name: &str, serial: &str, size: u64, purpose: Use, stop: &AtomicBool) -> io::Result<()> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    options.read(true).write(purpose == Use::Rewrite).custom_flags(direct);
    let disk = options.open(format!("/dev/{name}"))?;
    let mut buffer = Buffer::new();
    let (checksum, mut blocks) = whole(&disk, size, &mut buffer)?;
    tell!("disk {name} serial={serial} sha256={checksum} bytes={size}");
    if purpose == Use::WriteOnce {
        let (at, length) = REGION;
        invert(&OpenOptions::new().read(true).write(true).open(format!("/dev/{name}"))?, at, length)?;
        let checksum;
        (checksum, blocks) = whole(&disk, size, &mut buffer)?;
        tell!("disk {name} serial={serial} written at={at} bytes={length} sha256={checksum}");
    }
    let mut tally = Tally::default();
    let mut chance = Chance(size ^ 0x9e37_79b9_7f4a_7c15);
    while purpose == Use::Measure && !stop.load(Ordering::Relaxed) {
        let small = time_of_block(&disk, blocks.len(), &mut buffer, &mut chance)?;
        let rate = rate(&disk, size, &mut buffer)?;
        tell!("disk {name} measured block_us={} bytes_per_second={rate}", small.as_micros());
    }
    let mut novelty = Chance(seed());
    let mut reported = Instant::now();
    DISKS.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(PAUSE * DISKS.load(Ordering::Relaxed));
        let index = chance.index(blocks.len());
        tally.add(one_block(&disk, &blocks, &mut buffer, index).and_then(|good| {
            if purpose == Use::Rewrite {
                rewrite(&disk, &mut blocks, &mut buffer, index, &mut novelty)?;
            }
            Ok(good)
        }));
        if reported.elapsed() >= REPORT && !stop.load(Ordering::Relaxed) {
            reported = Instant::now();
            tell!("disk {name} reads ok={} bad={} errors={}", tally.ok, tally.bad, tally.errors);
        }
    }
    DISKS.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

/// Reads everything: the checksum, and a hash of each whole block.
fn whole(disk: &File, size: u64, buffer: &mut Buffer) -> io::Result<(String, Vec<u64>)> {
    let (mut checksum, mut blocks, mut at) = (Sha256::new(), Vec::new(), 0);
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        let bytes = buffer.aligned(want)?;
        disk.read_exact_at(bytes, at)?;
        checksum.update(&*bytes);
        blocks.extend(bytes.chunks_exact(BLOCK).map(hash));
        at += u64::try_from(want).map_err(io::Error::other)?;
    }
    Ok((hex(&checksum.finalize()), blocks))
}

/// How long one block takes: the median of many.
fn time_of_block(disk: &File, count: usize, buffer: &mut Buffer, chance: &mut Chance) -> io::Result<Duration> {
    let mut times = Vec::with_capacity(MEASURED);
    for _ in 0..MEASURED {
        let (at, begin) = (place(chance.index(count))?, Instant::now());
        disk.read_exact_at(buffer.aligned(BLOCK)?, at)?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(MEASURED / 2).copied().unwrap_or_default())
}

/// Bytes in a second, of a read from beginning to end.
fn rate(disk: &File, size: u64, buffer: &mut Buffer) -> io::Result<u64> {
    let (begin, mut at) = (Instant::now(), 0);
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        disk.read_exact_at(buffer.aligned(want)?, at)?;
        at += u64::try_from(want).map_err(io::Error::other)?;
    }
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
    Ok(size.saturating_mul(1_000_000) / micros)
}

/// Writes the inverse of what is there, and returns when the disk has it.
fn invert(disk: &File, at: u64, length: usize) -> io::Result<()> {
    let mut bytes = vec![0; length];
    disk.read_exact_at(&mut bytes, at)?;
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    disk.write_all_at(&bytes, at)?;
    disk.sync_all()
}

/// Reads one block: whether it is as it was.
fn one_block(disk: &File, blocks: &[u64], buffer: &mut Buffer, index: usize) -> io::Result<bool> {
    let bytes = buffer.aligned(BLOCK)?;
    disk.read_exact_at(bytes, place(index)?)?;
    Ok(blocks.get(index) == Some(&hash(bytes)))
}

/// Writes something new into a block.
fn rewrite(disk: &File, blocks: &mut [u64], buffer: &mut Buffer, index: usize, novelty: &mut Chance) -> io::Result<()> {
    let bytes = buffer.aligned(BLOCK)?;
    bytes.chunks_exact_mut(8).for_each(|number| number.copy_from_slice(&novelty.next().to_le_bytes()));
    disk.write_all_at(bytes, place(index)?)?;
    if let Some(block) = blocks.get_mut(index) {
        *block = hash(bytes);
    }
    Ok(())
}

/// Where a block begins.
fn place(index: usize) -> io::Result<u64> {
    u64::try_from(index * BLOCK).map_err(io::Error::other)
}

/// A number that no other guest has, and not this one after its next start.
fn seed() -> u64 {
    let mut hasher = DefaultHasher::new();
    std::fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default().hash(&mut hasher);
    hasher.finish() | 1
}

fn hash(block: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    block.hash(&mut hasher);
    hasher.finish()
}

/// The later reads so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    ok: u64,
    bad: u64,
    errors: u64,
}

impl Tally {
    fn add(&mut self, read: io::Result<bool>) {
        match read {
            Ok(true) => self.ok += 1,
            Ok(false) => self.bad += 1,
            Err(_) => self.errors += 1,
        }
    }
}

/// Memory for direct reads, which the kernel wants at the start of a block.
struct Buffer(Vec<u8>);

impl Buffer {
    fn new() -> Self {
        Self(vec![0; CHUNK + BLOCK])
    }

    fn aligned(&mut self, length: usize) -> io::Result<&mut [u8]> {
        let start = self.0.as_ptr().align_offset(BLOCK);
        self.0.get_mut(start..start + length).ok_or_else(|| io::Error::other("the read is larger than its buffer"))
    }
}

/// Numbers without a pattern (xorshift); what they are worth for secrets does not matter here.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One of so many.
    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.next()).ok().and_then(|number| number.checked_rem(count)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file of 300 KiB and a bit, more than one chunk, no whole number of blocks, every block different.
    fn disk() -> (File, Vec<u8>) {
        let path = std::env::temp_dir().join(format!("guest-disk-{}-{:?}", std::process::id(), thread::current().id()));
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let bytes: Vec<u8> = (0..300 * 1024 + 512_u32).map(|n| u8::try_from((n / 4096 + n) % 251).unwrap()).collect();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn the_checksum_is_that_of_all_bytes() {
        let (disk, bytes) = disk();
        let size = u64::try_from(bytes.len()).unwrap();
        let (checksum, blocks) = whole(&disk, size, &mut Buffer::new()).unwrap();
        let expected: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(checksum, expected);
        assert_eq!(blocks.len(), 75);
    }

    #[test]
    fn a_disk_is_measured_from_beginning_to_end() {
        let (disk, bytes) = disk();
        let mut buffer = Buffer::new();
        let size = u64::try_from(bytes.len()).unwrap();
        assert!(rate(&disk, size, &mut buffer).unwrap() > 0);
        assert!(rate(&disk, size + 1, &mut buffer).is_err(), "it has read to the end");
        let blocks = bytes.len() / BLOCK;
        assert!(time_of_block(&disk, blocks, &mut buffer, &mut Chance(7)).unwrap() > Duration::ZERO);
    }

    #[test]
    fn only_the_region_is_inverted() {
        let (disk, bytes) = disk();
        invert(&disk, 8192, 5000).unwrap();
        let mut after = vec![0; bytes.len()];
        disk.read_exact_at(&mut after, 0).unwrap();
        let expected =
            bytes.iter().enumerate().map(|(at, byte)| if (8192..13192).contains(&at) { !byte } else { *byte });
        assert!(after.into_iter().eq(expected));
    }

    #[test]
    fn what_was_rewritten_is_good_until_somebody_else_writes_it() {
        let (disk, bytes) = disk();
        let mut buffer = Buffer::new();
        let (_, mut blocks) = whole(&disk, u64::try_from(bytes.len()).unwrap(), &mut buffer).unwrap();
        let before = blocks.clone();
        rewrite(&disk, &mut blocks, &mut buffer, 3, &mut Chance(1)).unwrap();
        assert_ne!(blocks.get(3), before.get(3));
        assert!(one_block(&disk, &blocks, &mut buffer, 3).unwrap());
        assert!(one_block(&disk, &blocks, &mut buffer, 4).unwrap(), "others are as they were");
        rewrite(&disk, &mut before.clone(), &mut buffer, 3, &mut Chance(2)).unwrap();
        assert!(!one_block(&disk, &blocks, &mut buffer, 3).unwrap());
    }

    #[test]
    fn a_block_that_changed_is_bad_and_one_that_cannot_be_read_is_an_error() {
        let (disk, bytes) = disk();
        let mut buffer = Buffer::new();
        let (_, blocks) = whole(&disk, u64::try_from(bytes.len()).unwrap(), &mut buffer).unwrap();
        let mut tally = Tally::default();
        tally.add(one_block(&disk, &blocks, &mut buffer, 3));
        disk.write_all_at(&vec![1; bytes.len()], 0).unwrap();
        tally.add(one_block(&disk, &blocks, &mut buffer, 3));
        disk.set_len(0).unwrap();
        tally.add(one_block(&disk, &blocks, &mut buffer, 3));
        assert_eq!(tally, Tally { ok: 1, bad: 1, errors: 1 });
    }
}
