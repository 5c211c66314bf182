//! Which of gVisor's platforms starts a sandbox on this machine: found out by trying, with a deadline.
//!
//! A device file proves nothing: on machines with a paravirtual /dev/kvm the platform `kvm` hangs with a busy
//! processor. So it is used only when asked for by name, and is then tried like the others.

use std::{ffi::OsString, fmt, fs, os::unix::fs::MetadataExt as _, path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};

use super::launcher::Launcher;

/// How long a platform may take for its first sandbox: on emulated and on overloaded machines that is many seconds, and
/// of those tried unasked none is known to hang.
const DEADLINE: Duration = Duration::from_secs(30);
/// The same for `kvm`, which on a paravirtual device keeps every processor of the machine busy until it is ended.
const KVM_DEADLINE: Duration = Duration::from_secs(5);

/// How gVisor gets hold of the guest's system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// The first of `systrap` and `ptrace` that works.
    Auto,
    /// By seccomp's traps: fast everywhere.
    Systrap,
    /// By ptrace: slower, works where systrap does not.
    Ptrace,
    /// By hardware virtualisation, where that is real.
    Kvm,
}

/// What a trial found out, and of what it holds.
#[derive(Serialize, Deserialize)]
struct Note {
    circumstances: String,
    platform: Platform,
}

fn circumstances(wish: Platform, program: &Path, flags: &[OsString]) -> String {
    let file = fs::metadata(program).map(|file| (file.ino(), file.size(), file.mtime_nsec())).unwrap_or_default();
    let machine = rustix::system::uname();
    let (release, user) = (machine.release().to_string_lossy().into_owned(), rustix::process::geteuid().as_raw());
    format!("{wish} {} {file:?} {flags:?} {release} {user}", program.display())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Systrap => "systrap",
            Self::Ptrace => "ptrace",
            Self::Kvm => "kvm",
        })
    }
}

impl Platform {
    /// The platform to use for this wish; the error tells what each that was tried said. `scratch` is a folder for the
    /// trials, made and removed here.
    ///
    /// What was found out is noted in the file `known`, for as long as neither runsc nor the machine's kernel changes:
    /// a trial costs as much as a session's start.
    pub(super) async fn settle(
        self,
        launcher: &Launcher,
        program: &Path,
        flags: &[OsString],
        known: &Path,
        scratch: &Path,
    ) -> Result<Self, String> {
        let circumstances = circumstances(self, program, flags);
        let noted = fs::read(known).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        if let Some(note) = noted.filter(|note| note.circumstances == circumstances) {
            return Ok(note.platform);
        }
        let candidates: &[Self] = match self {
            Self::Auto => &[Self::Systrap, Self::Ptrace],
            Self::Systrap => &[Self::Systrap],
            Self::Ptrace => &[Self::Ptrace],
            Self::Kvm => &[Self::Kvm],
        };
        let mut failures = Vec::new();
        for candidate in candidates {
            let tried = candidate.try_out(launcher, program, flags, scratch).await;
            // What a killed trial leaves; an ordinary one leaves nothing.
            let _ = fs::remove_dir_all(scratch);
            match tried {
                Ok(()) => {
                    let note = Note { circumstances, platform: *candidate };
                    // A note that cannot be written costs the next start a trial, nothing else.
                    let _ = serde_json::to_vec(&note).map(|text| fs::write(known, text));
                    return Ok(*candidate);
                }
                Err(reason) => failures.push(format!("{candidate}: {reason}")),
            }
        }
        Err(failures.join("\n"))
    }

    /// Starts one sandbox that does nothing.
    async fn try_out(
        self,
        launcher: &Launcher,
        program: &Path,
        flags: &[OsString],
        scratch: &Path,
    ) -> Result<(), String> {
        fs::create_dir_all(scratch).map_err(|error| error.to_string())?;
        let mut arguments = flags.to_vec();
        // This very program is there in every container, however empty.
        let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
        arguments.extend([format!("--platform={self}").into(), "do".into(), ourselves.into(), "--version".into()]);
        let started = launcher.start(program.as_os_str(), &arguments, None, |command| {
            command.env("TMPDIR", scratch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        });
        let child = started.await.map_err(|error| error.to_string())?;
        // Dropped at the deadline, the child is killed and takes its sandbox along.
        let deadline = if self == Self::Kvm { KVM_DEADLINE } else { DEADLINE };
        match tokio::time::timeout(deadline, child.wait_with_output()).await {
            Err(_) => Err(format!("no sandbox after {}", humantime::format_duration(deadline))),
            Ok(Err(error)) => Err(error.to_string()),
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}
