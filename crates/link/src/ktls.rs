//! Kernel TLS: the only unsafe code.
//!
//! The kernel is told the traffic keys, the IVs and the numbers of the next records of an established connection, and from
//! then on encrypts what is written to the socket and decrypts what is read from it (kernel documentation,
//! `networking/tls.rst`; structures in `linux/tls.h`). Neither `rustix` nor `std` knows these options.

#![expect(unsafe_code, reason = "setsockopt with TLS keys has no safe wrapper")]

use std::io;
use std::mem::{offset_of, size_of};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use libc::{c_int, c_void, socklen_t, tls_crypto_info, tls12_crypto_info_chacha20_poly1305 as CryptoInfo};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

// What the kernel copies: 4 bytes of version and cipher, 12 of IV, 32 of key, none of salt, 8 of sequence number.
const _: () = assert!(size_of::<CryptoInfo>() == 56);
const _: () = assert!(offset_of!(CryptoInfo, iv) == 4);
const _: () = assert!(offset_of!(CryptoInfo, key) == 16);
const _: () = assert!(offset_of!(CryptoInfo, rec_seq) == 48);

/// The kernel did not take over a TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum KernelTlsError {
    /// The `tls` module is not there and could not be loaded.
    #[error("this node's kernel has no TLS; load the module with `modprobe tls` (CONFIG_TLS)")]
    NoModule,
    /// The module is there, but not for this cipher.
    #[error(
        "this node's kernel cannot do TLS 1.3 with ChaCha20-Poly1305; it needs Linux 5.11 and the module `chacha20poly1305`"
    )]
    NoCipher,
    /// The connection ended before the hand-over.
    #[error("the connection ended before the kernel could take it over")]
    NotConnected,
    /// The connection is not at a point where it can be handed over.
    #[error("the connection cannot be handed over to the kernel: {0}")]
    NotReady(String),
    /// Anything else.
    #[error("the kernel refused {option}")]
    Refused {
        /// The socket option.
        option: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl KernelTlsError {
    fn of(option: &'static str, source: io::Error) -> Self {
        match (option, source.raw_os_error()) {
            ("TCP_ULP", Some(libc::ENOENT)) => Self::NoModule,
            ("TCP_ULP", Some(libc::ENOTCONN)) => Self::NotConnected,
            ("TLS_TX" | "TLS_RX", Some(libc::ENOENT | libc::EINVAL | libc::ENOPROTOOPT)) => Self::NoCipher,
            _ => Self::Refused { option, source },
        }
    }
}

/// Whether this node's kernel has TLS; loads the module if it may (`CAP_NET_ADMIN`).
///
/// # Errors
/// [`KernelTlsError::NoModule`], which says what to do, or whatever else is in the way.
pub fn probe() -> Result<(), KernelTlsError> {
    let pair = || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        Ok((listener, stream))
    };
    let (_listener, stream) =
        pair().map_err(|source| KernelTlsError::Refused { option: "a loopback connection", source })?;
    attach(&stream)
}

/// Gives a connection to the kernel: everything written and read afterwards is inside TLS.
pub(crate) fn hand_over(stream: TcpStream, secrets: ExtractedSecrets) -> Result<OwnedFd, KernelTlsError> {
    let (sending, receiving) = (crypto_info(secrets.tx)?, crypto_info(secrets.rx)?);
    attach(&stream)?;
    set_keys(&stream, "TLS_TX", libc::TLS_TX, &sending)?;
    set_keys(&stream, "TLS_RX", libc::TLS_RX, &receiving)?;
    Ok(stream.into())
}

/// One direction of a connection, as the kernel wants it.
pub(crate) fn crypto_info((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<CryptoInfo, KernelTlsError> {
    let ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } = secrets else {
        return Err(KernelTlsError::NotReady("its cipher is not ChaCha20-Poly1305".into()));
    };
    let wrong = |_| KernelTlsError::NotReady("its keys have an odd length".into());
    Ok(CryptoInfo {
        info: tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type: libc::TLS_CIPHER_CHACHA20_POLY1305 },
        iv: iv.as_ref().try_into().map_err(wrong)?,
        key: key.as_ref().try_into().map_err(wrong)?,
        salt: [],
        rec_seq: sequence.to_be_bytes(),
    })
}

/// Puts the TLS protocol on top of TCP. Nothing changes for the data until keys are set.
fn attach(stream: &TcpStream) -> Result<(), KernelTlsError> {
    let name = b"tls";
    // SAFETY: the pointer and length are those of `name`, which outlives the call; the kernel only reads them.
    unsafe { set(stream, libc::SOL_TCP, libc::TCP_ULP, name.as_ptr().cast(), name.len()) }
        .map_err(|source| KernelTlsError::of("TCP_ULP", source))
}

fn set_keys(stream: &TcpStream, option: &'static str, number: c_int, info: &CryptoInfo) -> Result<(), KernelTlsError> {
    let pointer = std::ptr::from_ref(info).cast();
    // SAFETY: `pointer` is to a `CryptoInfo`, whose size is given and whose layout is asserted above; it has no padding, it
    // outlives the call, and the kernel only reads it.
    unsafe { set(stream, libc::SOL_TLS, number, pointer, size_of::<CryptoInfo>()) }
        .map_err(|source| KernelTlsError::of(option, source))
}

/// Sets a socket option.
///
/// # Safety
/// `length` bytes at `value` are initialised and readable during the call.
unsafe fn set(stream: &TcpStream, level: c_int, option: c_int, value: *const c_void, length: usize) -> io::Result<()> {
    let length = socklen_t::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the descriptor is open as long as `stream` is borrowed; the caller vouches for `value` and `length`.
    match unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, value, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_succeeds_or_names_the_module() {
        match probe() {
            Ok(()) => assert!(std::fs::exists("/proc/net/tls_stat").unwrap()),
            Err(error) => {
                assert!(matches!(error, KernelTlsError::NoModule), "{error:?}");
                assert!(error.to_string().contains("modprobe tls"));
            }
        }
    }

    #[test]
    fn the_kernel_is_told_version_cipher_and_the_number_of_the_next_record() {
        let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 { key: [7; 32].into(), iv: [9; 12].into() };
        let info = crypto_info((258, secrets)).unwrap();
        assert_eq!((info.info.version, info.info.cipher_type), (0x0304, 54));
        assert_eq!((info.iv, info.key, info.rec_seq), ([9; 12], [7; 32], [0, 0, 0, 0, 0, 0, 1, 2]));
    }
}
