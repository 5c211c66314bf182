//! Starts processes that die with the supervisor, `kill -9` included.
//!
//! A child asks the machine's kernel for SIGKILL at its parent's end, before it becomes `runsc`; runsc does the same
//! for the Sentry and the gofer, so that the whole tree goes. The kernel's parent is a *thread*, so all children are
//! started by one thread that lives as long as the launcher; a thread of tokio's pools may end at any time.
//! The asking is done by this program itself, started again with [`COMMAND`]: between fork and exec only unsafe code
//! could do it.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::{
    process::Child,
    sync::{mpsc, oneshot},
};

/// The hidden subcommand that becomes the started program.
pub const COMMAND: &str = "__launch";

/// The thread that starts processes; they end with it.
#[derive(Debug)]
pub(super) struct Launcher {
    orders: mpsc::Sender<Order>,
}

struct Order {
    command: tokio::process::Command,
    started: oneshot::Sender<io::Result<Child>>,
}

impl Launcher {
    /// Starts the thread. Must be called within a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let (orders, mut inbox) = mpsc::channel::<Order>(1);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("launcher".to_owned()).spawn(move || {
            while let Some(mut order) = inbox.blocking_recv() {
                let _entered = runtime.enter();
                // Nobody waits any more: the child is dropped and, by `kill_on_drop`, ended.
                let _ = order.started.send(order.command.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts `program` with `arguments`, in the control group with this folder when one is named; `set` gives it its
    /// streams.
    pub(super) async fn start(
        &self,
        program: &OsStr,
        arguments: &[OsString],
        group: Option<&Path>,
        set: impl FnOnce(&mut tokio::process::Command),
    ) -> io::Result<Child> {
        // The running binary, even when its file has been replaced or removed.
        let mut command = tokio::process::Command::new("/proc/self/exe");
        let group = group.unwrap_or(Path::new(""));
        command.arg(COMMAND).arg(std::process::id().to_string()).arg(group).arg(program).args(arguments);
        // Nothing of the supervisor's environment is anyone else's business.
        command.env_clear().current_dir("/").kill_on_drop(true);
        set(&mut command);
        let (started, child) = oneshot::channel();
        let ended = || io::Error::other("the launcher's thread ended");
        self.orders.send(Order { command, started }).await.map_err(|_| ended())?;
        child.await.map_err(|_| ended())?
    }
}

/// What the hidden subcommand does with its arguments (the supervisor's process id, the folder of a control group or
/// nothing, a program, its arguments); returns only when that fails.
pub fn become_program(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let usage = || io::Error::new(io::ErrorKind::InvalidInput, "this subcommand is cellblock's own");
    let supervisor = arguments.next().and_then(|id| id.to_str().and_then(|id| id.parse().ok()));
    let (group, program) = (arguments.next(), arguments.next());
    let (Some(supervisor), Some(group), Some(program)) = (supervisor.and_then(Pid::from_raw), group, program) else {
        return usage();
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // It may have ended before we asked.
    if getppid() != Some(supervisor) {
        return io::Error::other("the supervisor has ended");
    }
    // 0 is the writer itself.
    if !group.is_empty()
        && let Err(error) = fs::write(Path::new(&group).join("cgroup.procs"), "0")
    {
        return io::Error::new(error.kind(), format!("joining the control group `{}`: {error}", group.display()));
    }
    Command::new(program).args(arguments).exec()
}
