//! A TCP stream that is read one TLS record at a time.
//!
//! A TLS library reads as much as it can get. Whatever it has read when the kernel takes over is lost to the kernel. So this
//! stream never gives it bytes beyond the end of the record it is in: what the peer sent after that stays in the socket,
//! where the kernel finds it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Type, version and length come before each record (RFC 8446, section 5.1).
const HEADER: usize = 5;

/// Where in the stream of records a reader is.
#[derive(Debug, Default)]
struct Position {
    header: [u8; HEADER],
    /// Bytes of the header that were read; all of them while in the body.
    seen: usize,
    /// Bytes of the body that are to come.
    body: usize,
}

impl Position {
    /// How many bytes may be read without leaving this record.
    fn room(&self) -> usize {
        if self.seen < HEADER { HEADER.saturating_sub(self.seen) } else { self.body }
    }

    /// Takes note of bytes that were read, at most `room` of them.
    fn advance(&mut self, bytes: &[u8]) {
        if self.seen < HEADER {
            for (slot, byte) in self.header.iter_mut().skip(self.seen).zip(bytes) {
                *slot = *byte;
            }
            self.seen = self.seen.saturating_add(bytes.len());
            if self.seen >= HEADER {
                let [_, _, _, high, low] = self.header;
                self.body = u16::from_be_bytes([high, low]).into();
            }
        } else {
            self.body = self.body.saturating_sub(bytes.len());
        }
        if self.seen >= HEADER && self.body == 0 {
            self.seen = 0;
        }
    }
}

/// A TCP stream, read record by record and written as it comes.
#[derive(Debug)]
pub(crate) struct Records {
    tcp: TcpStream,
    position: Position,
}

impl Records {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, position: Position::default() }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The stream, if it stands between two records.
    pub(crate) fn into_tcp(self) -> Option<TcpStream> {
        (self.position.seen == 0).then_some(self.tcp)
    }
}

impl AsyncRead for Records {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut space = [0; 2048];
        let room = this.position.room().min(target.remaining()).min(space.len());
        let mut part = ReadBuf::new(space.get_mut(..room).unwrap_or_default());
        ready!(Pin::new(&mut this.tcp).poll_read(context, &mut part))?;
        this.position.advance(part.filled());
        target.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    proptest! {
        #[test]
        fn a_reader_stops_at_every_end_of_a_record_and_nowhere_else(
            bodies in proptest::collection::vec(0_u16..300, 1..8),
            steps in proptest::collection::vec(1_usize..200, 0..64),
        ) {
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| [vec![23, 3, 3], body.to_be_bytes().to_vec(), vec![9; usize::from(*body)]].concat()).collect();
            let mut ends: Vec<usize> = bodies.iter().scan(0, |at, body| { *at += HEADER + usize::from(*body); Some(*at) }).collect();
            ends.reverse();
            let (mut at, mut steps, mut position) = (0, steps.into_iter(), Position::default());
            while at < stream.len() {
                let n = position.room().min(steps.next().unwrap_or(usize::MAX));
                prop_assert!(n > 0);
                position.advance(&stream[at..at + n]);
                at += n;
                let end = ends.last() == Some(&at);
                prop_assert!(end || ends.last().is_some_and(|end| at < *end));
                prop_assert_eq!(position.seen == 0, end);
                if end { ends.pop(); }
            }
        }
    }

    #[tokio::test]
    async fn what_follows_a_record_stays_in_the_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut records = Records::new(listener.accept().await.unwrap().0);
        peer.write_all(&[23, 3, 3, 0, 2, 1, 2, 23, 3, 3, 0, 1, 7]).await.unwrap();
        let mut space = [0; 64];
        let mut got = 0;
        while got < 7 {
            got += records.read(&mut space[got..]).await.unwrap();
        }
        assert_eq!(space[..got], [23, 3, 3, 0, 2, 1, 2]);
        let mut tcp = records.into_tcp().unwrap();
        assert_eq!(tcp.read(&mut space).await.unwrap(), 6);
    }
}
