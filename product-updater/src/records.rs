//! The records of a CSV file by RFC 4180, strictly: quoting that the format does not define is a fault of the record.
//!
//! Lines end with LF, CRLF or CR; empty lines are ignored. A field that begins with a quote ends with one, and quotes
//! within it are doubled; any other field has no quote. After a fault the reader continues at the next line end, so the
//! faulty record includes the text that an open quote has swallowed up to there. The limit on a record bounds the
//! memory.
//!
//! (The crate `csv` accepts malformed quotes as text, so it is not used here.)

use std::io::{self, BufRead};

/// A record: its fields, and its bytes in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its bytes without the line end; if it is too long, only the beginning.
    pub(crate) raw: Vec<u8>,
    /// The line of its first byte, from 1.
    pub(crate) line: u64,
    /// The offset of its first byte in the file.
    pub(crate) byte: u64,
    /// Fields one after the other, without quotes.
    text: Vec<u8>,
    /// Where each field ends in `text`.
    ends: Vec<usize>,
}

impl Record {
    /// The number of fields.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A field's bytes.
    pub(crate) fn get(&self, field: usize) -> Option<&[u8]> {
        let end = *self.ends.get(field)?;
        let start = field.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..end)
    }

    /// All fields in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|field| self.get(field))
    }

    fn clear(&mut self) {
        self.raw.clear();
        self.text.clear();
        self.ends.clear();
    }
}

/// Quoting that RFC 4180 does not define, or a record that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The index of the faulty field, from 0; `None` when the fault concerns the whole record.
    pub(crate) field: Option<usize>,
    /// The fault, with the lost lines when there are several.
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The beginning of a field.
    Start,
    /// Within a field without quotes.
    Plain,
    /// Within quotes.
    Quoted,
    /// After a quote within quotes: the end of the field, or the first of two quotes.
    Quote,
    /// After a fault: the next line end ends the record.
    Broken,
}

/// A reader of records.
pub(crate) struct Records<R> {
    input: R,
    /// Maximum bytes of a record.
    limit: usize,
    byte: u64,
    line: u64,
    /// The previous byte.
    previous: u8,
    /// The last record that was read.
    pub(crate) record: Record,
    at: At,
    /// The first fault of this record.
    fault: Option<Malformed>,
    /// The line of the last quote that opened a field of this record.
    quote_line: u64,
}

impl<R: BufRead> Records<R> {
    /// Reads from `input`, which is at this offset of its file; a record has at most `limit` bytes.
    pub(crate) fn new(input: R, byte: u64, limit: usize) -> Self {
        Self {
            input,
            limit,
            byte,
            line: 1,
            previous: 0,
            record: Record::default(),
            at: At::Start,
            fault: None,
            quote_line: 0,
        }
    }

    /// Bytes of the file up to here.
    pub(crate) fn position(&self) -> u64 {
        self.byte
    }

    /// Reads the next record into [`Records::record`]; false at the end of the file.
    ///
    /// # Errors
    /// The outer error when the input can't be read; the inner one when the record is malformed. The record's bytes are
    /// then available as well.
    pub(crate) fn next(&mut self) -> io::Result<Result<bool, Malformed>> {
        self.record.clear();
        (self.at, self.fault, self.quote_line) = (At::Start, None, 0);
        let mut begun = false;
        loop {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                let last_line = self.line - u64::from(matches!(self.previous, b'\r' | b'\n'));
                return Ok(if begun { self.end(last_line) } else { Ok(false) });
            }
            let (mut used, mut last_line) = (0, None);
            for &byte in bytes {
                used += 1;
                let line = self.line;
                let line_end = matches!(byte, b'\r' | b'\n');
                self.line += u64::from(line_end && !(byte == b'\n' && self.previous == b'\r'));
                self.previous = byte;
                if line_end && self.at != At::Quoted {
                    if begun {
                        last_line = Some(line);
                        break;
                    }
                    continue;
                }
                if !begun {
                    begun = true;
                    (self.record.line, self.record.byte) = (line, self.byte + used as u64 - 1);
                }
                // Separate fields, since the input's buffer is borrowed.
                let parse = Parse {
                    record: &mut self.record,
                    at: &mut self.at,
                    fault: &mut self.fault,
                    quote_line: &mut self.quote_line,
                };
                parse.take(byte, line, self.limit);
            }
            self.input.consume(used);
            self.byte += used as u64;
            if let Some(line) = last_line {
                return Ok(self.end(line));
            }
        }
    }

    /// The record is complete; `last` is its last line.
    fn end(&mut self, last: u64) -> Result<bool, Malformed> {
        if self.at == At::Quoted {
            let reason = "the quote that opens the field is never closed".to_owned();
            self.fault = Some(Malformed { field: Some(self.record.len()), reason });
        }
        self.record.ends.push(self.record.text.len());
        let Some(mut fault) = self.fault.take() else { return Ok(true) };
        if fault.field.is_none() {
            fault.reason = format!("the row has more than {} bytes (updater.row_bytes)", self.limit);
        }
        let first = self.record.line;
        if last > first {
            let from = self.quote_line;
            fault.reason.push_str(&format!(
                "; the quote in line {from} makes lines {first} to {last} one row: is a quote missing?"
            ));
        }
        Err(fault)
    }
}

/// The parts of [`Records`] that a byte changes.
struct Parse<'a> {
    record: &'a mut Record,
    at: &'a mut At,
    fault: &'a mut Option<Malformed>,
    quote_line: &'a mut u64,
}

