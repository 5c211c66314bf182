//! One runsc sandbox: the handle that a session has, and the task that sees it to its end.
//!
//! ```text
//! supervisor -- runsc run (waits, tells the exit code) -- Sentry (the guest's kernel) -- its stubs
//!                                                       \- gofer (opens the guest's files)
//! ```
//! The keeper task alone owns the process, the control group and the folder; the handle asks it to end them. However
//! the sandbox ends, the order is the same: the Sentry first, so that runsc can clean up after it and tell how it
//! ended; runsc itself only when it does not; then the group and the folder.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::{process::Child, sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{cgroup::Group, launcher::Launcher, memory};
use crate::{
    engine::{Control, EngineError, Exit, Instance},
    image::Image,
    posture::OutsideFacts,
    protocol::MemoryGuard,
};

/// How long process 1 may take to end after its output has ended, before it counts as one that closed its descriptors.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// How long runsc may take to clean up after its Sentry.
const CLEAN_WAIT: Duration = Duration::from_secs(3);
/// From a signal to the Sentry until the guest surely has it: the Sentry's Go runtime hands it over in a moment, and
/// says nothing. A ping that overtook the signal would let it hit the next cell.
const SIGNAL_SETTLES: Duration = Duration::from_millis(20);
/// Code of a sandbox that ended by SIGKILL.
const KILLED: i32 = 128 + 9;

/// What a sandbox consists of outside, and what keeps that in being.
#[derive(Debug)]
pub(super) struct Parts {
    /// Its name among runsc's containers.
    pub(super) id: String,
    /// Bundle, runsc's state, pid file; nobody else's.
    pub(super) folder: PathBuf,
    pub(super) pid_file: PathBuf,
    /// Bytes.
    pub(super) memory: u64,
    pub(super) group: Option<Group>,
    pub(super) _image: Image,
    /// The process dies with the launcher's thread, and the folder's owner is alive as long as this is held.
    pub(super) _launcher: Arc<Launcher>,
    pub(super) _instance: Arc<Instance>,
}

impl Parts {
    /// Removes everything of a sandbox that has ended or never began.
    pub(super) async fn remove(self) {
        if let Some(group) = self.group {
            group.remove().await;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(sandbox = %self.id, %error, "its folder cannot be removed; the next start will");
        }
    }
}

/// The handle; dropping it ends the sandbox in the background.
#[derive(Debug)]
pub(super) struct RunscSandbox {
    id: String,
    pid_file: PathBuf,
    guard: MemoryGuard,
    sentry: OnceLock<Sentry>,
    end: CancellationToken,
    _end_with_us: DropGuard,
    fate: watch::Receiver<Fate>,
}

/// The Sentry's process, held so that its id cannot become another's.
#[derive(Debug)]
struct Sentry {
    pid: Pid,
    handle: OwnedFd,
}

/// What the keeper tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Running,
    Ended(Exit),
    /// Nothing is left of it.
    Gone(Exit),
}

impl RunscSandbox {
    /// Takes over a started `runsc run`.
    pub(super) fn keep(child: Child, parts: Parts) -> Self {
        let (tell, fate) = watch::channel(Fate::Running);
        let end = CancellationToken::new();
        let guard = if parts.group.is_some() { MemoryGuard::Cgroup } else { MemoryGuard::Watchdog };
        let (id, pid_file) = (parts.id.clone(), parts.pid_file.clone());
        tokio::spawn(keep(child, parts, end.clone(), tell));
        Self { id, pid_file, guard, sentry: OnceLock::new(), _end_with_us: end.clone().drop_guard(), end, fate }
    }

    fn sentry(&self) -> io::Result<&Sentry> {
        if let Some(sentry) = self.sentry.get() {
            return Ok(sentry);
        }
        let sentry = Sentry::find(&self.pid_file)?;
        Ok(self.sentry.get_or_init(|| sentry))
    }

    async fn await_fate(&self, reached: impl FnMut(&Fate) -> bool) -> Fate {
        let mut fate = self.fate.clone();
        let reached = fate.wait_for(reached).await.map(|fate| *fate);
        // A keeper that is gone without a word was ended with the runtime.
        reached.unwrap_or(Fate::Gone(Exit { code: None, oom: false }))
    }
}

