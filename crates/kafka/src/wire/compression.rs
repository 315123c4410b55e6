//! The compression of a batch's records.

use std::io::{self, Read as _, Write as _};

/// How the records of a batch are compressed. The numbers are those of the batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// They are not.
    #[default]
    None = 0,
    /// `gzip`.
    Gzip = 1,
    /// `snappy`, raw.
    Snappy = 2,
    /// `lz4`, a frame of independent blocks: Kafka's Java code refuses others.
    Lz4 = 3,
    /// `zstd`.
    Zstd = 4,
}

impl Compression {
    /// The one with this name in `compression.type`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// Appends `bytes` to `out`, compressed.
    ///
    /// # Errors
    /// When the library fails; in memory, none does.
    pub fn compress(self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::None => out.extend_from_slice(bytes),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(bytes)?;
                encoder.finish()?;
            }
            Self::Snappy => {
                let start = out.len();
                out.resize(start + snap::raw::max_compress_len(bytes.len()), 0);
                let written = snap::raw::Encoder::new().compress(bytes, &mut out[start..])?;
                out.truncate(start + written);
            }
            Self::Lz4 => {
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, out);
                encoder.write_all(bytes)?;
                encoder.finish()?;
            }
            Self::Zstd => zstd::stream::copy_encode(bytes, out, zstd::DEFAULT_COMPRESSION_LEVEL)?,
        }
        Ok(())
    }

    /// What [`Self::compress`] has compressed.
    ///
    /// # Errors
    /// When `bytes` are something else.
    pub fn decompress(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::None => out.extend_from_slice(bytes),
            Self::Gzip => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)?),
            Self::Snappy => out = snap::raw::Decoder::new().decompress_vec(bytes)?,
            Self::Lz4 => drop(lz4_flex::frame::FrameDecoder::new(bytes).read_to_end(&mut out)?),
            Self::Zstd => zstd::stream::copy_decode(bytes, &mut out)?,
        }
        Ok(out)
    }
}
