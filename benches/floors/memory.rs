//! What an idle session costs the machine: the proportional set size of all its host processes.
//!
//! Shared pages (runsc's own text above all) count by their share, so the cost of one more session is less than the
//! figure for one alone; ten are measured together.

use std::{
    collections::{HashMap, HashSet},
    io::Write as _,
};

use crate::sidecar::Sidecar;

const SESSIONS: u32 = 10;

/// Prints a line for each engine.
pub(crate) fn idle_sessions(engines: &[&'static str]) {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "\n| {SESSIONS} idle Python sessions | MiB each (PSS of all host processes) | processes each |\n|---|---|---|"
    )
    .expect("printed");
    for engine in engines {
        let mut sidecar = Sidecar::start(&["--engine", engine]);
        let names: Vec<_> = (0..SESSIONS)
            .map(|_| {
                let session = sidecar.open("python");
                sidecar.container(&session)
            })
            .collect();
        let processes = of_sandboxes(&names);
        let bytes: u64 = processes.iter().map(|&pid| proportional(pid)).sum();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (mib, count) = (bytes as f64 / f64::from(1 << 20), processes.len() as f64);
        let sessions = f64::from(SESSIONS);
        writeln!(out, "| engine {engine} | {:.1} | {:.1} |", mib / sessions, count / sessions).expect("printed");
    }
}

/// Processes whose command line names one of the sandboxes, and all that descend from them.
fn of_sandboxes(names: &[String]) -> HashSet<u32> {
    let all: Vec<u32> = std::fs::read_dir("/proc")
        .expect("mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found: HashSet<u32> = all
        .iter()
        .copied()
        .filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            names.iter().any(|name| command.contains(name.as_str()))
        })
        .collect();
    let parents: HashMap<u32, u32> = all.iter().filter_map(|&pid| Some((pid, parent(pid)?))).collect();
    loop {
        let children: Vec<_> = parents.iter().filter(|(_, above)| found.contains(above)).map(|(&pid, _)| pid).collect();
        let before = found.len();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Bytes.
fn proportional(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}
