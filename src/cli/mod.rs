//! The command line: arguments in, exit code out. What it does is in the crates; here is only how it is asked for.

mod args;
mod bench;
mod bench_model;
mod bits;
mod compile;
mod dice;
mod explain;
mod failure;
mod gpu;
mod inputs;
mod output;
mod plan;
mod progress;
mod random_weights;
mod report;
mod rules;
mod run;
mod switches;
mod table;
mod test;
mod tune;
mod verify;
mod weights;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Parses the arguments, does what they say, and tells how it ended: 0 done, 1 a check failed, 2 bad input or usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    progress::start_log(&cli.log);
    let done = match &cli.command {
        Command::Compile(args) => compile::main(args),
        Command::Explain(args) => explain::main(args),
        Command::Run(args) => run::main(args),
        Command::Plan(args) => plan::main(args),
        Command::Verify(args) => verify::main(args),
        Command::Rules(args) => rules::main(args),
        Command::Test(args) => test::main(args),
        Command::Bench(args) => bench::main(args),
        Command::Tune(args) => tune::main(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
