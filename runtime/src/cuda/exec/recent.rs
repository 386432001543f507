//! What was used last, up to a number of things.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, num::NonZeroUsize};

/// Values by key, of which those that were used last stay. What is clone-able is a handle: a value that goes is there for as long as
/// somebody else has it.
#[derive(Debug)]
pub struct Recent<K, V> {
    most: NonZeroUsize,
    /// Each with the turn in which it was used last.
    all: HashMap<K, (u64, V)>,
    turn: u64,
}

impl<K: Clone + Eq + Hash, V: Clone> Recent<K, V> {
    /// So many at most.
    pub fn new(most: NonZeroUsize) -> Self {
        Self { most, all: HashMap::new(), turn: 0 }
    }

    /// A value, which is used by that.
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (turn, value) = self.all.get_mut(key)?;
        self.turn += 1;
        *turn = self.turn;
        Some(value.clone())
    }

    /// Keeps a value, unless one is there: the first one stays. Returns the one that is kept, and what had to go, for the caller to
    /// drop where nobody waits.
    pub fn insert(&mut self, key: K, value: V) -> (V, Vec<V>) {
        if let Some(first) = self.get(&key) {
            return (first, vec![value]);
        }
        let mut gone = Vec::new();
        while self.all.len() >= self.most.get() {
            gone.extend(self.remove_oldest());
        }
        self.turn += 1;
        self.all.insert(key, (self.turn, value.clone()));
        (value, gone)
    }

    /// Takes out what was not used for the longest time.
    pub fn remove_oldest(&mut self) -> Option<V> {
        let oldest = self.all.iter().min_by_key(|(_, (turn, _))| *turn)?.0.clone();
        self.all.remove(&oldest).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn recent(most: usize) -> Recent<Vec<u8>, Arc<u32>> {
        Recent::new(NonZeroUsize::new(most).unwrap())
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes() {
        let mut recent = recent(2);
        let kept: Vec<Arc<u32>> = (0..3).map(Arc::new).collect();
        recent.insert(vec![0], kept[0].clone());
        recent.insert(vec![1], kept[1].clone());
        assert_eq!(recent.get(&[0u8][..]), Some(kept[0].clone()));
        let (stays, gone) = recent.insert(vec![2], kept[2].clone());
        assert_eq!((stays, gone), (kept[2].clone(), vec![kept[1].clone()]));
        assert_eq!(recent.get(&[1u8][..]), None);
        assert_eq!(recent.all.len(), 2);
        assert_eq!([recent.remove_oldest(), recent.remove_oldest()], [Some(kept[0].clone()), Some(kept[2].clone())]);
        assert_eq!(recent.remove_oldest(), None);
    }

    #[test]
    fn the_first_of_two_that_were_made_at_the_same_time_stays() {
        let mut recent = recent(1);
        let (first, second) = (Arc::new(7), Arc::new(7));
        recent.insert(vec![0], first.clone());
        let (stays, gone) = recent.insert(vec![0], second.clone());
        assert!(Arc::ptr_eq(&stays, &first) && Arc::ptr_eq(&gone[0], &second) && gone.len() == 1);
    }

    #[test]
    fn what_is_in_use_outlives_its_place() {
        let mut recent = recent(1);
        let (used, _) = recent.insert(vec![0], Arc::new(5));
        drop(recent.insert(vec![1], Arc::new(6)).1);
        assert_eq!((*used, Arc::strong_count(&used)), (5, 1));
    }
}
