//! The index, which a start makes in the background: writes are taken before it is there, selections wait for it.
//!
//! Invariants: 1. a series added while it is made is in it when it is there.
//! Limits: what waits meanwhile are the series that came since the start.

use model::Labels;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Index;

/// An index that may still be in the making.
#[derive(Default)]
pub struct IndexCell {
    index: RwLock<Index>,
    state: Mutex<State>,
    made: Condvar,
}

#[derive(Default)]
enum State {
    /// Series are known to the head alone.
    Unmade,
    /// Series that came since the making began.
    Making(Vec<(u32, Labels)>),
    #[default]
    Made,
}

impl IndexCell {
    /// Starts without an index; additions are left to whoever calls [`IndexCell::fill`].
    pub fn unmade() -> IndexCell {
        IndexCell { state: Mutex::new(State::Unmade), ..IndexCell::default() }
    }

    /// Says that [`IndexCell::fill`] will come; what is added from now on is kept for it.
    pub fn begin(&self) {
        *self.state.lock() = State::Making(Vec::new());
    }

    /// Puts in the series that were there before, sorted by id, and lets the selections go on.
    pub fn fill(&self, series: &[(u32, Labels)]) {
        let mut index = self.index.write();
        for (id, labels) in series {
            index.add(*id, labels);
        }
        let mut state = self.state.lock();
        if let State::Making(came) = std::mem::replace(&mut *state, State::Made) {
            came.iter().for_each(|(id, labels)| index.add(*id, labels));
        }
        drop(state);
        drop(index);
        self.made.notify_all();
    }

    /// Tells whether it is there.
    pub fn is_made(&self) -> bool {
        matches!(*self.state.lock(), State::Made)
    }

    fn wait(&self) {
        let mut state = self.state.lock();
        while !matches!(*state, State::Made) {
            self.made.wait(&mut state);
        }
    }

    /// Adds a series; waits for nothing but readers.
    pub fn add(&self, id: u32, labels: &Labels) {
        match &mut *self.state.lock() {
            State::Unmade => return,
            State::Making(came) => return came.push((id, labels.clone())),
            State::Made => {}
        }
        self.index.write().add(id, labels);
    }

    /// Reads, once it is made.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.wait();
        self.index.read()
    }

    /// Changes, once it is made.
    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.wait();
        self.index.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_it_is_made_is_there_afterwards_and_readers_wait() {
        let cell = IndexCell::unmade();
        cell.add(3, &Labels::from_pairs([("n", "3")]));
        let labels = |n: u32| Labels::from_pairs([("n", n.to_string())]);
        cell.begin();
        cell.add(7, &labels(7));
        cell.add(2, &labels(2));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| cell.read().all().to_vec());
            cell.fill(&(0..5).map(|n| (n, labels(n))).collect::<Vec<_>>());
            assert_eq!(reader.join().unwrap(), [0, 1, 2, 3, 4, 7]);
        });
        cell.add(9, &labels(9));
        assert_eq!(cell.read().all().len(), 7);
        assert_eq!(cell.read().values("n").count(), 7);
    }
}
