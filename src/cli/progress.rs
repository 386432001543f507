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

/// What a step looks like, and what weights on their way to a GPU do.
const SPINNER: &str = "{spinner} {msg} {elapsed}";
const WEIGHTS: &str = "weights {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";

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

fn styled(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
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
        styled(&bar, SPINNER);
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

    /// Tells of bytes of weights that are on a GPU, and of how many will be: a bar in the place of the spinner until all of them are.
    pub fn weights(&self) -> impl Fn(u64, u64) + Send + Sync + 'static {
        let bar = self.bar.clone();
        move |done, total| {
            if done >= total {
                return styled(&bar, SPINNER);
            }
            if bar.length() != Some(total) {
                bar.reset_eta();
            }
            styled(&bar, WEIGHTS);
            bar.set_length(total);
            bar.set_position(done);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one bar on standard error, whatever it shows.
    #[test]
    fn weights_are_shown_in_the_place_of_the_spinner() {
        let mut progress = Progress::new();
        progress.step("running on the GPU");
        let told = progress.weights();
        told(1 << 20, 4 << 20);
        assert_eq!((progress.bar.length(), progress.bar.position()), (Some(4 << 20), 1 << 20));
        told(4 << 20, 4 << 20);
        assert!(!progress.bar.is_finished() && progress.bar.message() == "running on the GPU");
    }
}