impl Parse<'_> {
    fn take(self, byte: u8, line: u64, limit: usize) {
        let Self { record, at, fault, quote_line } = self;
        if record.raw.len() < limit {
            record.raw.push(byte);
        } else if fault.is_none() {
            *fault = Some(Malformed { field: None, reason: String::new() });
        }
        let kept = fault.is_none();
        let field = Some(record.len());
        let text = &mut record.text;
        let mut keep = |then: At| {
            if kept {
                text.push(byte);
            }
            then
        };
        *at = match (*at, byte) {
            (At::Broken, _) => At::Broken,
            (At::Start, b'"') => {
                *quote_line = line;
                At::Quoted
            }
            (At::Quoted, b'"') => At::Quote,
            (At::Quote, b'"') | (At::Quoted, _) => keep(At::Quoted),
            (At::Start | At::Plain | At::Quote, b',') => {
                if kept {
                    record.ends.push(record.text.len());
                }
                At::Start
            }
            (At::Plain, b'"') => {
                let reason = "a quote within a field that does not begin with one: put the field in quotes, and double the \
                              quotes within it";
                fault.get_or_insert(Malformed { field, reason: reason.to_owned() });
                At::Broken
            }
            (At::Start | At::Plain, _) => keep(At::Plain),
            (At::Quote, _) => {
                let reason = format!(
                    "after the closing quote comes {:?}, not a comma or the end of the row: double a quote that belongs to \
                     the text",
                    char::from(byte)
                );
                fault.get_or_insert(Malformed { field, reason });
                At::Broken
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    /// Each record as its fields or its fault, with the line at which it begins.
    fn read(text: &[u8], limit: usize, buffer: usize) -> Vec<(u64, String)> {
        let mut records = Records::new(BufReader::with_capacity(buffer, text), 0, limit);
        let mut all = Vec::new();
        loop {
            let read = records.next().expect("bytes in memory");
            if read == Ok(false) {
                return all;
            }
            let record = &records.record;
            let begins = usize::try_from(record.byte).expect("small");
            assert!(text[begins..].starts_with(&record.raw), "the bytes are those of the file");
            let shown = match read {
                Ok(_) => record.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect::<Vec<_>>().join("|"),
                Err(fault) => format!("field {:?}: {}", fault.field, fault.reason),
            };
            all.push((record.line, shown));
        }
    }

    #[test]
    fn what_the_format_defines_is_read() {
        for buffer in [1, 3, 64] {
            for (text, want) in [
                (&b"a,b\nc,d\n"[..], vec![(1, "a|b"), (2, "c|d")]),
                (b"a,b\r\n\r\n\nc,\r\n", vec![(1, "a|b"), (4, "c|")]),
                (b"a\rb\rc", vec![(1, "a"), (2, "b"), (3, "c")]),
                (b"\"a\"\"b\",\"c,d\"\n,\n", vec![(1, "a\"b|c,d"), (2, "|")]),
                (b"\"a\r\nb\",x\r\n\"\",y", vec![(1, "a\r\nb|x"), (3, "|y")]),
                (b"", vec![]),
                (b"\n\n", vec![]),
            ] {
                let got = read(text, 100, buffer);
                let got: Vec<(u64, &str)> = got.iter().map(|(line, text)| (*line, text.as_str())).collect();
                assert_eq!(got, want, "{:?} with a buffer of {buffer}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn malformed_quotes_cost_their_row_and_what_they_swallowed() {
        for (text, want) in [
            (&b"5,\"24\" monitor\",x\n6,y\n"[..], (1, "field Some(1): after the closing quote comes ' '", "6|y")),
            (b"6,\"24\\\" monitor\",x\n7,y\n", (1, "field Some(1): after the closing quote comes ' '", "7|y")),
            (b"6,24\" monitor,x\n7,y\n", (1, "field Some(1): a quote within a field", "7|y")),
            (b"6, \"a\",x\n7,y\n", (1, "field Some(1): a quote within a field", "7|y")),
            (b"6,\"open\n7,\"b\",y\n8,z\n", (1, "the quote in line 1 makes lines 1 to 2 one row", "8|z")),
        ] {
            let got = read(text, 100, 7);
            assert_eq!(got.len(), 2, "{got:?}");
            assert_eq!(got[0].0, want.0);
            assert!(got[0].1.contains(want.1), "{got:?}");
            assert_eq!(got[1].1, want.2);
        }
        let open = read(b"a,b\n6,\"open\n7,y\n8,z\n", 100, 7);
        assert_eq!(open.len(), 2);
        assert!(open[1].1.starts_with("field Some(1): the quote that opens the field is never closed"), "{open:?}");
        assert!(open[1].1.ends_with("the quote in line 2 makes lines 2 to 4 one row: is a quote missing?"), "{open:?}");
    }

    #[test]
    fn a_record_beyond_the_limit_is_read_in_bounded_memory() {
        let mut text = b"1,a\n2,\"".to_vec();
        text.resize(1 << 20, b'x');
        text.extend_from_slice(b"\",\"b\n\"\n3,c\n");
        let mut records = Records::new(BufReader::new(&text[..]), 0, 1000);
        assert_eq!(records.next().expect("bytes"), Ok(true));
        let fault = records.next().expect("bytes").expect_err("too long");
        let want = "the row has more than 1000 bytes (updater.row_bytes); the quote in line 2 makes lines 2 to 3 one row: is a \
                    quote missing?";
        assert_eq!((fault.field, fault.reason.as_str()), (None, want));
        assert_eq!(records.record.raw.len(), 1000);
        assert!(records.record.raw.capacity() <= 2048 && records.record.text.capacity() <= 2048);
        assert_eq!((records.next().expect("bytes"), records.record.line), (Ok(true), 4));
        assert_eq!(records.next().expect("bytes"), Ok(false));
    }
}
