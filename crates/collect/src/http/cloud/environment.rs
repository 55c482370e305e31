//! The variables that programs in a cloud are configured by.

use std::fmt;
use std::sync::Arc;

type Read = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Variables of the process, or others in their place.
#[derive(Clone)]
pub struct Environment(Arc<Read>);

impl Environment {
    /// Takes other variables than those of the process.
    pub fn of(read: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Environment {
        Environment(Arc::new(read))
    }

    /// Gives a variable; an empty one is none.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }
}

impl Default for Environment {
    fn default() -> Environment {
        Environment::of(|name| std::env::var(name).ok())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}
