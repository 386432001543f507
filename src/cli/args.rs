//! The arguments, as `--help` prints them.

use std::{path::PathBuf, str::FromStr};

use clap::{
    ArgAction, Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser},
};
use normfuse::{
    Format,
    passes::{Kind, Relaxation},
};

mod device;

pub use device::{Device, RunsOn};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a check failed: outputs differ, --require is not met, --verify found a difference (or, of what --relax changed, one that
     is larger than that allows), a snapshot differs
  2  bad input or usage

Results go to standard output; messages, the log and progress go to standard error.";

const TEST_EXIT_CODES: &str = "\
The snapshot of NAME.onnx is NAME.onnx.snap, of NAME.nf NAME.nf.snap. Folders in DIR are tested too.

Exit codes:
  0  every graph compiles to its snapshot, or --update wrote them
  1  a check failed: a snapshot differs, is missing, or has no graph
  2  bad input or usage

Results go to standard output; messages, the log and progress go to standard error.";

/// Finds RMSNorms that feed quantisers in a model graph, fuses them and runs the result, bit for bit as before.
#[derive(Debug, Parser)]
#[command(name = "normfuse", version, about, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub log: Log,
    #[command(subcommand)]
    pub command: Command,
}

/// What is logged.
#[derive(Debug, Args)]
pub struct Log {
    /// Log to standard error, up to this level
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log: Option<Level>,
    /// Log more: -v info, -vv debug, -vvv trace
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "log")]
    pub verbose: u8,
}

/// A level of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fuse what can be fused, report it, and write the rewritten graph
    #[command(after_help = EXIT_CODES)]
    Compile(Compile),
    /// Say of every anchor whether it fused and, if not, why and what would help
    #[command(after_help = EXIT_CODES)]
    Explain(Explain),
    /// Run a graph on given or random inputs
    #[command(after_help = EXIT_CODES)]
    Run(Run),
    /// Say what a GPU would run: the steps, their launches and bytes, and the memory that they share. Needs no GPU
    #[command(after_help = EXIT_CODES)]
    Plan(Plan),
    /// Run two graphs on the same inputs and compare every output bit for bit
    #[command(after_help = EXIT_CODES)]
    Verify(Verify),
    /// List the rules: what each looks for, its preconditions, its switch, and whether it is on
    #[command(after_help = EXIT_CODES)]
    Rules(Rules),
    /// Compile every graph of a folder and compare what comes out with the snapshots beside them
    #[command(after_help = TEST_EXIT_CODES)]
    Test(Test),
    /// Time a model before and after fusion, whole and by op; or with --op, fused ops on a GPU beside their limit, a cast of the
    /// same bytes
    #[command(after_help = EXIT_CODES)]
    Bench(Bench),
    /// Measure which launch shapes are the fastest on this GPU, and write the table that kernels are picked by
    #[command(after_help = EXIT_CODES)]
    Tune(Tune),
}

#[derive(Debug, Args)]
pub struct Bench {
    /// The model to time: .onnx, .pt2, .nf or .json
    #[arg(required_unless_present = "ops", conflicts_with_all = ["ops", "gpu"])]
    pub model: Option<PathBuf>,
    /// Op to time, such as rms_norm+fp8_group128 or add+rms_norm (may be repeated); `--op list` lists them
    #[arg(long = "op", value_name = "OP")]
    pub ops: Vec<String>,
    /// Where the model runs: cpu, cuda, or cuda:N for another GPU than the first
    #[arg(long, default_value = "cpu", value_name = "DEVICE", conflicts_with = "ops")]
    pub device: Device,
    /// Size to time it at (may be repeated): of a model, NAME=N for each symbolic dimension; of an op, n=N elements in a row, m=M
    /// rows [default: n of 4096 and 7168, m from 1 to 16384]
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<Binding>,
    /// Make up weights for the model's parameters without data
    #[arg(long, value_name = "SEED", requires = "model", conflicts_with = "weights")]
    pub random_weights: Option<u64>,
    /// Allow a named departure from the source's bits, in all that is timed (may be repeated)
    #[arg(long, value_name = "NAME", requires = "model", value_parser = relaxations())]
    pub relax: Vec<String>,
    /// Write a model's times as JSON in place of a table
    #[arg(long, requires = "model")]
    pub json: bool,
    /// Try every launch shape and print the fastest, instead of the one that the table says
    #[arg(long, conflicts_with_all = ["regimes", "model"])]
    pub all_shapes: bool,
    #[command(flatten)]
    pub gpu: Gpu,
    /// Table of launch shapes, as `normfuse tune` writes it [default: the one measured for the architecture]
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub regimes: Option<PathBuf>,
    #[command(flatten)]
    pub weights: Checkpoint,
}

