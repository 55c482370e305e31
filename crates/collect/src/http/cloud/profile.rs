//! AWS' shared files: profiles with keys, and what else belongs to them.

use std::path::PathBuf;

use super::environment::Environment;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a profile says, as far as it is of use here.
#[derive(Clone, PartialEq, Eq, Default)]
pub(super) struct Profile {
    pub(super) access_key: Option<String>,
    pub(super) secret_key: Option<String>,
    pub(super) session_token: Option<String>,
    pub(super) region: Option<String>,
    pub(super) role_arn: Option<String>,
    pub(super) source_profile: Option<String>,
    pub(super) external_id: Option<String>,
    /// A key that names a way to credentials which is not served.
    pub(super) unserved: Option<&'static str>,
}

/// Gives the profile that is meant when none is named.
pub(super) fn default_name(environment: &Environment) -> String {
    environment.get("AWS_PROFILE").unwrap_or_else(|| "default".to_owned())
}

/// Reads a profile; `None` when neither file has it.
pub(super) fn read(name: &str, environment: &Environment) -> Option<Profile> {
    let home = environment.get("HOME").map(PathBuf::from).unwrap_or_default();
    let path = |variable: &str, name: &str| {
        environment.get(variable).map_or_else(|| home.join(".aws").join(name), PathBuf::from)
    };
    let text = |path: PathBuf| {
        let small = std::fs::metadata(&path).ok()?.len() <= FILE_BYTES_MAX;
        small.then(|| std::fs::read_to_string(&path).ok()).flatten()
    };
    let mut profile = Profile::default();
    let mut found = false;
    if let Some(text) = text(path("AWS_CONFIG_FILE", "config")) {
        found |= profile
            .add(&text, |section| section == name || section.strip_prefix("profile ").map(str::trim) == Some(name));
    }
    if let Some(text) = text(path("AWS_SHARED_CREDENTIALS_FILE", "credentials")) {
        found |= profile.add(&text, |section| section == name);
    }
    found.then_some(profile)
}

impl Profile {
    /// Adds what the sections that are meant say; tells whether there was one.
    fn add(&mut self, text: &str, is_meant: impl Fn(&str) -> bool) -> bool {
        let (mut found, mut within) = (false, false);
        for line in text.lines() {
            // A line that is indented belongs to a nested setting.
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
                continue;
            }
            if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                within = is_meant(section.trim());
                found |= within;
            } else if let Some((key, value)) = trimmed.split_once('=').filter(|_| within) {
                self.set(&key.trim().to_ascii_lowercase(), value.trim());
            }
        }
        found
    }

    fn set(&mut self, key: &str, value: &str) {
        let slot = match key {
            "aws_access_key_id" => &mut self.access_key,
            "aws_secret_access_key" => &mut self.secret_key,
            "aws_session_token" => &mut self.session_token,
            "region" => &mut self.region,
            "role_arn" => &mut self.role_arn,
            "source_profile" => &mut self.source_profile,
            "external_id" => &mut self.external_id,
            "credential_process" => return self.unserved = Some("credential_process"),
            "sso_start_url" | "sso_session" => return self.unserved = Some("sso"),
            "credential_source" => return self.unserved = Some("credential_source"),
            _ => return,
        };
        *slot = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_make_one_profile() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name).display().to_string()
        };
        let config =
            write("c", "[default]\nregion = eu-west-1\n[profile dev]\n# x\nregion=us-east-1 \ns3 =\n  region = no\n");
        let keys = write(
            "k",
            "[dev]\naws_access_key_id = AK\naws_secret_access_key = S=/+\n\n[other]\naws_access_key_id = no\n",
        );
        let environment = Environment::of(move |name| match name {
            "AWS_CONFIG_FILE" => Some(config.clone()),
            "AWS_SHARED_CREDENTIALS_FILE" => Some(keys.clone()),
            _ => None,
        });
        let dev = read("dev", &environment).unwrap();
        assert_eq!((dev.access_key.as_deref(), dev.secret_key.as_deref()), (Some("AK"), Some("S=/+")));
        assert_eq!(dev.region.as_deref(), Some("us-east-1"));
        let default = read(&default_name(&environment), &environment).unwrap();
        assert_eq!((default.region.as_deref(), default.access_key), (Some("eu-west-1"), None));
        assert!(read("nobody", &environment).is_none());
    }
}
