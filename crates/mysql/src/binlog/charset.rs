//! MySQL's character sets, by collation id, and their conversion to text.
//!
//! Ids as `information_schema.collations` lists them on MySQL 9 and MariaDB 10.11.

use std::borrow::Cow;

use super::error::Fault;

/// A character set that converts to Unicode without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8 with 4 bytes at most: `utf8mb4`, `utf8mb3`.
    Utf8,
    /// 7 bits.
    Ascii,
    /// MySQL's latin1: Windows-1252, with C1 controls in its five gaps.
    Latin1,
    /// Not text.
    Binary,
    /// 2 bytes a character, big-endian: `ucs2`. MySQL takes half a surrogate pair for a character, which has no UTF-8.
    Ucs2,
    /// The same with surrogate pairs.
    Utf16,
    /// The same, little-endian.
    Utf16Le,
    /// 4 bytes a character, big-endian.
    Utf32,
}

impl Charset {
    /// The charset of a collation, or the name of an unsupported charset.
    pub(super) fn of_collation(id: u64) -> Result<Self, &'static str> {
        // MariaDB numbers its collations without padding 1024 above those with padding.
        let id = if (1025..2048).contains(&id) { id - 1024 } else { id };
        Ok(match id {
            33 | 76 | 83 | 192..=215 | 223 | 2048..=2303 => Self::Utf8,
            45 | 46 | 224..=247 | 255..=323 | 576..=578 | 608..=610 | 2304..=2559 => Self::Utf8,
            11 | 65 => Self::Ascii,
            5 | 8 | 15 | 31 | 47..=49 | 94 => Self::Latin1,
            63 => Self::Binary,
            35 | 90 | 128..=151 | 159 | 640..=642 => Self::Ucs2,
            54 | 55 | 101..=124 | 672..=674 => Self::Utf16,
            56 | 62 => Self::Utf16Le,
            60 | 61 | 160..=183 | 736..=738 => Self::Utf32,
            _ => return Err(charset_name(id)),
        })
    }

    /// Converts `bytes` to text; borrows where the bytes are UTF-8 already.
    #[inline]
    pub(super) fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
        match self {
            Self::Utf8 | Self::Binary => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(_) => Err(Fault("text that is not UTF-8 in a utf8 column")),
            },
            Self::Ascii | Self::Latin1 if bytes.is_ascii() => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Fault("text that is not ASCII"))
            }
            Self::Ascii => Err(Fault("a byte above 127 in an ascii column")),
            Self::Latin1 => Ok(Cow::Owned(bytes.iter().map(|byte| latin1(*byte)).collect())),
            Self::Ucs2 => ucs2(bytes),
            Self::Utf16 => utf16(bytes, u16::from_be_bytes),
            Self::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Self::Utf32 => utf32(bytes),
        }
    }
}

fn latin1(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9f => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

fn ucs2(bytes: &[u8]) -> Result<Cow<'static, str>, Fault> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return Err(Fault("half a 2-byte character"));
    };
    units
        .iter()
        .map(|bytes| char::from_u32(u32::from(u16::from_be_bytes(*bytes))))
        .collect::<Option<String>>()
        .map(Cow::Owned)
        .ok_or(Fault("half a surrogate pair"))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'static, str>, Fault> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return Err(Fault("half a 2-byte character"));
    };
    char::decode_utf16(units.iter().map(|bytes| unit(*bytes)))
        .collect::<Result<String, _>>()
        .map(Cow::Owned)
        .map_err(|_| Fault("half a surrogate pair"))
}

fn utf32(bytes: &[u8]) -> Result<Cow<'static, str>, Fault> {
    let (units, []) = bytes.as_chunks::<4>() else {
        return Err(Fault("part of a 4-byte character"));
    };
    units
        .iter()
        .map(|bytes| char::from_u32(u32::from_be_bytes(*bytes)))
        .collect::<Option<String>>()
        .map(Cow::Owned)
        .ok_or(Fault("a code point that is none"))
}

