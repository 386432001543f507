//! One piece of memory for all values of a run: places for blocks that are in use from one step to another.

/// Where blocks begin, in bytes.
pub const ALIGNMENT: u64 = 256;

/// Memory that is in use from one step to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Bytes.
    pub bytes: u64,
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it.
    pub last: usize,
}

impl Block {
    fn size(&self) -> u64 {
        self.bytes.next_multiple_of(ALIGNMENT)
    }

    /// Steps.
    fn length(&self) -> u64 {
        (self.last - self.first) as u64 + 1
    }

    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Places for blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arena {
    /// Where each block begins, in bytes from the start.
    pub offsets: Vec<u64>,
    /// Bytes of all of it.
    pub bytes: u64,
    /// Bytes that are in use at one time at most, in whole multiples of [`ALIGNMENT`]: no arena is smaller.
    pub lower_bound: u64,
}

/// Comparisons of blocks that a search for a smaller arena may take: a fraction of a second.
const EFFORT: usize = 200_000_000;

/// What blocks are placed by, the largest first.
type Order = fn(&Block) -> (u64, u64);

impl Arena {
    /// Places blocks so that no two that are in use at the same time overlap. Blocks are placed in several orders, into the smallest
    /// gap that they fit into or into the lowest, and the smallest arena is taken. While it is larger than it must be, the block that
    /// sticks out is placed before all others, and all are placed again.
    pub fn of(blocks: &[Block]) -> Self {
        let mut search = Search { blocks, lower_bound: lower_bound(blocks), best: None, left: EFFORT };
        let orders: [Order; 4] = [
            |b| (b.size(), b.length()),
            |b| (b.size().saturating_mul(b.length()), b.size()),
            |b| (b.length(), b.size()),
            |b| (u64::MAX - b.first as u64, b.size()),
        ];
        let mut tried = Vec::new();
        for key in orders {
            let mut order: Vec<usize> = (0..blocks.len()).filter(|i| blocks[*i].bytes > 0).collect();
            // Ties keep the order of the blocks.
            order.sort_by_key(|i| std::cmp::Reverse(key(&blocks[*i])));
            for fit in [Fit::Smallest, Fit::Lowest] {
                search.place(&order, fit);
            }
            tried.push(order);
        }
        for mut order in tried {
            for _ in 0..ROUNDS {
                let Some(top) = search.place(&order, Fit::Lowest) else { break };
                order.retain(|i| *i != top);
                order.insert(0, top);
            }
        }
        search.best.unwrap_or_default()
    }
}

/// Times that an order is changed.
const ROUNDS: usize = 100;

/// Which of the gaps that a block fits into it is put into.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fit {
    Smallest,
    Lowest,
}

struct Search<'a> {
    blocks: &'a [Block],
    lower_bound: u64,
    best: Option<Arena>,
    /// Comparisons that are left.
    left: usize,
}

impl Search<'_> {
    /// Places the blocks and keeps the arena if it is the smallest; the block that ends last, unless there is no more to be won.
    fn place(&mut self, order: &[usize], fit: Fit) -> Option<usize> {
        let done = |best: &Arena| best.bytes == best.lower_bound;
        let effort = order.len() * order.len() / 2;
        if self.best.as_ref().is_some_and(|best| done(best) || self.left < effort) {
            return None;
        }
        self.left = self.left.saturating_sub(effort);
        let (offsets, bytes) = place(self.blocks, order, fit);
        let top = order.iter().copied().max_by_key(|i| offsets[*i] + self.blocks[*i].size());
        if self.best.as_ref().is_none_or(|best| bytes < best.bytes) {
            self.best = Some(Arena { offsets, bytes, lower_bound: self.lower_bound });
        }
        top
    }
}

/// The most that is in use at one time.
fn lower_bound(blocks: &[Block]) -> u64 {
    let mut changes: Vec<(usize, bool, u64)> = Vec::with_capacity(2 * blocks.len());
    for b in blocks.iter().filter(|b| b.bytes > 0) {
        // What ends makes room for what begins a step later.
        changes.push((b.first, true, b.size()));
        changes.push((b.last + 1, false, b.size()));
    }
    changes.sort_unstable();
    let (mut now, mut most) = (0u64, 0u64);
    for (_, begins, size) in changes {
        now = if begins { now + size } else { now - size };
        most = most.max(now);
    }
    most
}

/// Places blocks in an order, each into a gap between those that are in use with it.
fn place(blocks: &[Block], order: &[usize], fit: Fit) -> (Vec<u64>, u64) {
    let mut offsets = vec![0u64; blocks.len()];
    // Placed blocks by where they begin.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut end = 0u64;
    for &i in order {
        let block = blocks[i];
        let (mut at, mut best) = (0u64, None::<(u64, u64)>);
        for &j in placed.iter().filter(|j| blocks[**j].meets(&block)) {
            let gap = offsets[j].saturating_sub(at);
            let better = best.is_none_or(|(size, _)| fit == Fit::Smallest && gap < size);
            if gap >= block.size() && better {
                best = Some((gap, at));
            }
            at = at.max(offsets[j] + blocks[j].size());
        }
        let offset = best.map_or(at, |(_, at)| at);
        offsets[i] = offset;
        end = end.max(offset + block.size());
        let position = placed.partition_point(|j| offsets[*j] <= offset);
        placed.insert(position, i);
    }
    (offsets, end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks() -> impl Strategy<Value = Vec<Block>> {
        let block = (0u64..5000, 0usize..40, 0usize..12);
        let block = block.prop_map(|(bytes, first, length)| Block { bytes, first, last: first + length });
        proptest::collection::vec(block, 0..120)
    }

    proptest! {
        #[test]
        fn blocks_in_use_at_the_same_time_do_not_overlap(blocks in blocks()) {
            let arena = Arena::of(&blocks);
            prop_assert!(arena.bytes >= arena.lower_bound);
            for (i, a) in blocks.iter().enumerate() {
                prop_assert_eq!(arena.offsets[i] % ALIGNMENT, 0);
                prop_assert!(a.bytes == 0 || arena.offsets[i] + a.bytes <= arena.bytes);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    if a.meets(b) && a.bytes > 0 && b.bytes > 0 {
                        let (p, q) = (arena.offsets[i], arena.offsets[j]);
                        prop_assert!(p + a.bytes <= q || q + b.bytes <= p, "{:?} at {} and {:?} at {}", a, p, b, q);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_never_in_use_together_shares_a_place() {
        let block = |bytes, first, last| Block { bytes, first, last };
        let arena = Arena::of(&[block(1000, 0, 1), block(500, 1, 2), block(900, 2, 3), block(0, 0, 9)]);
        assert_eq!((arena.bytes, arena.lower_bound), (1536, 1536));
        assert_eq!(Arena::of(&[]), Arena::default());
    }
}
