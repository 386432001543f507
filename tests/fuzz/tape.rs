//! Choices as data: a generator that reads its decisions off a list of numbers shrinks with that list, since a smaller
//! number is a simpler decision and a list that has run out gives zeros.

/// The decisions of one case.
pub struct Tape<'a> {
    choices: &'a [u16],
    at: usize,
}

impl<'a> Tape<'a> {
    pub fn new(choices: &'a [u16]) -> Self {
        Self { choices, at: 0 }
    }

    fn next(&mut self) -> usize {
        let choice = self.choices.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(choice)
    }

    /// A number below `n`; 0 is the simplest.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() * n) >> 16
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) + 1 == n
    }

    /// One of several; the first is the simplest.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A seed for data.
    pub fn seed(&mut self) -> u64 {
        self.next() as u64
    }

    /// Where the tape stands.
    pub fn mark(&self) -> usize {
        self.at
    }

    /// Decides again as after `mark`, for whatever `again` does with it, and goes on from here.
    pub fn wind(&mut self, mark: usize) -> usize {
        std::mem::replace(&mut self.at, mark)
    }
}
