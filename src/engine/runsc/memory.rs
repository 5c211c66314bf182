//! The memory guard where no cgroup can be had: looks at what a sandbox uses, and says when it is too much.
//!
//! All memory of a gVisor guest (anonymous pages, tmpfs, page cache) is one memory file of the Sentry, whose allocated
//! blocks are exact and cheap to read; the Sentry's own heap, which hostile code can make grow, is added.
//! Limits inside the guest were tried and are no substitute: `RLIMIT_AS` counts what is reserved, of which Node.js alone
//! reserves gigabytes, and `RLIMIT_DATA` does not hold for mmap in gVisor.
//! The next look comes after the time in which the fastest allocator could use up what is left, so an idle sandbox is
//! looked at twice a second and one near its limit every few milliseconds.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use rustix::process::Pid;

/// Bytes a guest can touch in a second, at most: twice what was measured for a guest that does nothing else.
const FASTEST: f64 = 2e9;
/// The shortest time between two looks. A guest gains at most some 10 MB in it.
const SOONEST: Duration = Duration::from_millis(5);
/// The longest.
const LATEST: Duration = Duration::from_millis(500);
/// What the name of the Sentry's memory file begins with.
const MEMORY_FILE: &str = "/memfd:runsc-memory";

/// Returns when the sandbox of this Sentry uses more than `limit` bytes; never when the Sentry ends before.
pub(super) async fn exceeded(sentry: Pid, limit: u64) -> u64 {
    let Ok(gauge) = Gauge::new(sentry) else {
        return std::future::pending().await;
    };
    loop {
        let Ok(used) = gauge.read() else {
            return std::future::pending().await;
        };
        if used > limit {
            return used;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate of time")]
        let until_full = Duration::from_secs_f64((limit - used) as f64 / FASTEST);
        tokio::time::sleep(until_full.clamp(SOONEST, LATEST)).await;
    }
}

/// Reads one sandbox's memory.
struct Gauge {
    /// The Sentry's descriptor of the guest's memory.
    memory: PathBuf,
    statm: PathBuf,
}

impl Gauge {
    fn new(sentry: Pid) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", sentry.as_raw_nonzero()));
        let mut descriptors = fs::read_dir(process.join("fd"))?.flatten().map(|entry| entry.path());
        let memory = descriptors
            .find(|path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with(MEMORY_FILE)))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the Sentry has no memory file"))?;
        Ok(Self { memory, statm: process.join("statm") })
    }

    /// Bytes in use.
    fn read(&self) -> io::Result<u64> {
        let guest = fs::metadata(&self.memory)?.blocks() * 512;
        let statm = fs::read_to_string(&self.statm)?;
        // size resident shared ..., in pages.
        let mut fields = statm.split(' ').map(|field| field.parse::<u64>().unwrap_or(0)).skip(1);
        let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        Ok(guest + resident.saturating_sub(shared) * rustix::param::page_size() as u64)
    }
}