#[derive(Debug, Args)]
pub struct Plan {
    /// The model: .onnx, .pt2, .nf or .json
    pub model: PathBuf,
    /// Size of a symbolic dimension (may be repeated)
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<Binding>,
    /// Write JSON in place of a table
    #[arg(long)]
    pub json: bool,
    /// Say what the model takes and which sizes --dim gives, in place of the steps
    #[arg(long, conflicts_with = "dims")]
    pub inputs: bool,
    #[command(flatten)]
    pub weights: Checkpoint,
}

#[derive(Debug, Args)]
pub struct Tune {
    /// Class of ops to measure, such as norm+row or add+norm+groups (may be repeated) [default: all]
    #[arg(long = "class", value_name = "CLASS")]
    pub classes: Vec<normfuse::cuda::regimes::Class>,
    /// Where to write the table; without it there is only the log of what was chosen
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Size to measure: n=N elements in a row, m=M rows (may be repeated) [default: n from 128 to 16384, m from 1 to 16384]
    #[arg(long = "dim", value_name = "n=N|m=M")]
    pub dims: Vec<Binding>,
    #[command(flatten)]
    pub gpu: Gpu,
}

/// Which GPU is measured, and how long.
#[derive(Debug, Args)]
pub struct Gpu {
    /// Number of the GPU
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpu: usize,
    /// Replays of which a time is the median
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub replays: u16,
}

#[derive(Debug, Args)]
pub struct Compile {
    /// The model: .onnx, .pt2, .nf or .json
    pub model: PathBuf,
    /// Where to write the rewritten graph; without it there is only the report
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Format of OUT [default: as its extension says]
    #[arg(long, value_name = "FORMAT", requires = "output")]
    pub emit: Option<Emit>,
    /// How the report is written to standard output
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub report: ReportForm,
    /// Allow a named departure from the source's bits (may be repeated)
    #[arg(long, value_name = "NAME", value_parser = relaxations())]
    pub relax: Vec<String>,
    #[command(flatten)]
    pub host: Host,
    #[command(flatten)]
    pub switches: Switches,
    /// Fail unless so many sites fused: KIND=N or KIND>=N, of norm, norm_quant, sibling_norm, gated_act, quant (may be repeated)
    #[arg(long, value_name = "KIND=N|KIND>=N")]
    pub require: Vec<Requirement>,
    /// Copy external weights beside OUT (ONNX in another folder than the model's)
    #[arg(long, requires = "output")]
    pub copy_weights: bool,
    /// Description of the device that fusions are chosen for, as in devices/nvidia_h200.json [default: that one]
    #[arg(long, value_name = "FILE")]
    pub target: Option<PathBuf>,
    /// Take dequantised values into fused ops where a product multiplies two of them, too: for backends that have no product of
    /// codes and scales
    #[arg(long)]
    pub whole_products: bool,
    /// Compare every fused op with what it replaced, and the whole graphs where they run here, bit for bit; what --relax changed
    /// is compared op by op, within what each relaxation may change
    #[arg(long)]
    pub verify: bool,
    /// Size of a symbolic dimension in the runs of --verify (may be repeated) [default: several small ones]
    #[arg(long = "dim", value_name = "NAME=N", requires = "verify")]
    pub dims: Vec<Binding>,
    /// Make up weights for parameters without data, for --verify alone: they are never written
    #[arg(long, value_name = "SEED", requires = "verify", conflicts_with = "weights")]
    pub random_weights: Option<u64>,
    #[command(flatten)]
    pub weights: Checkpoint,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The model: .onnx, .pt2, .nf or .json
    pub model: PathBuf,
    /// Only what concerns this node of the model
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    #[command(flatten)]
    pub host: Host,
    #[command(flatten)]
    pub switches: Switches,
    #[command(flatten)]
    pub weights: Checkpoint,
}

