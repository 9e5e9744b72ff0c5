//! Whose processes PostgreSQL's are: it refuses to run as root.
//!
//! What comes in: the folder of the cluster. What goes out: an [`Account`] to start programs with. What always holds: who is not root uses
//! their own account; root uses the one that owns the folder, else the one that PostgreSQL's package made.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The account of PostgreSQL's package.
const PACKAGE_ACCOUNT: &str = "postgres";

/// Who runs PostgreSQL's programs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Account {
    /// We ourselves.
    Own,
    /// Another one, because we are root: user and group.
    Other(u32, u32),
}

impl Account {
    /// For a cluster in `folder`, which may not exist yet.
    ///
    /// # Errors
    ///
    /// A sentence: we are root and there is nobody to be.
    pub(super) fn choose(folder: &Path) -> Result<Self, String> {
        // Every process has this folder on Linux; where it is missing nobody starts this as root.
        let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        if !is_root {
            return Ok(Self::Own);
        }
        if let Ok(owner) = fs::metadata(folder)
            && owner.uid() != 0
        {
            return Ok(Self::Other(owner.uid(), owner.gid()));
        }
        match (id("-u"), id("-g")) {
            (Some(user), Some(group)) if user != 0 => Ok(Self::Other(user, group)),
            _ => Err(format!(
                "PostgreSQL refuses to run as root, and there is no user {PACKAGE_ACCOUNT} to run it as. Start this as another user, or \
                 execute: useradd --system {PACKAGE_ACCOUNT}"
            )),
        }
    }

    /// A program that runs as this account, with the folder of the cluster as its own: other accounts may not be allowed into ours.
    pub(super) fn command(self, program: &Path, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder);
        if let Self::Other(user, group) = self {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives it a file or folder of ours.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(super) fn give(self, path: &Path) -> std::io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other(user, group) => chown(path, Some(user), Some(group)),
        }
    }

    /// Lets it pass through `DATA_DIR`, which is ours, and makes sure that the folders above do so. What is in there stays closed: the
    /// files are readable for their owner only, and to pass is not to list.
    ///
    /// # Errors
    ///
    /// A sentence with the folder that it may not enter.
    pub(super) fn reaches(self, data_dir: &Path) -> Result<(), String> {
        let Self::Other(user, group) = self else {
            return Ok(());
        };
        let is_closed = |folder: &Path| {
            fs::metadata(folder).is_ok_and(|meta| {
                let bit = match (meta.uid() == user, meta.gid() == group) {
                    (true, _) => 0o100,
                    (false, true) => 0o010,
                    (false, false) => 0o001,
                };
                meta.mode() & bit == 0
            })
        };
        if is_closed(data_dir)
            && let Ok(meta) = fs::metadata(data_dir)
        {
            let mode = fs::Permissions::from_mode(meta.mode() | 0o011);
            fs::set_permissions(data_dir, mode)
                .map_err(|error| format!("{}: {error}", data_dir.display()))?;
        }
        let closed = data_dir.ancestors().find(|above| is_closed(above));
        match closed {
            None => Ok(()),
            Some(above) => Err(format!(
                "PostgreSQL refuses to run as root, so it runs as another user, who may not enter {above}. Set DATA_DIR to a folder that \
                 others may enter, or execute: chmod o+x {above}",
                above = above.display()
            )),
        }
    }
}

fn id(option: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([option, PACKAGE_ACCOUNT])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
