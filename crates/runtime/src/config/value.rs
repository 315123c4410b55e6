//! The forms that a value can have, and how each is read from text.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::yaml::Node;

/// The form of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text that is not empty.
    Text,
    /// A text that is never shown.
    Secret,
    /// A file or folder.
    Path,
    /// An address that begins with `http://` or `https://`.
    Url,
    /// An IP address with a port, e.g. `127.0.0.1:9100`.
    Listen,
    /// A whole number within these bounds.
    Number(i64, i64),
    /// A time span of at least so many milliseconds.
    Duration(u64),
    /// One or two time spans: `1s..10s`.
    Pause,
    /// A number of bytes, at least one.
    Size,
    /// A log filter: levels, for all targets or for a target.
    LogFilter,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A YAML list; JSON text on the command line.
    List,
    /// A YAML map; `k=v,k=v` or JSON text on the command line.
    Map,
}

impl Kind {
    /// The fault of a text, as the end of a sentence.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Text | Self::Secret | Self::Path => Ok(()),
            // Messages print it unchanged.
            Self::Url if text.split('/').nth(2).is_some_and(|authority| authority.contains('@')) => {
                Err("holds a user: that belongs into schema_registry.user and schema_registry.secret".to_owned())
            }
            Self::Url if text.starts_with("http://") || text.starts_with("https://") => Ok(()),
            Self::Url => Err("does not begin with http:// or https://".to_owned()),
            Self::Listen if listen_addresses(text).is_some() => Ok(()),
            Self::Listen => {
                Err("is not an IP address with a port or a range of ports, e.g. 127.0.0.1:9100-9109".to_owned())
            }
            Self::Number(from, to) => match text.parse::<i64>() {
                Ok(n) if (from..=to).contains(&n) => Ok(()),
                _ => Err(format!("is not a whole number from {from} to {to}")),
            },
            Self::Duration(least) => match duration(text) {
                Some(d) if d >= Duration::from_millis(least) => Ok(()),
                Some(_) => Err(format!("is too short: at least {:?} is needed", Duration::from_millis(least))),
                None => Err("is not a time span with a unit, e.g. 500ms, 10s, 2m, 7d".to_owned()),
            },
            Self::Pause => match Pause::parse(text) {
                Some(_) => Ok(()),
                None => Err("is not a pause, e.g. 2s or 1s..10s".to_owned()),
            },
            Self::Size => match size(text) {
                Some(n) if n > 0 => Ok(()),
                _ => Err("is not a size, e.g. 65536, 512KiB or 64MiB".to_owned()),
            },
            // A single word that is not a level would select an unknown target, and the program would log nothing.
            Self::LogFilter
                if EnvFilter::try_new(text).is_ok()
                    && text.split(',').all(|part| part.contains(['=', '[', ']']) || is_level(part)) =>
            {
                Ok(())
            }
            Self::LogFilter => {
                Err("is none of error, warn, info, debug, trace, and no filter such as info,rdkafka=debug".to_owned())
            }
            Self::Choice(words) => match choice(text, words) {
                Some(_) => Ok(()),
                None => Err(format!("is none of {}", words.join(", "))),
            },
            Self::List => Node::parse_list(text).map(drop),
            Self::Map => Node::parse_map(text).map(drop),
        }
    }
}

fn is_level(word: &str) -> bool {
    word.trim().parse::<LevelFilter>().is_ok()
}

/// The word as the table spells it; capitals don't matter.
pub(super) fn choice(text: &str, words: &[&'static str]) -> Option<&'static str> {
    words.iter().find(|w| w.eq_ignore_ascii_case(text)).copied()
}

/// A time span such as `500ms`, `1m 30s` or `7d`; a day has 24 hours.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.trim().parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    duration.try_into().ok()
}

/// A number of bytes such as `65536`, `16MiB` or `2 GB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit: u64 = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "kib" | "k" => 1 << 10,
        "mb" => 1_000_000,
        "mib" | "m" => 1 << 20,
        "gb" => 1_000_000_000,
        "gib" | "g" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The time between two chunks, chosen at random between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Shortest.
    pub from: Duration,
    /// Longest.
    pub to: Duration,
}

impl Pause {
    /// Reads `2s` or `1s..10s`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let pause = Self { from: duration(from)?, to: duration(to)? };
        (pause.from <= pause.to).then_some(pause)
    }
}

/// A text that is never shown: not by `Debug`, not by `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, only for the client that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The addresses of `IP:PORT` or `IP:PORT-PORT`, in the order of their ports.
pub fn listen_addresses(text: &str) -> Option<impl Iterator<Item = SocketAddr> + use<>> {
    let (first, last) = match text.rsplit_once('-') {
        Some((first, last)) => (first.parse::<SocketAddr>().ok()?, last.parse::<u16>().ok()?),
        None => text.parse::<SocketAddr>().map(|address| (address, address.port())).ok()?,
    };
    (first.port() <= last).then(|| {
        (first.port()..=last).map(move |port| {
            let mut address = first;
            address.set_port(port);
            address
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("2m", Some(120_000)),
            ("7d", Some(604_800_000)),
            ("1m 30s", Some(90_000)),
            ("0s", Some(0)),
            ("10", None),
            ("-1s", None),
            ("1mo", None),
            ("", None),
            ("10 parsecs", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_count_in_1024_and_1000() {
        for (text, bytes) in [
            ("65536", Some(65536)),
            ("64MiB", Some(64 << 20)),
            ("16 mb", Some(16_000_000)),
            ("1GiB", Some(1 << 30)),
            ("1.5GB", None),
            ("MiB", None),
            ("99999999999GiB", None),
            ("-1", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn a_pause_is_one_span_or_two() {
        let seconds = |from, to| Some(Pause { from: Duration::from_secs(from), to: Duration::from_secs(to) });
        assert_eq!(Pause::parse("1s..10s"), seconds(1, 10));
        assert_eq!(Pause::parse("2s"), seconds(2, 2));
        assert_eq!(Pause::parse("10s..1s"), None);
    }

    #[test]
    fn a_secret_shows_nothing() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }
}
