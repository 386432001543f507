//! Groups of elements along some axes: how they lie, and how many threads share one.

use std::fmt::Write as _;

use normfuse_ir::{Error, ErrorKind, Result};

use super::{
    Launch,
    place::{Walk, blocks, strides},
    text::Params,
};

/// Elements that are added in order before the tree begins.
pub const VECTOR: u64 = 8;

/// Vectors of a thread at most, as a power of two: `LEVELS` of `kernels/group.cuh`.
const LEVELS: u64 = 16;

/// Threads of a group at most.
const MOST: u64 = 512;

/// A tensor seen as groups along some axes, for a launch that gives each group to some threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// The axes that are kept: a group for each of their elements.
    outer: Walk,
    /// The axes of a group.
    inner: Walk,
    /// Elements of a group.
    pub len: u64,
    /// Number of groups.
    pub count: u64,
    /// Threads of a group.
    threads: u64,
    /// True if groups are neighbours in memory, and not the elements of one.
    columns: bool,
}

impl Groups {
    /// Groups of a row-major tensor along `axes`.
    pub fn along(shape: &[usize], axes: &[usize]) -> Self {
        let own = strides(shape);
        let pick = |reduced: bool| {
            let kept: Vec<usize> = (0..shape.len()).filter(|a| axes.contains(a) == reduced).collect();
            let sizes: Vec<usize> = kept.iter().map(|&a| shape[a]).collect();
            let steps: Vec<i64> = kept.iter().map(|&a| own[a]).collect();
            Walk::merged(&sizes, &[steps])
        };
        let (outer, inner) = (pick(false), pick(true));
        let (len, count) = (inner.count(), outer.count());
        let step = |walk: &Walk| walk.steps[0].last().copied().unwrap_or(0);
        let columns = step(&inner) != 1 && step(&outer) == 1 && outer.inner() >= 32 && len > 1;
        let vectors = len.div_ceil(VECTOR).next_power_of_two();
        Self { threads: vectors.min(if columns { 16 } else { MOST }), outer, inner, len, count, columns }
    }

    /// Every element its own group's first and last: whole rows of the last `len` elements.
    pub fn rows(count: u64, len: u64) -> Self {
        Self::along(&[count as usize, len as usize], &[1])
    }

    /// The same with at most this many threads for each group, a power of two.
    #[must_use]
    pub fn of_at_most(self, threads: u64) -> Self {
        Self { threads: self.threads.min(threads), ..self }
    }

    /// Threads of a group.
    pub const fn threads(&self) -> u64 {
        self.threads
    }

    /// Threads of a block.
    pub fn block(&self) -> u64 {
        if self.columns { 32 * self.threads.max(1) } else { self.threads.max(256) }
    }

    /// The same with one thread for each group, which takes its elements in order.
    #[must_use]
    pub fn in_order(self) -> Self {
        let columns = self.outer.steps[0].last() == Some(&1) && self.outer.inner() >= 32;
        Self { threads: 1, columns, ..self }
    }

    /// True if the elements of each group are neighbours, and vectors of them lie at multiples of their size.
    pub fn next(&self) -> bool {
        let outer = self.outer.sizes.iter().zip(&self.outer.steps[0]);
        !self.columns
            && self.inner.rank() == 1
            && self.inner.steps[0] == [1]
            && self.len.is_multiple_of(VECTOR)
            && outer.clone().all(|(&size, step)| size == 1 || step.unsigned_abs().is_multiple_of(VECTOR))
    }

    /// Vectors of a thread, as a power of two.
    pub fn depth(&self) -> u64 {
        let vectors = self.len.div_ceil(VECTOR).next_power_of_two();
        u64::from((vectors / self.threads).max(1).ilog2())
    }

