//! Screens of a terminal as an animated SVG: text, one animation and no script, so that it works as a picture of a page.

use std::fmt::Write as _;
use std::time::Duration;

use vt100::{Cell, Color, Screen};

/// A character's width, that of most fonts at this size. Each text has its length, so that columns are right in others.
const WIDTH: f64 = 8.4;
const LINE: f64 = 19.0;
/// From the top of a line to its letters' foot.
const FOOT: f64 = 14.0;
const BORDER: f64 = 16.0;

const STYLE: &str = "\
text{font:14px ui-monospace,'SF Mono','Cascadia Code',Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:var(--text)}\
svg{--back:#0d1117;--edge:#30363d;--text:#e6edf3;--c1:#ff7b72;--c2:#3fb950;--c3:#d29922;--c6:#39c5cf}\
@media(prefers-color-scheme:light){\
svg{--back:#f6f8fa;--edge:#d0d7de;--text:#1f2328;--c1:#cf222e;--c2:#1a7f37;--c3:#9a6700;--c6:#1b7c83}}\
.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c6{fill:var(--c6)}.bold{font-weight:700}.dim{opacity:.65}";

/// The screens of a terminal, one after the other.
#[derive(Default)]
pub(super) struct Recording {
    /// The different lines of all screens, as SVG.
    lines: Vec<String>,
    screens: Vec<Shown>,
}

struct Shown {
    /// Row and place in `lines`.
    lines: Vec<(u16, usize)>,
    /// Row and column.
    cursor: (u16, u16),
    lasts: Duration,
}

/// Characters side by side in one style, with at most one space between two.
struct Run {
    column: u16,
    end: u16,
    style: String,
    text: String,
}

impl Recording {
    /// Adds a screen, unless it is the one before.
    pub(super) fn add(&mut self, screen: &Screen) {
        let mut lines = Vec::new();
        for row in 0..screen.size().0.get() {
            let line: String = runs(screen, row).iter().map(svg).collect();
            if line.is_empty() {
                continue;
            }
            let known = self.lines.iter().position(|known| *known == line);
            let place = known.unwrap_or_else(|| {
                self.lines.push(line);
                self.lines.len() - 1
            });
            lines.push((row, place));
        }
        let cursor = screen.cursor_position();
        if self.screens.last().is_none_or(|last| last.lines != lines || last.cursor != cursor) {
            self.screens.push(Shown { lines, cursor, lasts: Duration::ZERO });
        }
    }

    /// Shows the last screen for longer.
    pub(super) fn hold(&mut self, time: Duration) {
        if let Some(last) = self.screens.last_mut() {
            last.lasts += time;
        }
    }

    /// The animation. The screens are below each other, and a window moves from one to the next.
    pub(super) fn svg(&self, title: &str, rows: u16, columns: u16) -> String {
        let (width, height) = (f64::from(columns) * WIDTH, f64::from(rows) * LINE);
        let total = self.screens.iter().map(|screen| screen.lasts).sum::<Duration>().as_secs_f64();
        let (mut steps, mut at) = (String::new(), Duration::ZERO);
        for (number, screen) in self.screens.iter().enumerate() {
            let percent = at.as_secs_f64() / total * 100.0;
            write!(steps, "{percent:.3}%{{transform:translateY({}px)}}", -height * number as f64).unwrap();
            at += screen.lasts;
        }
        let last = -height * (self.screens.len() - 1) as f64;
        let (whole_width, whole_height) = (width + 2.0 * BORDER, height + 2.0 * BORDER);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {whole_width} {whole_height}\" width=\"{whole_width}\" \
             height=\"{whole_height}\" role=\"img\"><title>{}</title>\n<style>{STYLE}\n\
             #all{{animation:all {total:.1}s step-end infinite}}@keyframes all{{{steps}}}\n\
             @media(prefers-reduced-motion:reduce){{#all{{animation:none;transform:translateY({last}px)}}}}</style>\n<defs>\
             <rect id=\"cursor\" width=\"{WIDTH}\" height=\"{LINE}\" opacity=\".5\" fill=\"var(--text)\"/>\n",
            escaped(title)
        );
        for (place, line) in self.lines.iter().enumerate() {
            writeln!(out, "<g id=\"l{place}\">{line}</g>").unwrap();
        }
        write!(
            out,
            "</defs>\n<rect x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"var(--back)\" stroke=\"var(--edge)\"/>\n\
             <svg x=\"{BORDER}\" y=\"{BORDER}\" width=\"{width}\" height=\"{height}\"><g id=\"all\">\n",
            whole_width - 1.0,
            whole_height - 1.0
        )
        .unwrap();
        for (number, screen) in self.screens.iter().enumerate() {
            write!(out, "<g transform=\"translate(0 {})\">", height * number as f64).unwrap();
            for (row, place) in &screen.lines {
                write!(out, "<use href=\"#l{place}\" y=\"{}\"/>", f64::from(*row) * LINE).unwrap();
            }
            let (row, column) = screen.cursor;
            let (x, y) = (f64::from(column) * WIDTH, f64::from(row) * LINE);
            writeln!(out, "<use href=\"#cursor\" x=\"{x:.1}\" y=\"{y}\"/></g>").unwrap();
        }
        out.push_str("</g></svg></svg>\n");
        out
    }
}

