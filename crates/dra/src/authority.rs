//! Puts a valid `:authority` into the kubelet's requests.
//!
//! The kubelet dials the registration socket by its bare path (`pluginmanager/operationexecutor`, `dial`; seen in 1.34), and
//! grpc-go makes the percent-encoded path the `:authority` of every request: `%2Fvar%2Flib%2Fkubelet...`. That is no host, so
//! Rust's HTTP/2 ends the stream with PROTOCOL_ERROR before any of our code sees it. Over a Unix socket the value means
//! nothing; [`Readdressed`] replaces it by `localhost` on the way in and leaves everything else as it is.
//!
//! It works on whole frames (RFC 9113, section 4.1): a block of headers (HEADERS and its CONTINUATIONs) is decoded, which also
//! keeps the compression state, and written anew without compression. What is not understood is passed on unchanged, for the
//! HTTP/2 implementation behind to judge.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use fluke_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends first: `PRI * HTTP/2.0...`.
const PREFACE: usize = 24;
/// Length, type, flags, stream.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The kubelet's blocks have a few hundred bytes.
const MAX_BLOCK: usize = 16 * 1024;

/// A connection whose incoming requests are for `localhost`.
pub(crate) struct Readdressed<S> {
    inner: S,
    /// Read, but not a whole frame yet.
    raw: Vec<u8>,
    /// To be handed on, from `sent`.
    ready: Vec<u8>,
    sent: usize,
    preface_left: usize,
    decoder: Decoder<'static>,
    /// A block of headers whose end has not come yet: flags of its first frame, stream, fragments.
    block: Option<(u8, [u8; 4], Vec<u8>)>,
}

impl<S> Readdressed<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            raw: Vec::new(),
            ready: Vec::new(),
            sent: 0,
            preface_left: PREFACE,
            decoder: Decoder::new(),
            block: None,
        }
    }

    /// Moves what is complete from `raw` to `ready`.
    fn digest(&mut self) -> io::Result<()> {
        let preface = self.preface_left.min(self.raw.len());
        self.ready.extend(self.raw.drain(..preface));
        self.preface_left -= preface;
        while let Some((&[a, b, c, kind, flags, s0, s1, s2, s3], rest)) = self.raw.split_first_chunk::<FRAME_HEADER>() {
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(io::Error::other)?;
            let Some(payload) = rest.get(..length) else { return Ok(()) };
            let (stream, payload) = ([s0, s1, s2, s3], payload.to_vec());
            let frame: Vec<u8> = self.raw.drain(..FRAME_HEADER + length).collect();
            match (kind, self.block.take()) {
                (HEADERS, None) => match fragment(flags, &payload) {
                    Some(fragment) => self.collect(flags, stream, fragment, flags & END_HEADERS != 0)?,
                    None => self.ready.extend(frame),
                },
                (CONTINUATION, Some((first, of, mut fragments))) if of == stream => {
                    fragments.extend(payload);
                    self.collect(first, stream, fragments, flags & END_HEADERS != 0)?;
                }
                (_, None) => self.ready.extend(frame),
                (_, Some(_)) => return Err(io::Error::other("a block of HTTP/2 headers is interrupted")),
            }
        }
        Ok(())
    }

    /// Takes a block, and hands it on when it is complete.
    fn collect(&mut self, flags: u8, stream: [u8; 4], fragments: Vec<u8>, complete: bool) -> io::Result<()> {
        if fragments.len() > MAX_BLOCK {
            return Err(io::Error::other("a block of HTTP/2 headers is too long"));
        }
        if !complete {
            self.block = Some((flags, stream, fragments));
            return Ok(());
        }
        let headers = self.decoder.decode(&fragments);
        let headers = headers.map_err(|error| io::Error::other(format!("HTTP/2 headers: {error:?}")))?;
        let mut block = Vec::new();
        for (name, value) in headers {
            let value = if name == b":authority" { b"localhost".to_vec() } else { value };
            // Literal, never indexed, new name (RFC 7541, section 6.2.3): needs no state on either side.
            block.push(0x10);
            text(&mut block, &name);
            text(&mut block, &value);
        }
        let length = u32::try_from(block.len()).map_err(io::Error::other)?.to_be_bytes();
        self.ready.extend(length.iter().skip(1));
        self.ready.extend([HEADERS, flags & !(PADDED | PRIORITY) | END_HEADERS]);
        self.ready.extend(stream);
        self.ready.extend(block);
        Ok(())
    }
}

