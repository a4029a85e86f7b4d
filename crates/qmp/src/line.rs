//! Lines out of a byte stream, with a limit.

/// Longest line that is accepted. QEMU's largest real answers are some tens of kilobytes.
pub const MAX_LINE: usize = 1 << 20;

/// The peer sent more than [`MAX_LINE`] bytes without a line's end.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

/// Collects bytes and gives back whole lines, in order, without their ends.
///
/// Never holds more than [`MAX_LINE`] bytes plus what one `push` brought.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer known to hold no line end.
    scanned: usize,
}

impl Lines {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`TooLong`] for a line, finished or not, over the limit. The stream cannot be used after that.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(at) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.buffer.len();
            return if self.scanned > MAX_LINE { Err(TooLong) } else { Ok(None) };
        };
        let end = self.scanned.saturating_add(at);
        if end > MAX_LINE {
            return Err(TooLong);
        }
        let rest = self.buffer.split_off(end.saturating_add(1));
        let mut line = std::mem::replace(&mut self.buffer, rest);
        self.scanned = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        for (length, fits) in [(MAX_LINE, true), (MAX_LINE + 1, false)] {
            let mut lines = Lines::default();
            lines.push(&vec![b'x'; length]);
            lines.push(b"\n");
            assert_eq!(lines.next_line().is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn an_endless_line_is_refused_before_it_ends() {
        let mut lines = Lines::default();
        let mut pushed = 0;
        while lines.next_line().is_ok() {
            lines.push(&[b'x'; 8192]);
            pushed += 8192;
            assert!(pushed <= MAX_LINE + 8192);
        }
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_the_stream_is_cut(
            texts in proptest::collection::vec("[a-z{}]{0,20}", 0..8),
            cuts in proptest::collection::vec(1_usize..9, 0..64),
        ) {
            let stream: Vec<u8> = texts.iter().flat_map(|text| format!("{text}\r\n").into_bytes()).collect();
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            let mut rest = stream.as_slice();
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
                lines.push(now);
                rest = later;
                while let Some(line) = lines.next_line().unwrap() {
                    seen.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(seen, texts);
        }
    }
}
