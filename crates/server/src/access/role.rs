//! What somebody may do, and what a route asks for.

use std::fmt;

/// What somebody may do: any of reading and writing, or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Roles {
    read: bool,
    write: bool,
    admin: bool,
}

/// The words of the configuration.
pub const WORDS: &str = "read, write, admin";

impl Roles {
    /// May do nothing.
    pub const NONE: Roles = Roles { read: false, write: false, admin: false };
    /// May ask.
    pub const READ: Roles = Roles { read: true, ..Roles::NONE };
    /// May bring samples.
    pub const WRITE: Roles = Roles { write: true, ..Roles::NONE };
    /// May do everything.
    pub const ADMIN: Roles = Roles { read: true, write: true, admin: true };

    /// Reads one of [`WORDS`].
    pub fn parse(word: &str) -> Option<Roles> {
        match word {
            "read" => Some(Roles::READ),
            "write" => Some(Roles::WRITE),
            "admin" => Some(Roles::ADMIN),
            _ => None,
        }
    }

    /// Gives what either may.
    pub fn or(self, other: Roles) -> Roles {
        Roles { read: self.read || other.read, write: self.write || other.write, admin: self.admin || other.admin }
    }

    /// Gives the words, as few as say it.
    pub fn words(self) -> Vec<&'static str> {
        if self.admin {
            return vec!["admin"];
        }
        [(self.read, "read"), (self.write, "write")].into_iter().filter_map(|(has, word)| has.then_some(word)).collect()
    }

    /// Tells whether a need is met.
    pub fn meet(self, need: Need) -> bool {
        match need {
            Need::Nothing | Need::Anybody => true,
            Need::Read => self.read,
            Need::Write | Need::Manage => self.write,
            Need::Admin => self.admin,
        }
    }

    /// Tells whether writing is all that may be done.
    pub fn only_writes(self) -> bool {
        self == Roles::WRITE
    }

    /// Reads several words, which add up; `None` when one is not known.
    pub fn parse_all<W: AsRef<str>>(words: &[W]) -> Option<Roles> {
        words.iter().try_fold(Roles::NONE, |all, word| Some(all.or(Roles::parse(word.as_ref())?)))
    }

    /// Tells whether everything may be done.
    pub fn is_admin(self) -> bool {
        self.admin
    }

    /// Tells whether samples may be brought.
    pub fn writes(self) -> bool {
        self.write
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join("+"))
    }
}

/// What a route asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Not even to be known.
    Nothing,
    /// To be known, whatever the roles: paths that do not exist.
    Anybody,
    /// To ask.
    Read,
    /// To bring samples, as one's own source if one has any.
    Write,
    /// To say what is collected. For those who write for all sources only.
    Manage,
    /// To change how the server works, or to take something away.
    Admin,
}

impl Need {
    /// Gives the role that is needed.
    pub fn role(self) -> &'static str {
        match self {
            Need::Nothing | Need::Anybody => "any",
            Need::Read => "read",
            Need::Write | Need::Manage => "write",
            Need::Admin => "admin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_and_writing_are_apart_and_admins_do_both() {
        assert!(Roles::READ.meet(Need::Read) && !Roles::READ.meet(Need::Write) && !Roles::READ.meet(Need::Admin));
        assert!(Roles::WRITE.meet(Need::Write) && !Roles::WRITE.meet(Need::Read) && !Roles::WRITE.meet(Need::Admin));
        assert!([Need::Read, Need::Write, Need::Manage, Need::Admin].into_iter().all(|n| Roles::ADMIN.meet(n)));
        assert!(Roles::NONE.meet(Need::Anybody) && !Roles::NONE.meet(Need::Read));
        assert_eq!(Roles::READ.or(Roles::WRITE).to_string(), "read+write");
        assert_eq!(Roles::ADMIN.to_string(), "admin");
        assert_eq!(Roles::parse("Admin"), None);
    }
}