#[derive(Debug, Args)]
pub struct Rules {
    /// How the list is written to standard output
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub report: ReportForm,
    /// Write docs/environment_variables.md instead: the switches, whatever is on
    #[arg(long, hide = true, conflicts_with = "report")]
    pub markdown: bool,
    #[command(flatten)]
    pub switches: Switches,
}

/// Which kernels there are.
#[derive(Debug, Args)]
pub struct Host {
    /// What the result has to run on: no fused op that it has no kernel for is made
    #[arg(long, value_name = "RUNTIME", default_value = "both")]
    pub runs_on: RunsOn,
}

/// Which rules are on, whatever the environment says.
#[derive(Debug, Args)]
pub struct Switches {
    /// Switch a rule off (may be repeated); `normfuse rules` lists rules and the variables that switch them
    #[arg(long, value_name = "RULE")]
    pub disable: Vec<String>,
    /// Switch a rule on that the environment switches off (may be repeated)
    #[arg(long, value_name = "RULE")]
    pub enable: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The model: .onnx, .pt2, .nf or .json
    pub model: PathBuf,
    /// Inputs by name, with or without `in.` before it: .npz or .safetensors [default: random]
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Where to write the outputs, by name: .safetensors, or .npz, which holds bf16 and narrower floats as f32
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,
    /// Where to run: cpu, cuda, or cuda:N for another GPU than the first
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: Device,
    #[command(flatten)]
    pub random: Random,
    #[command(flatten)]
    pub weights: Checkpoint,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// The graph that is right
    pub original: PathBuf,
    /// The graph that must do the same
    pub rewritten: PathBuf,
    /// Inputs by name, as for `run` [default: random ones of several small sizes]
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Where outputs differ, switch fused sites of REWRITTEN off until the ones are found that make the difference
    #[arg(long)]
    pub bisect: bool,
    #[command(flatten)]
    pub random: Random,
    #[command(flatten)]
    pub weights: Checkpoint,
}

#[derive(Debug, Args)]
pub struct Test {
    /// The folder of graphs: .onnx, .pt2, .nf or .json
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Write the snapshots that differ or are missing, and remove those that have no graph
    #[arg(long)]
    pub update: bool,
    #[command(flatten)]
    pub host: Host,
    #[command(flatten)]
    pub switches: Switches,
}

/// How inputs are made up where no file gives them.
#[derive(Debug, Clone, Default, Args)]
pub struct Random {
    /// Seed of random inputs
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "inputs")]
    pub seed: u64,
    /// Size of a symbolic dimension of random inputs (may be repeated)
    #[arg(long = "dim", value_name = "NAME=N", conflicts_with = "inputs")]
    pub dims: Vec<Binding>,
    /// Make up weights for parameters without data, of sizes that keep activations sane
    #[arg(long = "random-weights", value_name = "SEED", conflicts_with = "weights")]
    pub weights_seed: Option<u64>,
}

/// Where the weights of a model are that has none, or others, and how they are quantised.
#[derive(Debug, Clone, Default, Args)]
pub struct Checkpoint {
    /// Bind the model's parameters by name: FILE.safetensors, or the FILE.safetensors.index.json of a checkpoint in parts
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Quantise linear layers as the model's config.json says (its `quantization_config`), with the weights and scales of
    /// the checkpoint
    #[arg(long, value_name = "FILE")]
    pub quant_config: Option<PathBuf>,
    /// What names in the model have in front of those in the checkpoint and the config, as a wrapper around it leaves them
    #[arg(long, value_name = "PREFIX")]
    pub weights_prefix: Option<String>,
    /// A parameter that the checkpoint has under another name, as it does for tied weights (may be repeated)
    #[arg(long, value_name = "NAME=OTHER", requires = "weights")]
    pub tied: Vec<Tie>,
    /// Permit tensors of the checkpoint that the model does not have: one, or all in a module (may be repeated)
    #[arg(long, value_name = "NAME", requires = "weights")]
    pub allow_extra: Vec<String>,
    /// Permit parameters that the checkpoint does not have: one, or all in a module (may be repeated)
    #[arg(long, value_name = "NAME", requires = "weights")]
    pub allow_missing: Vec<String>,
}

