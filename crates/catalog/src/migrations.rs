//! The migrations, in the binary. `sqlx::migrate!` would do the same and costs every build a second copy of both drivers.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Gives those of SQLite.
pub fn sqlite() -> Migrator {
    of(&[(1, "targets and collections", include_str!("../migrations/0001_targets_and_collections.sql"))])
}

/// Gives those of PostgreSQL.
pub fn postgres() -> Migrator {
    of(&[(1, "targets and collections", include_str!("../migrations_postgres/0001_targets_and_collections.sql"))])
}

/// What is once released stays as it is: the database knows each one's number and checksum.
fn of(all: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migration = |(version, description, sql): &(i64, &'static str, &'static str)| {
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(all.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_in_the_list() {
        for (folder, list) in [("migrations", sqlite()), ("migrations_postgres", postgres())] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let mut files: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let named = |m: &Migration| format!("{:04}_{}.sql", m.version, m.description.replace(' ', "_"));
            assert_eq!(files, list.iter().map(named).collect::<Vec<_>>());
        }
    }
}
