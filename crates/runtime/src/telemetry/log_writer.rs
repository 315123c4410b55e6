//! Escapes text from outside as the last step before a log line goes to stderr.

use std::io::{self, Write};

use model::escape;

/// Writes events; each call of [`Write::write`] gets a whole one, with its newline.
pub(super) struct LogWriter<W = io::Stderr> {
    out: W,
    /// The formatter colours its lines. It escapes ESC in values, so only its own colours are left.
    colours: bool,
}

impl LogWriter {
    /// To stderr.
    pub(super) fn new(colours: bool) -> Self {
        Self { out: io::stderr(), colours }
    }
}

impl<W: Write> Write for LogWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        let line = if self.colours { coloured(line) } else { escape::escaped(line).into_owned() };
        self.out.write_all(format!("{line}{end}").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Escapes all but colours, `ESC [ digits m`.
fn coloured(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut out = escape::escaped(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        let end = part.strip_prefix('[').and_then(|p| p.find(|c: char| !c.is_ascii_digit() && c != ';'));
        match end {
            Some(end) if part.as_bytes()[end + 1] == b'm' => out.push('\u{1b}'),
            _ => out.push_str("\\u001b"),
        }
        out.push_str(&escape::escaped(part));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(event: &str, colours: bool) -> String {
        let mut writer = LogWriter { out: Vec::new(), colours };
        writer.write_all(event.as_bytes()).expect("memory");
        String::from_utf8(writer.out).expect("UTF-8")
    }

    #[test]
    fn an_event_is_one_line_without_commands() {
        assert_eq!(written("WARN a\n2026 ERROR b\u{202e}\n", false), "WARN a\\n2026 ERROR b\\u202e\n");
        assert_eq!(written("\u{1b}[31mred\n", false), "\\u001b[31mred\n");
        let coloured = "\u{1b}[2m2026\u{1b}[0m \u{1b}[1;33m WARN\u{1b}[0m";
        assert_eq!(
            written(&format!("{coloured} a\u{1b}[2Jb\u{1b}]0;c\u{1b}\n"), true),
            format!("{coloured} a\\u001b[2Jb\\u001b]0;c\\u001b\n")
        );
    }
}
