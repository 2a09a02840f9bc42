//! What the demonstration looks like: a table redrawn in place on a terminal, lines with the time
//! elsewhere, JSON objects with `--json`.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Instant;

use serde_json::json;

use super::cast::{State, Worker};
use super::claims::{Claim, Claims};

/// How many of the last events are shown below the table.
const EVENTS: usize = 8;
/// The lines that the table needs: its rows, the events, the heading and some space.
const MIN_HEIGHT: u16 = 20;
const MIN_WIDTH: u16 = 40;

/// The look of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Faint,
    Strong,
    Good,
    Bad,
    Busy,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Faint => "2",
            Self::Strong => "1",
            Self::Good => "1;32",
            Self::Bad => "1;31",
            Self::Busy => "33",
        }
    }
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A table that is redrawn.
    Live,
    Lines,
    Json,
}

/// Where it is shown.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    colour: bool,
    began: Instant,
    title: String,
    events: VecDeque<(Tone, String)>,
    /// How many lines of the table are on the screen.
    drawn: usize,
}

impl Screen {
    pub(super) fn new(json: bool, title: String) -> io::Result<Self> {
        let is = |name, value| std::env::var_os(name).is_some_and(|v| v == value);
        let smart = io::stdout().is_terminal() && !is("TERM", "dumb");
        let fits = size().is_some_and(|(width, height)| width >= MIN_WIDTH && height >= MIN_HEIGHT);
        let style = match (json, smart && fits) {
            (true, _) => Style::Json,
            (_, true) => Style::Live,
            _ => Style::Lines,
        };
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let screen = Self {
            style,
            colour: smart && !no_colour && !json,
            began: Instant::now(),
            title,
            events: VecDeque::new(),
            drawn: 0,
        };
        match style {
            Style::Live => print("\x1b[?25l")?,
            Style::Lines => print(&format!("{}\n", screen.title))?,
            Style::Json => {}
        }
        Ok(screen)
    }

    /// Seconds since the beginning.
    pub(super) fn elapsed(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Shows an event.
    pub(super) fn tell(&mut self, tone: Tone, text: &str) -> io::Result<()> {
        if self.style != Style::Live {
            return self.mention(text);
        }
        self.events.push_back((tone, format!("{:6.2} s  {text}", self.elapsed())));
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
        Ok(())
    }

    /// Shows an event that the table shows anyway.
    pub(super) fn mention(&self, text: &str) -> io::Result<()> {
        match self.style {
            Style::Live => Ok(()),
            Style::Lines => print(&format!("{:6.2} s  {text}\n", self.elapsed())),
            Style::Json => {
                print(&format!("{}\n", json!({"seconds": self.elapsed(), "event": text})))
            }
        }
    }

    /// Draws the table over the last one.
    pub(super) fn draw(&mut self, workers: &[Worker]) -> io::Result<()> {
        if self.style != Style::Live {
            return Ok(());
        }
        let lines = self.table(workers);
        let width = size().map_or(usize::from(MIN_WIDTH), |(width, _)| usize::from(width));
        let mut frame = self.over_the_last();
        for line in &lines {
            frame += &line.render(width, self.colour);
            frame += "\x1b[K\n";
        }
        // Clears what a taller frame left below.
        frame += "\x1b[J";
        self.drawn = lines.len();
        print(&frame)
    }

    fn over_the_last(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r"),
        }
    }

    fn table(&self, workers: &[Worker]) -> Vec<Line> {
        let mut title = Line::default().add(Tone::Strong, &self.title);
        title = title.add(Tone::Faint, &format!("  {:.1} s", self.elapsed()));
        let width = token_width(workers);
        let head = format!(
            "  {:10}{:>8}  {:8}{:8}{:>6}{:>width$}  {}",
            "WORKER", "PID", "ROLE", "LOCK", "TURNS", "TOKEN", "JOBS"
        );
        let mut lines = vec![title, Line::default(), Line::default().add(Tone::Faint, &head)];
        lines.extend(workers.iter().map(|worker| row(worker, width)));
        lines.push(Line::default());
        for (tone, text) in &self.events {
            lines.push(Line::default().add(*tone, &format!("  {text}")));
        }
        lines
    }

