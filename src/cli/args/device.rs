//! Where graphs run.

use std::str::FromStr;

use clap::ValueEnum;

/// Where a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// The GPU of a number.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let gpu =
            |number: &str| number.parse().map(Self::Cuda).map_err(|_| format!("`{number}` is no number of a GPU"));
        match s.split_once(':') {
            None if s == "cpu" => Ok(Self::Cpu),
            None if s == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => gpu(number),
            _ => Err("expected cpu, cuda or cuda:N".into()),
        }
    }
}

/// What a rewritten graph has to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunsOn {
    /// On the CPU and on a GPU
    Both,
    /// On the CPU
    Cpu,
    /// On a GPU
    Cuda,
}

impl From<Device> for RunsOn {
    fn from(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            Device::Cuda(_) => Self::Cuda,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_the_cpu_and_gpus_by_number() {
        let device = |s: &str| s.parse::<Device>();
        assert_eq!(device("cpu"), Ok(Device::Cpu));
        assert_eq!(device("cuda"), Ok(Device::Cuda(0)));
        assert_eq!(device("cuda:3"), Ok(Device::Cuda(3)));
        for bad in ["", "tpu", "cuda:", "cuda:x", "cpu:0", "cuda:-1"] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
