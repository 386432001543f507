//! Sizes that a program was exported for: outside of them it may compute anything.

use std::fmt;

use normfuse_ir::Graph;

/// What a `torch.export` program says of the sizes of its symbols, in the graph's metadata: `2..99 s0; 4.. s1`.
const RANGES: &str = "torch.export.ranges";

/// The sizes that a symbol may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The symbol.
    pub symbol: String,
    /// The least size, if there is one.
    pub min: Option<i64>,
    /// The largest size, if there is one.
    pub max: Option<i64>,
}

impl Range {
    /// True of a size that the program was exported for.
    pub fn contains(&self, size: i64) -> bool {
        self.min.is_none_or(|min| size >= min) && self.max.is_none_or(|max| size <= max)
    }

    /// The sizes in words.
    pub fn sizes(&self) -> String {
        match (self.min, self.max) {
            (Some(min), Some(max)) => format!("from {min} to {max}"),
            (Some(min), None) => format!("from {min} on"),
            (None, Some(max)) => format!("up to {max}"),
            (None, None) => "of all kinds".into(),
        }
    }
}

/// As the metadata has it.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |v: Option<i64>| v.map_or_else(String::new, |v| v.to_string());
        write!(f, "{}..{} {}", bound(self.min), bound(self.max), self.symbol)
    }
}

/// Puts ranges into a graph's metadata, if there are any.
pub fn record(graph: &mut Graph, ranges: impl IntoIterator<Item = Range>) {
    let text: Vec<String> = ranges.into_iter().map(|r| r.to_string()).collect();
    if !text.is_empty() {
        graph.info.metadata.push((RANGES.into(), text.join("; ")));
    }
}

/// The ranges that a graph's metadata has.
pub fn of(graph: &Graph) -> Vec<Range> {
    let all = graph.info.metadata.iter().filter(|(key, _)| key == RANGES).flat_map(|(_, text)| text.split("; "));
    all.filter_map(read).collect()
}

fn read(text: &str) -> Option<Range> {
    let (sizes, symbol) = text.split_once(' ')?;
    let (min, max) = sizes.split_once("..")?;
    let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
    Some(Range { symbol: symbol.to_owned(), min: bound(min)?, max: bound(max)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_metadata() {
        let mut graph = Graph::new("g");
        assert_eq!(of(&graph), []);
        graph.info.metadata.push((RANGES.into(), "2..99 s0; 4.. s1; x..3 s2; nonsense".into()));
        let found = of(&graph);
        let range = |symbol: &str, min, max| Range { symbol: symbol.into(), min, max };
        let mut other = Graph::new("g");
        record(&mut other, found.clone());
        assert_eq!(other.info.metadata, [(RANGES.to_owned(), "2..99 s0; 4.. s1".to_owned())]);
        assert_eq!(found, [range("s0", Some(2), Some(99)), range("s1", Some(4), None)]);
        let within = |n| (found[0].contains(n), found[1].contains(n));
        assert_eq!(
            (within(1), within(2), within(99), within(100)),
            ((false, false), (true, false), (true, true), (false, true))
        );
        assert_eq!((found[0].sizes().as_str(), found[1].sizes().as_str()), ("from 2 to 99", "from 4 on"));
    }
}