    /// Shows what was claimed and what was seen.
    pub(super) fn summary(&self, claims: &Claims) -> io::Result<()> {
        let (failed, seconds) = (claims.failed(), self.elapsed());
        if self.style == Style::Json {
            let claim = |claim: &Claim| {
                let (Ok(seen) | Err(seen)) = &claim.seen;
                json!({"claim": claim.text, "ok": claim.seen.is_ok(), "seen": seen})
            };
            let claims: Vec<_> = claims.iter().map(claim).collect();
            let summary = json!({"seconds": seconds, "ok": failed == 0, "claims": claims});
            return print(&format!("{summary}\n"));
        }
        let mut text = String::from("\n");
        let mut put = |line: Line| {
            text += &line.render(usize::MAX, self.colour);
            text.push('\n');
        };
        for claim in claims.iter() {
            let line = match claim.seen {
                Ok(_) => Line::default().add(Tone::Good, "  ok      "),
                Err(_) => Line::default().add(Tone::Bad, "  FAILED  "),
            };
            let (Ok(seen) | Err(seen)) = &claim.seen;
            let width = claims.iter().map(|claim| claim.text.len()).max().unwrap_or(0);
            let line = line.add(Tone::Plain, &format!("{:width$}  ", claim.text));
            put(line.add(Tone::Faint, seen));
        }
        put(Line::default());
        put(match failed {
            0 => Line::default()
                .add(Tone::Strong, &format!("All of it happened, in {seconds:.1} s.")),
            _ => Line::default().add(Tone::Bad, &format!("{failed} of these did not happen.")),
        });
        print(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.style == Style::Live {
            // If the terminal is gone, there is no cursor to bring back.
            let _ = print("\x1b[?25h");
        }
    }
}

/// The width of the token column: tokens differ by backend, from one digit to twenty.
fn token_width(workers: &[Worker]) -> usize {
    let tokens = workers.iter().filter_map(|worker| worker.token);
    2 + tokens.map(|token| token.to_string().len()).fold("TOKEN".len(), usize::max)
}

/// A worker's row of the table.
fn row(worker: &Worker, token_width: usize) -> Line {
    let (role, tone) = match (worker.state, worker.leads) {
        (State::Starting, _) => ("starts", Tone::Faint),
        (State::Joined, Some(_)) => ("leader", Tone::Good),
        (State::Joined, None) => ("member", Tone::Plain),
        (State::Killed, _) => ("killed", Tone::Bad),
        (State::Ended { well: true }, _) => ("left", Tone::Faint),
        (State::Ended { well: false }, _) => ("failed", Tone::Bad),
    };
    let lock = if worker.inside { "holds" } else { "" };
    let token = worker.token.map(|token| token.to_string()).unwrap_or_default();
    let jobs: Vec<_> = worker.jobs.iter().map(ToString::to_string).collect();
    Line::default()
        .add(tone, &format!("  {:10}", worker.name))
        .add(Tone::Faint, &format!("{:>8}  ", worker.pid))
        .add(tone, &format!("{role:8}"))
        .add(Tone::Busy, &format!("{lock:8}"))
        .add(Tone::Plain, &format!("{:>6}{token:>token_width$}  {}", worker.turns, jobs.join(" ")))
}

/// A line in pieces, each with its tone.
#[derive(Debug, Default)]
struct Line(Vec<(Tone, String)>);

impl Line {
    fn add(mut self, tone: Tone, text: &str) -> Self {
        self.0.push((tone, text.to_owned()));
        self
    }

    /// The first `width` characters of it.
    fn render(&self, width: usize, colour: bool) -> String {
        let mut left = width;
        let mut line = String::new();
        for (tone, text) in &self.0 {
            let text: String = text.chars().take(left).collect();
            left -= text.chars().count();
            match colour && *tone != Tone::Plain && !text.is_empty() {
                true => line += &format!("\x1b[{}m{text}\x1b[0m", tone.code()),
                false => line += &text,
            }
        }
        line
    }
}

/// Columns and rows of the terminal.
fn size() -> Option<(u16, u16)> {
    terminal_size::terminal_size().map(|(width, height)| (width.0, height.0))
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_width_and_not_in_a_colour() {
        let line = Line::default().add(Tone::Good, "abc").add(Tone::Plain, "def");
        assert_eq!(line.render(5, false), "abcde");
        assert_eq!(line.render(2, true), "\x1b[1;32mab\x1b[0m");
        assert_eq!(line.render(usize::MAX, true), "\x1b[1;32mabc\x1b[0mdef");
    }
}
