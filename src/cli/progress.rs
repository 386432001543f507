//! What people see while they wait: a spinner where standard error is a terminal, and the log where it is asked for.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use normfuse::passes::{Kind, Observer, Site};
use tracing::{Level, debug, trace};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use super::args;

/// What egg says of each of its iterations is about nothing that a user knows.
const QUIET: &str = "egg";

/// Starts the log on standard error: warnings, or what `--log` and `-v` say. Colours are for terminals.
pub fn start_log(log: &args::Log) {
    let level = match (log.log, log.verbose) {
        (Some(args::Level::Error), _) => Level::ERROR,
        (Some(args::Level::Warn), _) | (None, 0) => Level::WARN,
        (Some(args::Level::Info), _) | (None, 1) => Level::INFO,
        (Some(args::Level::Debug), _) | (None, 2) => Level::DEBUG,
        (Some(args::Level::Trace) | None, _) => Level::TRACE,
    };
    let levels = Targets::new().with_default(level).with_target(QUIET, level.min(Level::WARN));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::registry().with(lines.with_ansi(colours)).with(levels).init();
}

/// The steps of a command.
pub struct Progress {
    bar: ProgressBar,
    step: Option<(String, Instant)>,
    /// Anchors tried so far, and how many there are.
    anchors: (usize, usize),
}

impl Progress {
    /// Shows nothing until the first step; nothing at all where standard error is no terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        Self { bar, step: None, anchors: (0, 0) }
    }

    /// A step begins, and the one before it has ended.
    pub fn step(&mut self, what: impl Into<String>) {
        self.log_last();
        let what = what.into();
        self.bar.set_message(what.clone());
        self.bar.enable_steady_tick(Duration::from_millis(100));
        self.step = Some((what, Instant::now()));
    }

    /// `done` of `total` parts of the step are behind us.
    pub fn at(&self, done: usize, total: usize) {
        if let Some((what, _)) = &self.step {
            self.bar.set_message(format!("{what} {done}/{total}"));
        }
    }

    fn log_last(&mut self) {
        if let Some((what, since)) = self.step.take() {
            debug!(seconds = since.elapsed().as_secs_f64(), "{what}");
        }
    }
}

/// The pass, anchor by anchor.
impl Observer for Progress {
    fn anchors(&mut self, _kind: Kind, count: usize) {
        self.anchors.1 += count;
    }

    fn trying(&mut self, _anchor: &str) {
        self.anchors.0 += 1;
        self.at(self.anchors.0, self.anchors.1);
    }

    fn decided(&mut self, site: &Site) {
        trace!(rule = site.rule, outcome = ?site.outcome, "{}", site.anchor);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.log_last();
        self.bar.finish_and_clear();
    }
}
