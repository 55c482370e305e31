//! Where the program `quiver-analytics` is.

use std::path::{Path, PathBuf};

const NAME: &str = "quiver-analytics";
/// A user and a group without rights.
pub const NOBODY: u32 = 65_534;

/// Finds it: where the command line says, beside this program, or in PATH.
///
/// **Errors** say how to get it.
pub fn find(told: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = told {
        let missing = || format!("there is no program at {} (--analytics): see docs/sql.md", path.display());
        return path.is_file().then(|| path.to_owned()).ok_or_else(missing);
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME)));
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside.into_iter().chain(std::env::split_paths(&paths).map(|folder| folder.join(NAME)));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "SQL is answered and uploads are cleaned up by the program {NAME}, which is not here: build it with `make analytics` and \
             put it beside quiver, or name it with --analytics"
        )
    })
}

/// Tells whether a user with no rights can reach a path.
pub fn all_may_reach(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &Path, bits: u32| path.metadata().is_ok_and(|m| m.permissions().mode() & bits == bits);
    open(path, 0o005) && path.ancestors().skip(1).all(|folder| open(folder, 0o001))
}

/// Tells whether this process runs as root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|m| m.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_program_is_told_with_the_way_to_get_it() {
        let error = find(Some(Path::new("/nowhere/at/all"))).unwrap_err();
        assert!(error.contains("/nowhere/at/all") && error.contains("docs/sql.md"), "{error}");
    }

    #[test]
    fn a_closed_folder_on_the_way_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!all_may_reach(&file));
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(all_may_reach(&file), all_may_reach(folder.path()));
    }
}