#[async_trait]
impl Control for RunscSandbox {
    async fn interrupt(&self) -> Result<(), EngineError> {
        let sent = self.sentry().and_then(|sentry| Ok(pidfd_send_signal(&sentry.handle, Signal::INT)?));
        sent.map_err(|error| EngineError::Start { message: format!("interrupting the sandbox: {error}") })?;
        tokio::time::sleep(SIGNAL_SETTLES).await;
        Ok(())
    }

    async fn exit(&self) -> Exit {
        let ended = timeout(EXIT_WAIT, self.await_fate(|fate| *fate != Fate::Running)).await;
        match ended {
            Ok(Fate::Ended(exit) | Fate::Gone(exit)) => exit,
            Ok(Fate::Running) | Err(_) => Exit { code: None, oom: false },
        }
    }

    async fn destroy(&self) {
        self.end.cancel();
        self.await_fate(|fate| matches!(fate, Fate::Gone(_))).await;
    }

    async fn outside(&self) -> Result<OutsideFacts, EngineError> {
        let failed = |error: io::Error| EngineError::Start { message: format!("looking at the Sentry: {error}") };
        let pid = self.sentry().map_err(failed)?.pid.as_raw_nonzero();
        let command = fs::read(format!("/proc/{pid}/cmdline")).map_err(failed)?;
        Ok(OutsideFacts {
            runtime: "runsc".to_owned(),
            container: self.id.clone(),
            sentry: Some(command.starts_with(b"runsc-sandbox\0")),
            memory_guard: self.guard,
        })
    }
}

impl Sentry {
    fn find(pid_file: &std::path::Path) -> io::Result<Self> {
        let text = fs::read_to_string(pid_file)?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid =
            pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("`{text}` is no process id")))?;
        Ok(Self { pid, handle: pidfd_open(pid, PidfdFlags::empty())? })
    }
}

/// Sees a sandbox to its end, and removes everything of it.
async fn keep(mut child: Child, parts: Parts, end: CancellationToken, tell: watch::Sender<Fate>) {
    let mut oom = false;
    let ended = tokio::select! {
        ended = child.wait() => ended.ok(),
        () = end.cancelled() => None,
        used = out_of_memory(&parts) => {
            tracing::info!(sandbox = %parts.id, used, limit = parts.memory, "out of memory");
            oom = true;
            None
        }
    };
    let status = match ended {
        Some(status) => Some(status),
        None => end_process(&mut child, &parts).await,
    };
    oom |= parts.group.as_ref().is_some_and(Group::ran_out_of_memory);
    let code = if oom { Some(KILLED) } else { status.and_then(exit_code) };
    let exit = Exit { code, oom };
    tell.send_replace(Fate::Ended(exit));
    parts.remove().await;
    tell.send_replace(Fate::Gone(exit));
}

/// The Sentry first: runsc then ends by itself and leaves nothing behind.
async fn end_process(child: &mut Child, parts: &Parts) -> Option<ExitStatus> {
    let killed = Sentry::find(&parts.pid_file).and_then(|sentry| Ok(pidfd_send_signal(&sentry.handle, Signal::KILL)?));
    if killed.is_ok()
        && let Ok(status) = timeout(CLEAN_WAIT, child.wait()).await
    {
        return status.ok();
    }
    // Not started yet, or stuck: everything that runsc started dies with it.
    let _ = child.kill().await;
    child.wait().await.ok()
}

/// Returns the bytes in use when they are too many.
async fn out_of_memory(parts: &Parts) -> u64 {
    if let Some(group) = &parts.group {
        group.out_of_memory().await;
        return parts.memory;
    }
    // The Sentry is there a moment after runsc; a guest that has not run yet uses nothing.
    let mut pause = tokio::time::interval(Duration::from_millis(50));
    loop {
        pause.tick().await;
        if let Ok(sentry) = Sentry::find(&parts.pid_file) {
            return memory::exceeded(sentry.pid, parts.memory).await;
        }
    }
}

/// 128 and the number for a signal.
fn exit_code(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}
