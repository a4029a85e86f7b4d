//! The system calls for devices that no safe interface reaches: bulk transfers of usbfs, and the format of sound.

use std::fs::File;
use std::io;

use rustix::ioctl::{Setter, Updater, ioctl};

/// `USBDEVFS_CLAIMINTERFACE` of `linux/usbdevice_fs.h`: reads the number of an interface.
const CLAIM: u32 = 0x8004_550f;
/// `USBDEVFS_BULK` of `linux/usbdevice_fs.h`, with the struct of 64-bit machines.
const BULK: u32 = 0xc018_5502;
/// Time for a bulk transfer, in milliseconds.
const TRANSFER: u32 = 5000;

/// `SNDCTL_DSP_SETFMT` of `linux/soundcard.h`; all three take a number and give back what was made of it.
const FORMAT: u32 = 0xc004_5005;
/// `SNDCTL_DSP_CHANNELS`.
const CHANNELS: u32 = 0xc004_5006;
/// `SNDCTL_DSP_SPEED`.
const RATE: u32 = 0xc004_5002;
/// `AFMT_S16_LE`.
const SIGNED_16_BIT: i32 = 0x10;

/// `struct usbdevfs_bulktransfer`.
#[repr(C)]
struct Bulk {
    endpoint: u32,
    length: u32,
    timeout: u32,
    data: *mut u8,
}

/// Claims an interface of a USB device for this file.
pub(crate) fn claim(device: &File, interface: u8) -> io::Result<()> {
    // SAFETY: USBDEVFS_CLAIMINTERFACE reads one unsigned int, which lives on the stack of this call.
    #[expect(unsafe_code, reason = "usbfs has no other interface")]
    unsafe {
        ioctl(device, Setter::<CLAIM, u32>::new(u32::from(interface)))?;
    }
    Ok(())
}

/// One bulk transfer, to or from the device as the endpoint's direction says. An IN transfer may be shorter than `data`:
/// the rest of it stays as it is.
pub(crate) fn bulk(device: &File, endpoint: u8, data: &mut [u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut transfer = Bulk { endpoint: u32::from(endpoint), length, timeout: TRANSFER, data: data.as_mut_ptr() };
    // SAFETY: USBDEVFS_BULK reads the struct and reads or writes at most `length` bytes at `data`, which is borrowed
    // mutably for the whole call and has that length.
    #[expect(unsafe_code, reason = "usbfs has no other interface")]
    unsafe {
        ioctl(device, Updater::<BULK, Bulk>::new(&mut transfer))?;
    }
    Ok(())
}

/// Makes a sound device take frames of two signed 16-bit samples at this rate, or fails.
pub(crate) fn stereo(device: &File, rate: i32) -> io::Result<()> {
    let set = [
        number::<FORMAT>(device, SIGNED_16_BIT)? == SIGNED_16_BIT,
        number::<CHANNELS>(device, 2)? == 2,
        number::<RATE>(device, rate)? == rate,
    ];
    if set == [true; 3] { Ok(()) } else { Err(io::Error::other("the device has other formats")) }
}

fn number<const CODE: u32>(device: &File, value: i32) -> io::Result<i32> {
    let mut value = value;
    // SAFETY: each of the three codes above reads and writes one int, which lives on the stack of this call.
    #[expect(unsafe_code, reason = "sound devices have no other interface")]
    unsafe {
        ioctl(device, Updater::<CODE, i32>::new(&mut value))?;
    }
    Ok(value)
}
