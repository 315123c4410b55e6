//! The bytes on a connection: frames that are still to be written, and frames that arrive.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use super::bytes::Malformed;

/// Bytes of the largest frame that is read.
const LARGEST: usize = 16 << 20;
/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// Slices that are written at once.
const SLICES: usize = 64;

/// Bytes to be written.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Of this frame only.
    Own(Vec<u8>),
    /// A batch of records, which is kept to be sent again.
    Batch(Arc<Vec<u8>>),
}

impl Piece {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Batch(bytes) => bytes,
        }
    }
}

/// Frames that are still to be written.
#[derive(Debug, Default)]
pub struct Outgoing {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are written.
    written: usize,
}

impl Outgoing {
    /// Adds the pieces of a frame.
    pub fn add(&mut self, frame: impl IntoIterator<Item = Piece>) {
        self.pieces.extend(frame);
    }

    /// Whether nothing is left to be written.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What is to be written next.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let pieces = self.pieces.iter().take(SLICES).enumerate();
        pieces.map(|(index, piece)| IoSlice::new(&piece.bytes()[if index == 0 { self.written } else { 0 }..])).collect()
    }

    /// So many bytes were written.
    pub fn written(&mut self, mut count: usize) {
        while let Some(first) = self.pieces.front() {
            let left = first.bytes().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.pieces.pop_front();
        }
    }
}

/// Frames that arrive. Its memory grows with the bytes that have arrived, not with what a frame claims.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
    /// Bytes that have arrived.
    end: usize,
}

impl Incoming {
    /// Where the next bytes are to be read into.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() < self.end + READ {
            self.bytes.resize(self.end + READ, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were read into the space.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The next complete frame without its length.
    ///
    /// # Errors
    /// When its length is not that of an answer.
    pub fn frame(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let arrived = &self.bytes[self.start..self.end];
        let Some((length, rest)) = arrived.split_first_chunk() else { return Ok(None) };
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(Malformed("its length is no answer's: is it a Kafka broker, and with this security protocol?"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let begin = self.start + 4;
        self.start = begin + length;
        Ok(Some(&self.bytes[begin..begin + length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(incoming: &mut Incoming, bytes: &[u8]) {
        incoming.space()[..bytes.len()].copy_from_slice(bytes);
        incoming.filled(bytes.len());
    }

    #[test]
    fn frames_arrive_in_any_parts() {
        let stream = [&[0, 0, 0, 2, 7, 8][..], &[0, 0, 0, 0], &[0, 0, 0, 1, 9]].concat();
        for part in 1..stream.len() {
            let mut incoming = Incoming::default();
            let mut frames = Vec::new();
            for bytes in stream.chunks(part) {
                arrive(&mut incoming, bytes);
                while let Some(frame) = incoming.frame().expect("a frame") {
                    frames.push(frame.to_vec());
                }
            }
            assert_eq!(frames, [vec![7, 8], vec![], vec![9]], "in parts of {part}");
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_without_memory() {
        for length in [LARGEST as u32 + 1, u32::MAX, 0x4854_5450] {
            let mut incoming = Incoming::default();
            arrive(&mut incoming, &length.to_be_bytes());
            assert!(incoming.frame().is_err(), "{length:#x}");
            assert!(incoming.bytes.len() <= READ);
        }
    }

    #[test]
    fn what_was_written_goes_in_order() {
        let mut outgoing = Outgoing::default();
        outgoing.add([Piece::Own(vec![1, 2, 3]), Piece::Batch(Arc::new(vec![4, 5])), Piece::Own(vec![6])]);
        let mut seen = Vec::new();
        for count in [1, 3, 1, 1] {
            let next: Vec<u8> = outgoing.slices().iter().flat_map(|slice| slice.to_vec()).collect();
            seen.extend_from_slice(&next[..count]);
            outgoing.written(count);
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
        assert!(outgoing.is_empty());
    }
}
