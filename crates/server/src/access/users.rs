//! Passwords against their bcrypt hashes.
//!
//! Limits: [`AT_ONCE`] hashes are worked on at a time and [`WAITING_MAX`] wait, for each takes a tenth of a second of a processor; good
//! answers are remembered under a keyed hash of name, password and bcrypt hash, [`REMEMBERED_MAX`] of them.
//! Invariant: a name that does not exist takes as long as one that does.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use ring::hmac;
use tokio::sync::Semaphore;

/// Hashes worked on at a time.
const AT_ONCE: usize = 2;
/// Those that wait for their turn.
const WAITING_MAX: usize = 64;
/// Answers that are remembered.
const REMEMBERED_MAX: usize = 1_000;
/// bcrypt reads no more of a password.
const PASSWORD_BYTES_MAX: usize = 72;

/// What came of a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// It is his.
    Good,
    /// It is not.
    Bad,
    /// Too many are being checked.
    Busy,
}

/// Checks passwords.
pub struct Passwords {
    key: hmac::Key,
    good: Mutex<HashSet<[u8; 32]>>,
    seats: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Passwords {
    /// Starts with nothing remembered.
    ///
    /// **Errors** when the system gives no random bytes.
    pub fn new() -> Result<Passwords, String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| format!("the system gives no random bytes: {e}"))?;
        Ok(Passwords {
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            good: Mutex::default(),
            seats: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        })
    }

    /// Compares a password with a hash.
    ///
    /// **Takes** `exists`: whether the name does; the hash is another one's if not.
    pub async fn check(&self, name: &str, password: &str, bcrypt: &str, exists: bool) -> Checked {
        let digest = self.digest(&[name, password, bcrypt]);
        if exists && self.good.lock().contains(&digest) {
            return Checked::Good;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Checked::Busy };
        let Ok(seat) = self.seats.clone().acquire_owned().await else { return Checked::Busy };
        let (password, bcrypt) = (password.to_owned(), bcrypt.to_owned());
        let verified = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            password.len() <= PASSWORD_BYTES_MAX && bcrypt::verify(&password, &bcrypt).unwrap_or(false)
        });
        if !verified.await.unwrap_or(false) || !exists {
            return Checked::Bad;
        }
        let mut good = self.good.lock();
        if good.len() >= REMEMBERED_MAX {
            good.clear();
        }
        good.insert(digest);
        Checked::Good
    }

    fn digest(&self, parts: &[&str]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn passwords_are_told_apart_and_the_good_ones_remembered() {
        let passwords = Passwords::new().unwrap();
        let hash = bcrypt::hash("hunter2", 4).unwrap();
        assert_eq!(passwords.check("u", "hunter2", &hash, true).await, Checked::Good);
        assert_eq!(passwords.good.lock().len(), 1);
        assert_eq!(passwords.check("u", "hunter2", &hash, true).await, Checked::Good);
        assert_eq!(passwords.check("u", "hunter3", &hash, true).await, Checked::Bad);
        assert_eq!(passwords.check("u", "hunter2", &hash, false).await, Checked::Bad);
        assert_eq!(passwords.check("u", "hunter2", "nonsense", true).await, Checked::Bad);
        assert_eq!(passwords.check("u", &"x".repeat(100), &hash, true).await, Checked::Bad);
        assert_eq!(passwords.good.lock().len(), 1);
    }
}
