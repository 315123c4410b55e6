//! Bounds-checked reading from a byte slice.

use super::error::Fault;

/// The bytes not yet read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

macro_rules! fixed {
    ($($name:ident: $type:ty, $from:ident;)*) => {$(
        #[inline]
        pub(super) fn $name(&mut self) -> Result<$type, Fault> {
            self.array().map(<$type>::$from)
        }
    )*};
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Fault::TRUNCATED)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    fixed! {
        u16: u16, from_le_bytes;
        u32: u32, from_le_bytes;
        u64: u64, from_le_bytes;
        i16: i16, from_le_bytes;
        i32: i32, from_le_bytes;
        i64: i64, from_le_bytes;
        f32: f32, from_le_bytes;
        f64: f64, from_le_bytes;
    }

    /// `len` bytes (at most 8) as a little-endian number.
    #[inline]
    pub(super) fn uint_le(&mut self, len: usize) -> Result<u64, Fault> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// `len` bytes (at most 8) as a big-endian number.
    #[inline]
    pub(super) fn uint_be(&mut self, len: usize) -> Result<u64, Fault> {
        Ok(self.take(len)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A string behind its length in `len_bytes` little-endian bytes.
    #[inline]
    pub(super) fn prefixed(&mut self, len_bytes: usize) -> Result<&'a [u8], Fault> {
        let len = match len_bytes {
            1 => u64::from(self.u8()?),
            2 => u64::from(self.u16()?),
            _ => self.uint_le(len_bytes)?,
        };
        self.take(usize::try_from(len).map_err(|_| Fault::TRUNCATED)?)
    }

    /// A length-encoded integer (MySQL's protocol, "Length-Encoded Integers").
    pub(super) fn lenenc(&mut self) -> Result<u64, Fault> {
        match self.u8()? {
            small @ 0..=250 => Ok(u64::from(small)),
            252 => self.uint_le(2),
            253 => self.uint_le(3),
            254 => self.u64(),
            _ => Err(Fault("a length that is none")),
        }
    }

    /// A length-encoded integer that is a count or a length in this event.
    pub(super) fn lenenc_len(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.lenenc()?).map_err(|_| Fault::TRUNCATED)
    }

    /// A string behind its length-encoded length.
    pub(super) fn lenenc_bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = self.lenenc_len()?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers() {
        let cases: [(&[u8], Result<u64, Fault>); 8] = [
            (&[0], Ok(0)),
            (&[250], Ok(250)),
            (&[252, 251, 0], Ok(251)),
            (&[253, 1, 2, 3], Ok(0x03_02_01)),
            (&[254, 1, 0, 0, 0, 0, 0, 0, 0x80], Ok(0x8000_0000_0000_0001)),
            (&[252, 1], Err(Fault::TRUNCATED)),
            (&[251], Err(Fault("a length that is none"))),
            (&[], Err(Fault::TRUNCATED)),
        ];
        for (bytes, want) in cases {
            assert_eq!(Cursor::new(bytes).lenenc(), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_length_past_the_end_is_truncation() {
        let mut cursor = Cursor::new(&[254, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(cursor.lenenc_bytes(), Err(Fault::TRUNCATED));
    }
}
