//! A shell in a terminal that is recorded.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use testbed::TestBed;

use super::recording::Recording;

/// The time in which the screen must show what is expected.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long each key that is pressed is shown.
const KEY: Duration = Duration::from_millis(50);
/// The pause before Enter.
const BREATH: Duration = Duration::from_millis(500);
const PROMPT: &str = r"\[\e[1;32m\]$\[\e[0m\] ";

/// Bash in the folder of a test bed, with `stream` on its path. Dropping it kills the shell.
pub(super) struct Terminal {
    shell: Child,
    keys: File,
    output: Receiver<Vec<u8>>,
    parser: vt100::Parser,
    recording: Recording,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

impl Terminal {
    pub(super) fn start(bed: &TestBed, rows: NonZeroU16, columns: NonZeroU16) -> Self {
        let size = Winsize { ws_row: rows.get(), ws_col: columns.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(&size, None).unwrap();
        let stream = bed.command("stream", &[]);
        let programs = Path::new(stream.get_program()).parent().unwrap();
        let mut shell = Command::new("setsid");
        shell.args(["--ctty", "bash", "--noprofile", "--norc"]).current_dir(&bed.folder).env_clear();
        shell.envs(stream.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        shell.envs([("PS1", PROMPT), ("TERM", "xterm-256color"), ("LC_ALL", "C.UTF-8")]);
        shell.stdin(terminal.slave.try_clone().unwrap()).stdout(terminal.slave.try_clone().unwrap());
        let shell = shell.stderr(terminal.slave).spawn().expect("setsid and bash");
        let keys = File::from(terminal.master);
        let mut screen = keys.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The read fails when the shell has gone.
            while let Ok(count) = screen.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let parser = vt100::Parser::new(rows, columns, 0);
        let mut terminal = Self { shell, keys, output, parser, recording: Recording::default() };
        terminal.shows(|text| text == "$");
        terminal
    }

    /// Waits until the text of the screen is as expected, and records all screens until then.
    #[track_caller]
    pub(super) fn shows(&mut self, mut is_there: impl FnMut(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let text = self.parser.screen().contents();
            if is_there(text.trim_end()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}, but:\n{text}");
            let since = Instant::now();
            let bytes = match self.output.recv_timeout(KEY) {
                Ok(bytes) => bytes,
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => panic!("the shell has ended:\n{text}"),
            };
            self.recording.hold(since.elapsed());
            self.parser.process(&bytes);
            self.recording.add(self.parser.screen());
        }
    }

    /// Waits for the prompt.
    #[track_caller]
    pub(super) fn prompts(&mut self) {
        self.shows(|text| text.ends_with('$'));
    }

    /// Types a command as a person does, and starts it.
    #[track_caller]
    pub(super) fn start_command(&mut self, line: &str) {
        let mut typed = String::from("$ ");
        for key in line.chars() {
            typed.push(key);
            self.press(key);
            self.shows(|text| text.ends_with(typed.trim_end()));
            self.hold(KEY);
        }
        self.hold(BREATH);
        self.press('\r');
    }

    /// Presses a key.
    pub(super) fn press(&mut self, key: char) {
        self.keys.write_all(key.to_string().as_bytes()).unwrap();
    }

    /// Clears the screen.
    #[track_caller]
    pub(super) fn clear(&mut self) {
        self.press('\u{c}');
        self.shows(|text| text == "$");
    }

    /// Gives the reader time to read the screen.
    pub(super) fn hold(&mut self, time: Duration) {
        self.recording.hold(time);
    }

    /// Everything that was shown, as SVG.
    pub(super) fn svg(&self, title: &str) -> String {
        let (rows, columns) = self.parser.screen().size();
        self.recording.svg(title, rows.get(), columns.get())
    }
}
