//! PostgreSQL's programs on this machine.
//!
//! What comes in: folders. What goes out: the one whose programs fit, or the sentence with the package to install. What always holds: a
//! cluster that exists is given programs of the version that made it (`existing_cluster_keeps_its_version`).

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version that works with this server, and the newest that it was written for.
const MAJOR_MIN: u32 = 14;
const MAJOR_MAX: u32 = 17;

/// A folder with `initdb`, `postgres` and `pg_ctl` of one version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// Looks for them; `wanted` is the version of a cluster that exists.
    ///
    /// # Errors
    ///
    /// A sentence with the package to install.
    pub(super) fn find(wanted: Option<u32>) -> Result<Self, String> {
        let found: Vec<Self> = folders().into_iter().filter_map(Self::of).collect();
        choose(&found, wanted).cloned().ok_or_else(|| {
            let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
            let versions: Vec<String> = found.iter().map(|one| one.major.to_string()).collect();
            advice(&release, wanted, &versions)
        })
    }

    /// One of its programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn of(folder: PathBuf) -> Option<Self> {
        let has = |name: &str| folder.join(name).is_file();
        if !(has("initdb") && has("postgres") && has("pg_ctl")) {
            return None;
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { folder, major })
    }
}

/// Of the versions that work the newest one, rather one that this server was written for than a later one.
fn choose(found: &[Binaries], wanted: Option<u32>) -> Option<&Binaries> {
    found
        .iter()
        .filter(|one| one.major >= MAJOR_MIN && wanted.is_none_or(|wanted| one.major == wanted))
        .max_by_key(|one| (one.major <= MAJOR_MAX, one.major))
}

/// The version in `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL) ").nth(1)?;
    let end = number.find(|character: char| !character.is_ascii_digit());
    number[..end.unwrap_or(number.len())].parse().ok()
}

/// Where distributions put them; those that do not exist fall out later.
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    // Debian and Ubuntu; Red Hat's own packages and PostgreSQL's for them; Homebrew.
    for (parent, prefix, rest) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ] {
        folders.extend(children(Path::new(parent), prefix).map(|child| child.join(rest)));
    }
    folders.retain(|folder| !folder.as_os_str().is_empty());
    folders
}

fn children(parent: &Path, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// What to install; `release` is the text of `/etc/os-release`, `versions` what was found and does not fit.
fn advice(release: &str, wanted: Option<u32>, versions: &[String]) -> String {
    let field = |name: &str| {
        release
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
            .next()
            .unwrap_or_default()
    };
    let family = format!(" {} {} ", field("ID"), field("ID_LIKE"));
    let is = |name: &str| family.contains(&format!(" {name} "));
    let version = wanted.map(|wanted| wanted.to_string());
    let versioned = |before: &str, after: &str| match &version {
        Some(version) => format!("{before}{version}{after}"),
        None => format!("{}{after}", before.trim_end_matches('-')),
    };
    let command = if is("debian") || is("ubuntu") {
        format!("apt-get install {}", versioned("postgresql-", ""))
    } else if is("fedora") || is("rhel") || is("centos") {
        "dnf install postgresql-server".to_owned()
    } else if is("alpine") {
        format!("apk add postgresql{}", wanted.unwrap_or(MAJOR_MAX))
    } else if is("arch") {
        "pacman -S postgresql".to_owned()
    } else if is("suse") || is("opensuse") {
        versioned("zypper install postgresql-", "-server").replace("postgresql-1", "postgresql1")
    } else {
        format!("brew install postgresql@{}", wanted.unwrap_or(MAJOR_MAX))
    };
    let found = if versions.is_empty() {
        "there is none on this machine".to_owned()
    } else {
        format!("there is only {} here", versions.join(", "))
    };
    let needed = version.map_or_else(
        || format!("PostgreSQL {MAJOR_MIN} to {MAJOR_MAX} is needed"),
        |version| format!("the cluster was made by PostgreSQL {version}, which is needed"),
    );
    format!("{needed}, and {found}. Install it: {command}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(majors: &[u32]) -> Vec<Binaries> {
        let one = |major: &u32| Binaries {
            folder: format!("/{major}").into(),
            major: *major,
        };
        majors.iter().map(one).collect()
    }

    #[test]
    fn newest_version_that_works_is_chosen() {
        let check = |majors: &[u32], expected: Option<u32>| {
            let found = of(majors);
            assert_eq!(choose(&found, None).map(|one| one.major), expected);
        };
        check(&[], None);
        check(&[13], None);
        check(&[14], Some(14));
        check(&[15, 17, 16], Some(17));
        check(&[15, 18], Some(15));
        check(&[13, 18], Some(18));
    }

    #[test]
    fn existing_cluster_keeps_its_version() {
        let found = of(&[15, 16, 17]);
        assert_eq!(choose(&found, Some(15)).map(|one| one.major), Some(15));
        assert_eq!(choose(&found, Some(14)), None);
    }

    #[test]
    fn versions_are_read() {
        let check = |text: &str, expected| assert_eq!(major(text), expected, "{text}");
        check(
            "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)",
            Some(15),
        );
        check("postgres (PostgreSQL) 17beta1\n", Some(17));
        check("postgres (PostgreSQL) 16", Some(16));
        check("postgres 15", None);
        check("", None);
    }

    #[test]
    fn advice_names_one_package() {
        let check = |release: &str, wanted, end: &str| {
            let text = advice(release, wanted, &[]);
            assert!(text.ends_with(end), "{text}");
        };
        check("ID=debian\n", None, ": apt-get install postgresql");
        check("ID=debian\n", Some(15), ": apt-get install postgresql-15");
        check(
            "NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"",
            None,
            " postgresql",
        );
        check(
            "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
            None,
            " postgresql-server",
        );
        check("ID=alpine", None, "apk add postgresql17");
        check("ID=arch", None, "pacman -S postgresql");
        check(
            "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"",
            Some(16),
            " postgresql16-server",
        );
        check("", None, "brew install postgresql@17");
        assert!(advice("", None, &["13".to_owned()]).contains("only 13"));
    }
}
