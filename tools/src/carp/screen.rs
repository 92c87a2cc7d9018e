//! What the demonstration shows while it runs: events that scroll by, and one line that lives.
//!
//! Without a terminal there are only the events, so that a log reads well. The live line is redrawn
//! in place with two control sequences; the cursor is never hidden and no mode of the terminal is
//! changed, so nothing needs to be restored however we end.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

const REDRAW: Duration = Duration::from_millis(100);

/// Where the demonstration shows itself.
pub struct Screen {
    output: Box<dyn Write>,
    live: bool,
    drawn: Option<Instant>,
    start: Instant,
}

impl Screen {
    /// On standard output, or on standard error where programs read the former.
    pub fn new(for_programs: bool) -> Screen {
        let (output, live): (Box<dyn Write>, bool) = if for_programs {
            (Box::new(stderr()), stderr().is_terminal())
        } else {
            (Box::new(stdout()), stdout().is_terminal())
        };
        Screen {
            output,
            live,
            drawn: None,
            start: Instant::now(),
        }
    }

    /// Shows nothing.
    pub fn silent() -> Screen {
        let output = Box::new(std::io::sink());
        Screen {
            output,
            live: false,
            drawn: None,
            start: Instant::now(),
        }
    }

    /// A line with the seconds since the start.
    pub fn event(&mut self, at: Instant, text: &str) {
        self.clear();
        let seconds = at.saturating_duration_since(self.start).as_secs_f64();
        // A closed pipe must not end a run that is judged by its exit status.
        let _ = writeln!(self.output, "{seconds:9.3}  {text}");
        let _ = self.output.flush();
    }

    /// A line by itself.
    pub fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(self.output, "{text}");
        let _ = self.output.flush();
    }

    /// Redraws the live line, if it is time.
    pub fn status(&mut self, text: impl FnOnce() -> String) {
        if !self.live || self.drawn.is_some_and(|at| at.elapsed() < REDRAW) {
            return;
        }
        let _ = write!(self.output, "\r\x1b[K{}", text());
        let _ = self.output.flush();
        self.drawn = Some(Instant::now());
    }

    /// Removes the live line.
    pub fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let _ = write!(self.output, "\r\x1b[K");
            let _ = self.output.flush();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}
