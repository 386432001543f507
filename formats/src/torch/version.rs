//! The version of torch that exported a program, for what torch has not always computed alike.

/// Major and minor of a version, where a program records one that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TorchVersion(Option<(u32, u32)>);

impl TorchVersion {
    /// Reads `2.15.0+cu132`, `2.13.0.dev20260501`, or `<=2.4`, which is what torch's schema says of a file without one.
    pub fn of(text: &str) -> Self {
        let mut parts = text.trim_start_matches(['<', '=']).split('.');
        let mut number = || {
            let part = parts.next()?;
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        };
        let major = number();
        Self(major.zip(number()))
    }

    /// True if the program says its version.
    pub fn is_known(self) -> bool {
        self.0.is_some()
    }

    /// True for this version and later ones; false for one that is not known.
    pub fn is_at_least(self, major: u32, minor: u32) -> bool {
        self.0.is_some_and(|v| v >= (major, minor))
    }

    /// A cast to f8e4m3fn saturates, infinities too, in torch 2.13 and later (pytorch#178817). Before, what rounds to more
    /// than 448 became NaN; a program of unknown version is taken for one of those. Other 8-bit floats never saturate.
    pub fn saturates_e4m3fn(self) -> bool {
        self.is_at_least(2, 13)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_torch_writes_them() {
        let of = |text: &str| TorchVersion::of(text).0;
        assert_eq!(of("2.15.0+cu132"), Some((2, 15)));
        assert_eq!(of("2.13.0.dev20260501"), Some((2, 13)));
        assert_eq!(of("2.12.0a0+git0123456"), Some((2, 12)));
        assert_eq!(of("2.9"), Some((2, 9)));
        assert_eq!(of("3.0rc1"), Some((3, 0)));
        assert_eq!(of("<=2.4"), Some((2, 4)));
        for none in ["", "2", "nightly", "2.x", "99999999999.1"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn casts_to_e4m3fn_saturate_from_2_13_on() {
        let saturates = |text: &str| TorchVersion::of(text).saturates_e4m3fn();
        assert!(saturates("2.13.0") && saturates("2.15.0+cu132") && saturates("3.0.0"));
        assert!(!saturates("2.12.1") && !saturates("2.9.0") && !saturates("<=2.4") && !saturates(""));
    }
}
