//! A control group (version 2) that was delegated to an ordinary user: made fit for sandboxes' groups, and given back.
//!
//! The kernel wants a group whose children have controllers to hold no process itself, so the supervisor moves into a
//! child of its own. With anybody else's process in the group that is not enough, and everything is as before.
//! Knows no sandbox.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{CONTROLLERS, enable_controllers, set};

/// The child for the supervisor. Whoever starts one into a group of this name (systemd's `DelegateSubgroup=`, or the
/// script that starts the next one) delegates the group above.
const SUPERVISOR: &str = "supervisor";
/// There while systemd runs the machine.
const SYSTEMD: &str = "/run/systemd/system";
/// What systemd marks groups with that are not its own any more.
const MARK: &str = "user.delegate";

/// Held as long as groups are made within; gives the group back in the end.
#[derive(Debug)]
pub(super) struct Delegation {
    group: PathBuf,
    /// Whether we were in the group itself.
    moved: bool,
}

/// The group to divide for a supervisor in the group `own`, both as paths below the mount point.
pub(super) fn parent(own: &str) -> &str {
    own.strip_suffix(SUPERVISOR).and_then(|above| above.strip_suffix('/')).unwrap_or(own)
}

impl Delegation {
    /// Divides `group`; `own` tells whether we are in the group itself.
    pub(super) fn take(group: PathBuf, own: bool) -> io::Result<Self> {
        if Path::new(SYSTEMD).exists() && !is_marked(&group) {
            // From groups of its own it takes controllers back whenever it looks at them again, and limits with them.
            let hint = format!("`{}` is systemd's own; start the service with Delegate=yes", group.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, hint));
        }
        let supervisor = group.join(SUPERVISOR);
        fs::create_dir_all(&supervisor)?;
        let taken = Self { group, moved: own };
        if own {
            set(supervisor.join("cgroup.procs"), "0")?;
        }
        enable_controllers(&taken.group)?;
        Ok(taken)
    }
}

impl Drop for Delegation {
    fn drop(&mut self) {
        if !self.moved {
            return;
        }
        let disable = CONTROLLERS.map(|controller| format!("-{controller}")).join(" ");
        // Refused while another supervisor has groups there; then it stays divided, for that one.
        let _ = set(self.group.join("cgroup.subtree_control"), disable)
            .and_then(|()| set(self.group.join("cgroup.procs"), "0"))
            .and_then(|()| fs::remove_dir(self.group.join(SUPERVISOR)));
    }
}

fn is_marked(group: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(group, MARK, &mut value).is_ok_and(|length| value[..length] == *b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_made_for_supervisors_delegates_the_one_above() {
        assert_eq!(parent("/a/b"), "/a/b");
        assert_eq!(parent("/a/supervisor"), "/a");
        assert_eq!(parent("/supervisor"), "");
        assert_eq!(parent("/a/my-supervisor"), "/a/my-supervisor");
        assert_eq!(parent(""), "");
    }
}