/// `lm_head.weight=model.embed_tokens.weight`.
#[derive(Debug, Clone)]
pub struct Tie {
    /// In the model.
    pub name: String,
    /// In the checkpoint.
    pub stored: String,
}

impl FromStr for Tie {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (name, stored) = s.split_once('=').ok_or("expected NAME=OTHER")?;
        Ok(Self { name: name.to_owned(), stored: stored.to_owned() })
    }
}

/// Departures from the source's bits that semantics may allow by name, and that no rule makes.
pub const NO_RULE: [&str; 3] = ["scale-bits", "weight-folding", "allreduce-order"];

/// The names that `--relax` takes, so that a wrong one is answered with all of them and the nearest.
fn relaxations() -> PossibleValuesParser {
    let known = Relaxation::ALL.into_iter().map(|r| PossibleValue::new(r.name()));
    known.chain(NO_RULE.into_iter().map(|name| PossibleValue::new(name).hide(true))).collect::<Vec<_>>().into()
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    Text,
    Json,
}

/// A format that is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Emit {
    Onnx,
    Nf,
    Json,
    Dot,
}

impl From<Emit> for Format {
    fn from(e: Emit) -> Self {
        match e {
            Emit::Onnx => Self::Onnx,
            Emit::Nf => Self::Nf,
            Emit::Json => Self::Json,
            Emit::Dot => Self::Dot,
        }
    }
}

/// `seq=128`.
#[derive(Debug, Clone)]
pub struct Binding {
    pub name: String,
    pub size: i64,
}

impl FromStr for Binding {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (name, size) = s.rsplit_once('=').ok_or("expected NAME=N")?;
        let size = size.parse().ok().filter(|n| *n >= 1).ok_or_else(|| format!("`{size}` is not a size from 1 on"))?;
        Ok(Self { name: name.to_owned(), size })
    }
}

/// `norm_quant=8` or `norm>=3`.
#[derive(Debug, Clone)]
pub struct Requirement {
    pub kind: Kind,
    pub at_least: bool,
    pub count: usize,
}

impl Requirement {
    /// True if that many satisfy it.
    pub fn holds(&self, found: usize) -> bool {
        if self.at_least { found >= self.count } else { found == self.count }
    }
}

impl std::fmt::Display for Requirement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}{}", self.kind.name(), if self.at_least { ">=" } else { "=" }, self.count)
    }
}

impl FromStr for Requirement {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (left, count) = s.split_once('=').ok_or("expected KIND=N or KIND>=N")?;
        let (name, at_least) = left.strip_suffix('>').map_or((left, false), |name| (name, true));
        let kind = Kind::ALL.into_iter().find(|k| k.name() == name.trim()).ok_or_else(|| {
            let known: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
            format!("`{name}` is no kind; kinds: {}", known.join(", "))
        })?;
        let count = count.trim().parse().map_err(|_| format!("`{count}` is not a count"))?;
        Ok(Self { kind, at_least, count })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn requirements_parse_and_hold() {
        let r: Requirement = "norm>=3".parse().unwrap();
        assert!(r.kind == Kind::Norm && r.holds(3) && r.holds(4) && !r.holds(2));
        let r: Requirement = "norm_quant=8".parse().unwrap();
        assert!(r.kind == Kind::NormQuant && r.holds(8) && !r.holds(9));
        assert_eq!(r.to_string(), "norm_quant=8");
        for bad in ["norm", "norm=", "norm=x", "norms=1", "norm>2", "norm=-1", "=1"] {
            assert!(bad.parse::<Requirement>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bound_by_name() {
        let b: Binding = "a=b=3".parse().unwrap();
        assert_eq!((b.name.as_str(), b.size), ("a=b", 3));
        for bad in ["seq", "seq=", "seq=0", "seq=-1", "seq=1.5"] {
            assert!(bad.parse::<Binding>().is_err(), "{bad}");
        }
    }
}
