//! Families and starts: what the lines above a sample make of it.

use model::{Family, MetricType, NO_FAMILY};
use wire::points::{Role, role_of};
use wire::scrape::Reading;
use wire::{openmetrics, series_name};

use super::Intake;

/// Families ahead in the last scrape that are compared with the present one.
const FAMILIES_AHEAD: usize = 8;
/// Families without samples that a body may have: of more, the last one is kept.
const IDLE_FAMILIES_MAX: u32 = 10_000;

impl Intake<'_> {
    /// Gives the point before a `_created` line its start, if both have the same labels.
    pub(super) fn take_start(&mut self, entry: u32, value: f64) {
        let Some((point, point_entry)) = self.point else { return };
        let braces = |entry: u32| {
            let text = self.cache.key(entry);
            &text[text.iter().position(|b| *b == b'{').unwrap_or(text.len())..]
        };
        if let (true, Some(start_ms)) = (braces(entry) == braces(point_entry), openmetrics::created_ms(value)) {
            self.batch.start_timestamps.push((point, start_ms));
        }
    }

    /// Gives the family of a metadata line: the one that is open, or a new one.
    pub(super) fn family_named(&mut self, name: &str) -> &mut Family {
        let families = &mut self.batch.families;
        if families.get(self.family as usize).is_none_or(|open| open.name != name) {
            let is_idle = !self.family_is_settled && self.family as usize + 1 == families.len();
            self.idle_families += u32::from(is_idle);
            if is_idle && self.idle_families > IDLE_FAMILIES_MAX {
                families.pop();
            }
            self.family = families.len() as u32;
            families.push(Family { name: name.to_owned(), ..Family::default() });
        }
        self.family_is_settled = false;
        &mut families[self.family as usize]
    }

    /// The metadata of a family is complete when its first sample comes: looks for it in the last scrape.
    #[cold]
    pub(super) fn settle_family(&mut self) {
        self.family_is_settled = true;
        self.point = None;
        let Some(open) = self.batch.families.get(self.family as usize) else { return };
        self.metric_type = open.metric_type;
        self.points.start_family(open.metric_type);
        let ahead = self.cache.families.iter().skip(self.family_line).take(FAMILIES_AHEAD);
        let found =
            ahead.zip(self.family_line..).find(|(f, _)| f.name == open.name && f.metric_type == open.metric_type);
        self.family_before = match found {
            Some((_, at)) => {
                self.family_line = at + 1;
                at as u32
            }
            // No entry has it, so that every role is found anew.
            None => NO_FAMILY - 2,
        };
    }

    /// Finds what an entry of a text format is to the family above it.
    #[cold]
    pub(super) fn find_role(&mut self, entry: u32) {
        let text = std::str::from_utf8(self.cache.key(entry)).unwrap_or_default();
        let name = series_name(text);
        let (mut role, mut created) = (Role::Stranger, false);
        if let Some(open) = self.batch.families.get(self.family as usize) {
            role = role_of(open.metric_type, &open.name, text, name);
            created = openmetrics::is_created_of(name, &open.name, open.metric_type);
        }
        let family = self.family;
        let is_wrong = self.spec.filters.asks_types() && self.cache.entry(entry).judged != self.typed(role);
        // The next scrape reads all labels anew.
        self.cache.judged_wrong |= is_wrong;
        let cached = self.cache.entry_mut(entry);
        (cached.role, cached.created, cached.family) = (role, created, family);
    }

    fn typed(&self, role: Role) -> MetricType {
        let open = self.batch.families.get(self.family as usize);
        open.filter(|_| role != Role::Stranger).map_or(MetricType::Unknown, |f| f.metric_type)
    }

    /// Gives the type of a new series, whose key stands in `key`: that of the family above if it belongs to it.
    pub(super) fn type_of(&mut self, reading: &Reading) -> MetricType {
        if !self.family_is_settled {
            self.settle_family();
        }
        let role = reading.role.unwrap_or_else(|| {
            let text = std::str::from_utf8(&self.key).unwrap_or_default();
            let open = self.batch.families.get(self.family as usize);
            open.map_or(Role::Stranger, |open| role_of(open.metric_type, &open.name, text, series_name(text)))
        });
        self.typed(role)
    }
}
