//! The subset of YAML that the configuration needs: texts, lists and maps, each with its line number.
//!
//! A value stays the text of the file, because a password of `0123` is not the number 123.
//! Anchors, aliases and several documents are refused.

use std::fmt::Write;

use granit_parser::{Event, Parser, ScalarStyle};

/// A piece of YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Nothing, `~` or `null`.
    Null,
    /// A text.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the file's order.
    Map(Vec<Entry>),
}

/// One line of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) node: Node,
}

/// What is wrong, and in which line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) reason: String,
}

impl Node {
    /// Reads one document; an empty one is [`Node::Null`].
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let mut events = Events { parser: Parser::new_from_str(text), depth: 0 };
        let mut root = None;
        loop {
            match events.next()? {
                (Event::StreamEnd, _) => return Ok(root.unwrap_or(Self::Null)),
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                (_, line) if root.is_some() => return Err(Fault::new(line, "a second document begins here")),
                (event, line) => root = Some(events.node(event, line)?),
            }
        }
    }

    /// Reads a list, or a single text as a list of one.
    pub(super) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        match Self::parse(text) {
            Ok(Self::List(items)) => Ok(items),
            Ok(Self::Null) => Ok(Vec::new()),
            Ok(scalar @ Self::Scalar(_)) => Ok(vec![scalar]),
            Ok(Self::Map(_)) => Err("is a map, but a list is wanted, e.g. [a, b]".to_owned()),
            Err(fault) => Err(format!("is not a list, e.g. [a, b]: {}", fault.reason)),
        }
    }

    /// Reads a map of texts, as YAML, JSON or `k=v,k=v`.
    pub(super) fn parse_map(text: &str) -> Result<Vec<(String, String)>, String> {
        const WANTED: &str = "is not a map of texts, e.g. {a: b} or a=b,c=d";
        match Self::parse(text) {
            Ok(Self::Null) => Ok(Vec::new()),
            Ok(Self::Map(entries)) => {
                let pair = |entry: Entry| match entry.node {
                    Self::Scalar(value) => Ok((entry.key, value)),
                    _ => Err(format!("{WANTED}: {} has no text as its value", entry.key)),
                };
                entries.into_iter().map(pair).collect()
            }
            Ok(Self::Scalar(pairs)) => {
                let pair = |pair: &str| pair.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()));
                pairs.split(',').map(pair).collect::<Option<_>>().ok_or_else(|| WANTED.to_owned())
            }
            Ok(Self::List(_)) => Err(WANTED.to_owned()),
            Err(fault) => Err(format!("{WANTED}: {}", fault.reason)),
        }
    }

    /// The same on one line; [`Node::parse`] reads it back.
    pub(super) fn flow(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Scalar(text) => write_scalar(out, text),
            Self::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Map(entries) => {
                out.push('{');
                for (i, entry) in entries.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    write_scalar(out, &entry.key);
                    out.push_str(": ");
                    entry.node.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_scalar(out: &mut String, text: &str) {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/');
    if !text.is_empty() && text.chars().all(plain) && !is_null(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                // Writing to a String can't fail.
                let _ok = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

impl Fault {
    fn new(line: usize, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

struct Events<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    depth: usize,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Fault> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, span.start.line())),
                Some(Err(error)) => return Err(Fault::new(error.marker().line(), error.info())),
                None => return Ok((Event::StreamEnd, 0)),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, line: usize) -> Result<Node, Fault> {
        if self.depth > 16 {
            return Err(Fault::new(line, "it is nested too deeply"));
        }
        self.depth += 1;
        let node = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if is_null(&text) => Node::Null,
            Event::Scalar(text, ..) => Node::Scalar(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Node::List(items),
                        (event, line) => items.push(self.node(event, line)?),
                    }
                }
            }
            Event::MappingStart(..) => self.map()?,
            _ => return Err(Fault::new(line, "anchors and aliases are not understood here")),
        };
        self.depth -= 1;
        Ok(node)
    }

    fn map(&mut self) -> Result<Node, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (key, line) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Node::Map(entries)),
                (Event::Scalar(key, ..), line) => (key.into_owned(), line),
                (_, line) => return Err(Fault::new(line, "a key must be a text")),
            };
            if let Some(first) = entries.iter().find(|e| e.key == key) {
                return Err(Fault::new(line, format!("{key} stands here and in line {}", first.line)));
            }
            let (event, at) = self.next()?;
            let node = self.node(event, at)?;
            entries.push(Entry { key, line, node });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_as_written() {
        let text = "a: 0123\nb: [1.50, 'x y', \"\"]\nc:\n  d: ~\n  e: yes # note\n";
        let node = Node::parse(text).expect("it is valid");
        assert_eq!(node.flow(), "{a: 0123, b: [1.50, \"x y\", \"\"], c: {d: null, e: yes}}");
        let again = Node::parse(&node.flow()).expect("what it writes it reads");
        assert_eq!(again.flow(), node.flow());
        let Node::Map(entries) = node else { panic!("a map") };
        assert_eq!(entries.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn faults_name_their_line() {
        for (text, line, reason) in [
            ("a: 1\nb: [1\n", 2, "unclosed bracket '['"),
            ("a: 1\na: 2\n", 2, "a stands here and in line 1"),
            ("a: &x 1\nb: *x\n", 2, "anchors and aliases are not understood here"),
            ("a: 1\n---\nb: 1\n", 3, "a second document begins here"),
            ("[a]: 1\n", 1, "a key must be a text"),
        ] {
            let fault = Node::parse(text).expect_err(text);
            assert_eq!(fault.line, line, "{text}: {fault:?}");
            assert!(fault.reason.contains(reason), "{fault:?}");
        }
    }

    #[test]
    fn a_map_can_be_pairs() {
        let want = vec![("a".to_owned(), "1".to_owned()), ("b.c".to_owned(), "x".to_owned())];
        for text in ["a=1,b.c=x", "{a: 1, b.c: x}", r#"{"a": 1, "b.c": "x"}"#] {
            assert_eq!(Node::parse_map(text).as_ref(), Ok(&want), "{text}");
        }
        assert!(
            Node::parse_map("[a]").is_err() && Node::parse_map("{a: [1]}").is_err() && Node::parse_map("a").is_err()
        );
    }
}