fn charset_name(id: u64) -> &'static str {
    match id {
        1 | 84 => "big5",
        2 | 9 | 21 | 27 | 77 => "latin2",
        3 | 69 => "dec8",
        4 | 80 => "cp850",
        6 | 72 => "hp8",
        7 | 74 => "koi8r",
        10 | 82 => "swe7",
        12 | 91 => "ujis",
        13 | 88 => "sjis",
        14 | 23 | 50..=52 => "cp1251",
        16 | 71 => "hebrew",
        18 | 89 => "tis620",
        19 | 85 => "euckr",
        20 | 41 | 42 | 79 => "latin7",
        22 | 75 => "koi8u",
        24 | 86 => "gb2312",
        25 | 70 => "greek",
        26 | 34 | 44 | 66 | 99 => "cp1250",
        28 | 87 => "gbk",
        29 | 58 | 59 => "cp1257",
        30 | 78 => "latin5",
        32 | 64 => "armscii8",
        36 | 68 => "cp866",
        37 | 73 => "keybcs2",
        38 | 43 => "macce",
        39 | 53 => "macroman",
        40 | 81 => "cp852",
        57 | 67 => "cp1256",
        92 | 93 => "geostd8",
        95 | 96 => "cp932",
        97 | 98 => "eucjpms",
        248..=250 => "gb18030",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts() {
        let cases: [(Charset, &[u8], &str); 11] = [
            (Charset::Ucs2, &[0x00, 0x41, 0x03, 0xa9], "AΩ"),
            (Charset::Utf8, "ΩŸ😀".as_bytes(), "ΩŸ😀"),
            (Charset::Ascii, b"plain\x7f", "plain\u{7f}"),
            (Charset::Latin1, b"\x80\x81\x9f\xa0\xe4\xff", "€\u{81}Ÿ\u{a0}äÿ"),
            (Charset::Latin1, b"", ""),
            (Charset::Utf16, &[0x00, 0x41, 0x03, 0xa9], "AΩ"),
            (Charset::Utf16, &[0xd8, 0x3d, 0xde, 0x00], "😀"),
            (Charset::Utf16Le, &[0x3d, 0xd8, 0x00, 0xde], "😀"),
            (Charset::Utf32, &[0, 1, 0xf6, 0], "😀"),
            (Charset::Utf32, &[], ""),
            (Charset::Utf16, &[], ""),
        ];
        for (charset, bytes, want) in cases {
            assert_eq!(charset.decode(bytes).as_deref(), Ok(want), "{charset:?} {bytes:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_text() {
        let cases: [(Charset, &[u8]); 8] = [
            (Charset::Ucs2, &[0xd8, 0x3d, 0xde, 0x00]),
            (Charset::Utf8, b"\xff"),
            (Charset::Ascii, b"\x80"),
            (Charset::Utf16, &[0x41]),
            (Charset::Utf16, &[0xd8, 0x3d]),
            (Charset::Utf16Le, &[0x00, 0xde]),
            (Charset::Utf32, &[0, 0x11, 0, 0]),
            (Charset::Utf32, &[0, 0, 0]),
        ];
        for (charset, bytes) in cases {
            assert!(charset.decode(bytes).is_err(), "{charset:?} {bytes:?}");
        }
    }

    #[test]
    fn collations() {
        for (id, want) in [
            (8, Ok(Charset::Latin1)),
            (33, Ok(Charset::Utf8)),
            (255, Ok(Charset::Utf8)),
            (63, Ok(Charset::Binary)),
            (1070, Ok(Charset::Utf8)),
            (95, Err("cp932")),
            (248, Err("gb18030")),
            (0, Err("unknown")),
            (u64::MAX, Err("unknown")),
        ] {
            assert_eq!(Charset::of_collation(id), want, "{id}");
        }
    }
}
