//! The primitive types of Kafka's protocol: big-endian numbers, varints, compact strings and arrays, tagged fields.
//!
//! Source: "Protocol Primitive Types" in Kafka's protocol guide, KIP-482 (compact types and tagged fields).
//!
//! A reader allocates nothing for what a frame only claims: counts are checked against the bytes that are there.

/// A frame that is not what Kafka's protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What reads a part of a frame.
pub type Read<T> = Result<T, Malformed>;

/// Reads a frame from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk().ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*value)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (value, rest) = self.0.split_at_checked(count).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(value)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Read<bool> {
        Ok(self.array::<1>()? != [0])
    }

    /// An `INT16`.
    pub fn i16(&mut self) -> Read<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// An `INT32`.
    pub fn i32(&mut self) -> Read<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// An `INT64`.
    pub fn i64(&mut self) -> Read<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// An `UNSIGNED_VARINT`.
    pub fn uvarint(&mut self) -> Read<u32> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return if shift == 28 && byte > 0x0f { Err(Malformed("a varint is too large")) } else { Ok(value) };
            }
        }
        Err(Malformed("a varint is too long"))
    }

    /// A `VARINT` or `VARLONG`.
    pub fn varint(&mut self) -> Read<i64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(Malformed("a varint is too long"))
    }

    /// A `COMPACT_NULLABLE_BYTES`.
    pub fn compact_bytes(&mut self) -> Read<Option<&'a [u8]>> {
        match self.uvarint()? {
            0 => Ok(None),
            more => self.take(more as usize - 1).map(Some),
        }
    }

    /// A `COMPACT_NULLABLE_STRING`.
    pub fn compact_text(&mut self) -> Read<Option<&'a str>> {
        let bytes = self.compact_bytes()?;
        bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))).transpose()
    }

    /// A `STRING`.
    pub fn text(&mut self) -> Read<&'a str> {
        let length = usize::try_from(self.i16()?).map_err(|_| Malformed("a length is negative"))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Each element of a `COMPACT_ARRAY`.
    pub fn compact_array(&mut self, mut each: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        (1..self.uvarint()?).try_for_each(|_| each(self))
    }

    /// Each element of an `ARRAY`.
    pub fn array_of(&mut self, mut each: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        (0..self.i32()?).try_for_each(|_| each(self))
    }

    /// Each tagged field: its tag and its bytes.
    pub fn tags(&mut self, mut each: impl FnMut(u32, &mut Self) -> Read<()>) -> Read<()> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = self.uvarint()? as usize;
            each(tag, &mut Self(self.take(length)?))?;
        }
        Ok(())
    }

    /// Passes over the tagged fields.
    pub fn no_tags(&mut self) -> Read<()> {
        self.tags(|_, _| Ok(()))
    }
}

/// Appends an `UNSIGNED_VARINT`.
pub fn put_uvarint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a `COMPACT_STRING`, a `COMPACT_BYTES`.
pub fn put_compact(bytes: &[u8], out: &mut Vec<u8>) {
    put_uvarint(bytes.len() as u32 + 1, out);
    out.extend_from_slice(bytes);
}

/// Appends a `COMPACT_NULLABLE_STRING`.
pub fn put_compact_or_null(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => put_compact(bytes, out),
        None => out.push(0),
    }
}

/// Appends a `STRING`.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as i16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends the count of a `COMPACT_ARRAY`.
pub fn put_count(count: usize, out: &mut Vec<u8>) {
    put_uvarint(count as u32 + 1, out);
}

/// Appends no tagged fields.
pub fn put_no_tags(out: &mut Vec<u8>) {
    out.push(0);
}