fn runs(screen: &Screen, row: u16) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for column in 0..screen.size().1.get() {
        let Some(cell) = screen.cell(row, column) else { break };
        let text = cell.contents();
        if text.trim().is_empty() {
            continue;
        }
        let style = style(cell);
        let end = column + if cell.is_wide() { 2 } else { 1 };
        match runs.last_mut() {
            Some(run) if run.style == style && column - run.end <= 1 => {
                if column > run.end {
                    run.text.push(' ');
                }
                run.text.push_str(text);
                run.end = end;
            }
            _ => runs.push(Run { column, end, style, text: text.to_owned() }),
        }
    }
    runs
}

/// The classes of a character.
fn style(cell: &Cell) -> String {
    let mut classes = Vec::new();
    if let Color::Idx(number) = cell.fgcolor() {
        classes.push(format!("c{}", number % 8));
    }
    if cell.bold() {
        classes.push("bold".to_owned());
    }
    if cell.dim() {
        classes.push("dim".to_owned());
    }
    classes.join(" ")
}

fn svg(run: &Run) -> String {
    let class = if run.style.is_empty() { String::new() } else { format!(" class=\"{}\"", run.style) };
    let (x, length) = (f64::from(run.column) * WIDTH, f64::from(run.end - run.column) * WIDTH);
    format!("<text x=\"{x:.1}\" y=\"{FOOT}\" textLength=\"{length:.1}\"{class}>{}</text>", escaped(&run.text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[test]
fn a_screen_becomes_text_at_its_place_in_its_colour() {
    let mut parser = vt100::Parser::new(3.try_into().unwrap(), 20.try_into().unwrap(), 0);
    let mut recording = Recording::default();
    for bytes in ["a <b>  c", "", "\r\n\x1b[1;32mgreen\x1b[0m & not"] {
        parser.process(bytes.as_bytes());
        recording.add(parser.screen());
        recording.hold(Duration::from_secs(1));
    }
    let svg = recording.svg("two & screens", 3, 20);
    for part in [
        "<title>two &amp; screens</title>",
        "all 3.0s step-end infinite",
        "{0.000%{transform:translateY(-0px)}66.667%{transform:translateY(-57px)}}",
        "<text x=\"0.0\" y=\"14\" textLength=\"42.0\">a &lt;b&gt;</text><text x=\"58.8\" y=\"14\" textLength=\"8.4\">c</text>",
        "<g id=\"l1\"><text x=\"0.0\" y=\"14\" textLength=\"42.0\" class=\"c2 bold\">green</text>",
        "<text x=\"50.4\" y=\"14\" textLength=\"42.0\">&amp; not</text>",
        "<g transform=\"translate(0 57)\"><use href=\"#l0\" y=\"0\"/><use href=\"#l1\" y=\"19\"/><use href=\"#cursor\" x=\"92.4\"",
    ] {
        assert!(svg.contains(part), "{part} in\n{svg}");
    }
}