/// The fragment of a HEADERS frame, without padding and priority; None when it is malformed.
fn fragment(flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut rest = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (length, after) = rest.split_first()?;
        (padding, rest) = (usize::from(*length), after);
    }
    if flags & PRIORITY != 0 {
        rest = rest.get(5..)?;
    }
    Some(rest.get(..rest.len().checked_sub(padding)?)?.to_vec())
}

/// A string without Huffman coding: its length with a prefix of 7 bits (RFC 7541, section 5.1), then its bytes.
fn text(block: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    match u8::try_from(length) {
        Ok(short) if short < 127 => block.push(short),
        _ => {
            block.push(127);
            length -= 127;
            while length >= 128 {
                block.push(u8::try_from(length % 128).unwrap_or(0) | 128);
                length /= 128;
            }
            block.push(u8::try_from(length).unwrap_or(0));
        }
    }
    block.extend(bytes);
}

impl<S: AsyncRead + Unpin> AsyncRead for Readdressed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let waiting = this.ready.get(this.sent..).unwrap_or_default();
            if !waiting.is_empty() {
                let (now, _) = waiting.split_at(waiting.len().min(buffer.remaining()));
                buffer.put_slice(now);
                this.sent += now.len();
                if this.sent == this.ready.len() {
                    this.ready.clear();
                    this.sent = 0;
                }
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; 4096];
            let mut chunk = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.raw.extend_from_slice(chunk.filled());
            this.digest()?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readdressed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

impl<S> Connected for Readdressed<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    async fn through(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Readdressed::new(bytes).read_to_end(&mut out).await.unwrap();
        out
    }

    fn headers(value: &[u8]) -> Vec<u8> {
        let mut encoder = fluke_hpack::Encoder::new();
        encoder.encode([(&b":path"[..], &b"/x"[..]), (&b":authority"[..], value)])
    }

    fn decoded(frames: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        Decoder::new().decode(&frames[PREFACE + FRAME_HEADER..]).unwrap()
    }

    #[tokio::test]
    async fn the_path_of_a_socket_becomes_localhost_and_the_rest_stays() {
        let preface = vec![b'p'; PREFACE];
        let settings = frame(4, 0, &[]);
        let request = frame(HEADERS, END_HEADERS | 1, &headers(b"%2Fvar%2Flib%2Freg.sock"));
        let out = through(&[preface.clone(), request, settings.clone()].concat()).await;
        assert!(out.starts_with(&preface) && out.ends_with(&settings));
        let request = &out[..out.len() - settings.len()];
        assert_eq!(request[PREFACE + 4], END_HEADERS | 1, "the end of the stream is kept");
        assert_eq!(
            decoded(request),
            [(b":path".to_vec(), b"/x".to_vec()), (b":authority".to_vec(), b"localhost".to_vec())]
        );
    }

    #[tokio::test]
    async fn a_block_in_pieces_with_padding_is_put_together() {
        let block = headers(&[b'a'; 300]);
        let (head, tail) = block.split_at(7);
        let padded = [&[2], head, &[0, 0]].concat();
        let pieces = [frame(HEADERS, PADDED, &padded), frame(CONTINUATION, END_HEADERS, tail)].concat();
        let out = through(&[vec![b'p'; PREFACE], pieces].concat()).await;
        assert_eq!(decoded(&out)[1].1, b"localhost");
    }

    #[test]
    fn long_strings_have_long_lengths() {
        for length in [0, 126, 127, 128, 254, 255, 300, 5000] {
            let mut block = vec![0x10];
            text(&mut block, b"name");
            text(&mut block, &vec![b'v'; length]);
            assert_eq!(Decoder::new().decode(&block).unwrap(), [(b"name".to_vec(), vec![b'v'; length])]);
        }
    }
}
