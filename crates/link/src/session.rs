//! A granted call that the kernel has not taken over yet.

use std::io::{self, BufRead as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustls::{Connection, ExtractedSecrets};
use tokio_rustls::TlsStream;

use crate::ktls::{self, KernelTlsError};
use crate::records::Records;

/// A connection on which everything has been said, in our process still. Dropping it ends the session.
#[derive(Debug)]
pub struct Session {
    stream: TlsStream<Records>,
}

impl Session {
    pub(crate) fn new(stream: TlsStream<Records>) -> Self {
        Self { stream }
    }

    /// Gives the connection to the kernel and returns its socket, which is what USB/IP and QEMU want: plain bytes written to it
    /// or read from it are inside TLS on the wire. The socket blocks. Closing it without a word is how a session ends.
    ///
    /// # Errors
    /// [`KernelTlsError`]; the connection is closed then.
    pub fn into_kernel(self) -> Result<OwnedFd, KernelTlsError> {
        let (tcp, secrets) = self.into_parts()?;
        ktls::hand_over(tcp, secrets)
    }

    /// The connection, to go on talking through the library.
    #[cfg(test)]
    pub(crate) fn into_stream(self) -> TlsStream<Records> {
        self.stream
    }

    /// Takes the connection apart, if nothing of it is left in between.
    pub(crate) fn into_parts(self) -> Result<(TcpStream, ExtractedSecrets), KernelTlsError> {
        let not_ready = |what: &str| KernelTlsError::NotReady(what.to_owned());
        let (records, mut connection) = match self.stream {
            TlsStream::Client(stream) => {
                let (records, connection) = stream.into_inner();
                (records, Connection::from(connection))
            }
            TlsStream::Server(stream) => {
                let (records, connection) = stream.into_inner();
                (records, Connection::from(connection))
            }
        };
        if connection.wants_write() {
            return Err(not_ready("something is still to be sent"));
        }
        let left = connection.reader().fill_buf().map(<[u8]>::len);
        match left {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Err(not_ready("the peer said something that was not expected")),
        }
        let tcp = records.into_tcp().ok_or_else(|| not_ready("the peer has sent half a record"))?;
        let secrets = connection.dangerous_extract_secrets().map_err(|error| not_ready(&error.to_string()))?;
        let refused = |source| KernelTlsError::Refused { option: "a blocking socket", source };
        let tcp = tcp.into_std().map_err(refused)?;
        tcp.set_nonblocking(false).map_err(refused)?;
        Ok((tcp, secrets))
    }
}