    /// The words that say how groups lie.
    pub fn words(&self, p: &mut Params) {
        p.number("groups", self.count);
        p.number("n", self.len);
        p.number("threads", self.threads);
        p.number("depth", self.depth());
        for (name, walk) in [("outer", &self.outer), ("inner", &self.inner)] {
            p.numbers(&format!("{name}_size"), walk.sizes.iter().copied());
            p.signed(&format!("{name}_step"), &walk.steps[0]);
        }
    }

    /// A kernel in which each thread has `team`, `base` (offset of the group's first element), `at(i)` (offset of its element
    /// i), `here` (false for threads that are past the last group) and `shared`, of `bytes` a thread.
    ///
    /// # Errors
    /// `Unsupported` if there are more groups than a launch can have, or more elements in one than its threads can add.
    pub fn launch(&self, p: Params, header: &str, before: &str, body: &str, bytes: u64) -> Result<Launch> {
        // Where one thread goes through a group in order nothing is kept.
        if self.threads > 1 && self.depth() > LEVELS {
            let message = format!("{} elements are more than the threads of a group can add", self.len);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let threads = self.block();
        let per_block = if self.columns { 32 } else { threads / self.threads };
        let mut text = format!("    __shared__ alignas(16) u8 shared[{}];\n", bytes * threads);
        let _ = writeln!(text, "    const Team<{}> team((u32)p.threads);", self.columns);
        text +=
            "    const bool here = team.group < p.groups;\n    const u64 group = here ? team.group : p.groups - 1;\n";
        text += "    const u32 depth = (u32)p.depth;\n    u64 base = 0;\n";
        text += &offset(&self.outer, "outer", "group", "base");
        text += "    [[maybe_unused]] auto at = [&](u64 i) {\n    u64 place = base;\n";
        text += &offset(&self.inner, "inner", "i", "place");
        text += "    return place;\n    };\n";
        text += body;
        Ok(p.launch_blocks(header, before, &text, blocks(self.count, per_block)?, threads as u32))
    }
}

/// Adds the offset of element `index` of a walk, whose sizes and steps have names that begin with `name`.
pub fn offset(walk: &Walk, name: &str, index: &str, to: &str) -> String {
    if walk.rank() == 1 {
        return format!("    {to} += (u64)((i64){index} * p.{name}_step[0]);\n");
    }
    // Divisions of 64 bits take ten times as long.
    let t = if walk.count() < 1 << 32 { "u32" } else { "u64" };
    format!(
        "    {{ {t} rest = ({t}){index};\n#pragma unroll\n    for (int a = {}; a > 0; --a) {{ const {t} size = ({t})p.{name}_size[a], \
         q = rest / size; {to} += (u64)((i64)(rest - q * size) * p.{name}_step[a]); rest = q; }}\n    \
         {to} += (u64)((i64)rest * p.{name}_step[0]); }}\n",
        walk.rank() - 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_at_most_the_vectors() {
        // More threads than vectors would add zeros that the canonical sum has not.
        for n in [0usize, 1, 8, 9, 63, 64, 65, 4096, 70_000] {
            for shape in [[3, n], [n, 64]] {
                let groups = Groups::along(&shape, &[usize::from(shape[0] == 3)]);
                let vectors = groups.len.div_ceil(8).next_power_of_two();
                assert!(groups.threads.is_power_of_two() && groups.threads <= vectors, "{shape:?}");
            }
        }
    }

    #[test]
    fn columns_are_where_groups_are_neighbours() {
        assert!(Groups::along(&[2, 100, 64], &[1]).columns);
        assert!(!Groups::along(&[2, 100, 64], &[2]).columns && !Groups::along(&[64], &[0]).columns);
        let all = Groups::along(&[2, 3, 4], &[0, 1, 2]);
        assert_eq!((all.len, all.count, all.inner.rank()), (24, 1, 1));
        assert_eq!(Groups::along(&[2, 0], &[1]).len, 0);
        let large = Groups::along(&[1 << 30], &[0]);
        assert!(large.launch(Params::default(), "group.cuh", "", "", 8).is_err() && large.in_order().depth() > LEVELS);
    }
}
