//! What nobody sends any more goes.

use super::members::Use;
use super::{Aggregator, REST_MAX_MS};

impl Use {
    /// Notes a look at it; tells whether it has rested for too long.
    fn sweep(&mut self, now_ms: i64) -> bool {
        if std::mem::take(&mut self.used) {
            self.at_ms = now_ms;
        }
        now_ms.saturating_sub(self.at_ms) > REST_MAX_MS
    }
}

impl Aggregator {
    /// Lets children and groups go that had no sample for [`REST_MAX_MS`]; does nothing while a collection is under way.
    ///
    /// **Cost** a look at every child and group: for every few minutes.
    pub fn sweep(&mut self, now_ms: i64) {
        if self.open {
            return;
        }
        let old: Vec<u32> = (0u32..)
            .zip(&mut self.members)
            .filter_map(|(at, m)| (!m.forgotten && m.usage.sweep(now_ms)).then_some(at))
            .collect();
        old.into_iter().for_each(|at| self.forget(at));
        let mut dead = 0;
        for group in &mut self.groups {
            group.dead = group.usage.sweep(now_ms) && group.members.is_empty();
            dead += usize::from(group.dead);
        }
        if dead > 0 {
            self.drop_groups();
        }
    }

    /// Takes dead groups out and numbers the others anew.
    fn drop_groups(&mut self) {
        // What was abandoned has no meaning any more, and would name other groups.
        self.touched.clear();
        self.touched_before.clear();
        let mut moved = vec![u32::MAX; self.groups.len()];
        let mut next = 0;
        for (group, moved) in self.groups.iter().zip(&mut moved) {
            if !group.dead {
                *moved = next;
                next += 1;
            }
        }
        let to = |at: u32| moved.get(at as usize).copied().unwrap_or(u32::MAX);
        self.groups.retain(|group| !group.dead);
        for member in self.members.iter_mut().filter(|m| !m.forgotten) {
            member.group = to(member.group);
        }
        self.by_labels.retain(|_, at| {
            *at = to(*at);
            *at != u32::MAX
        });
        self.by_labels.shrink_to_fit();
    }
}
