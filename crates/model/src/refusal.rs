//! Why a sample was not stored, and the count that must always add up.

/// The reason for which a sample is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// Older than the retention.
    TooOld = 0,
    /// More than the allowed time in the future.
    TooNew = 1,
    /// Same series and time as a stored sample, other value.
    DuplicateConflict = 2,
    /// The series would be new and there is no room for new series.
    SeriesLimit = 3,
    /// Too many labels, or a name or value that is too long.
    LabelLimit = 4,
    /// A metric or label name that is empty, reserved or not UTF-8, or that stands twice.
    InvalidName = 5,
    /// A value that cannot be stored.
    InvalidValue = 6,
    /// The family has another type already.
    TypeConflict = 7,
    /// More samples in one scrape than allowed.
    SampleLimit = 8,
    /// Filters made it the same series as another one that goes on.
    LabelCollision = 9,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = 10;

    /// All reasons, in order of their numbers.
    pub const ALL: [Refusal; Refusal::COUNT] = [
        Refusal::TooOld,
        Refusal::TooNew,
        Refusal::DuplicateConflict,
        Refusal::SeriesLimit,
        Refusal::LabelLimit,
        Refusal::InvalidName,
        Refusal::InvalidValue,
        Refusal::TypeConflict,
        Refusal::SampleLimit,
        Refusal::LabelCollision,
    ];

    /// Gives the word that the outside sees.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::TooOld => "too_old",
            Refusal::TooNew => "too_new",
            Refusal::DuplicateConflict => "duplicate_conflict",
            Refusal::SeriesLimit => "series_limit",
            Refusal::LabelLimit => "label_limit",
            Refusal::InvalidName => "invalid_name",
            Refusal::InvalidValue => "invalid_value",
            Refusal::TypeConflict => "type_conflict",
            Refusal::SampleLimit => "sample_limit",
            Refusal::LabelCollision => "label_collision",
        }
    }
}

/// What became of one sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verdict {
    /// Not decided yet; [`crate::Append`] decides.
    #[default]
    Pending,
    /// Stored.
    Stored,
    /// The very same sample was there already.
    Duplicate,
    /// A filter or relabel rule took it out; it counts, nothing is stored.
    Filtered,
    /// Refused, with the reason.
    Refused(Refusal),
}

/// The ledger of one batch or of many: received = stored + duplicates + filtered + refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Samples that came in.
    pub received: u64,
    /// Samples stored.
    pub stored: u64,
    /// Samples that were there already, bit for bit.
    pub duplicates: u64,
    /// Samples taken out by a rule.
    pub filtered: u64,
    /// Samples refused, by reason.
    pub refused: [u64; Refusal::COUNT],
}

impl Counts {
    /// Counts one verdict. `Pending` counts as received only and breaks the balance: decide first.
    pub fn add(&mut self, verdict: Verdict) {
        self.received += 1;
        match verdict {
            Verdict::Pending => {}
            Verdict::Stored => self.stored += 1,
            Verdict::Duplicate => self.duplicates += 1,
            Verdict::Filtered => self.filtered += 1,
            Verdict::Refused(reason) => self.refused[reason as usize] += 1,
        }
    }

    /// Adds another ledger to this one.
    pub fn merge(&mut self, other: &Counts) {
        self.received += other.received;
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.filtered += other.filtered;
        for (mine, theirs) in self.refused.iter_mut().zip(other.refused) {
            *mine += theirs;
        }
    }

    /// Gives the refused samples of all reasons.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Tells whether nothing is unaccounted for.
    pub fn balances(&self) -> bool {
        self.received == self.stored + self.duplicates + self.filtered + self.refused_total()
    }
}
