//! The attack suite: what hostile code and hostile clients try, and which wall stops each.
//!
//! `cargo test --test attacks` starts a sidecar with small limits and attacks it over the public protocol; `--socket` and
//! `--stdio` attack one that runs already. `--against-runc` shows that the cases notice missing walls: it runs them
//! against plain containers and against containers without any hardening, and names what falls.
//!
//! One file per group of attacks; `case` says what a case is, `arena` carries it out.

mod arena;
mod bombs;
mod case;
mod client;
mod environment;
mod escape;
mod files;
mod host;
mod identity;
mod kernel;
mod naked;
mod network;
mod outside;
mod protocol;
mod prove;
mod report;
mod sessions;
mod sidecar;
mod signals;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;

use crate::{
    arena::{Arena, Ground, Outcome},
    case::Case,
    host::Host,
    report::{Report, print},
    sidecar::Sidecar,
};

/// Attacks a cellblock and reports which walls stand.
#[derive(Debug, Parser)]
#[command(name = "attacks")]
struct Arguments {
    /// The engine of the sidecar that the suite starts
    #[arg(long, default_value = "runsc", value_parser = ["runsc", "docker"])]
    engine: String,
    /// The OCI runtime of the sidecar that the suite starts, as Docker knows it
    #[arg(long)]
    runtime: Option<String>,
    /// Attack the cellblock that listens on this socket
    #[arg(long, value_name = "PATH", conflicts_with = "stdio")]
    socket: Option<PathBuf>,
    /// Attack the cellblock that this command serves on its standard input and output
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    stdio: Vec<String>,
    /// Only cases with this text in `group: name`
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
    /// Show what falls where walls are missing
    #[arg(long, conflicts_with_all = ["socket", "stdio"])]
    against_runc: bool,
}

/// Every case that matches, with its group.
fn cases(filter: &str) -> Vec<(&'static str, Case)> {
    let groups = [
        ("kernel", kernel::cases()),
        ("files", files::cases()),
        ("identity", identity::cases()),
        ("network", network::cases()),
        ("environment", environment::cases()),
        ("sessions", sessions::cases()),
        ("escape", escape::cases()),
        ("outside", outside::cases()),
        ("protocol", protocol::cases()),
        ("signals", signals::cases()),
        ("bombs", bombs::cases()),
    ];
    let named = groups.into_iter().flat_map(|(group, cases)| cases.into_iter().map(move |case| (group, case)));
    named.filter(|(group, case)| format!("{group}: {}", case.name).contains(filter)).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if arguments.against_runc { prove::prove(&arguments.filter) } else { attack(&arguments) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            print(&format!("attacks: error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// One run against one cellblock; whether every wall stood.
fn attack(arguments: &Arguments) -> Result<bool, String> {
    let (sidecar, host, title) = if let Some(socket) = &arguments.socket {
        (Sidecar::connect(socket)?, None, format!("the cellblock at {}", socket.display()))
    } else if !arguments.stdio.is_empty() {
        (Sidecar::spawn(&arguments.stdio)?, None, format!("the cellblock of `{}`", arguments.stdio.join(" ")))
    } else {
        let host = Host::new().map_err(|error| error.to_string())?;
        let sidecar = Sidecar::start(&arguments.engine, arguments.runtime.as_deref(), host.token())?;
        (sidecar, Some(host), format!("a cellblock with --engine {}", arguments.engine))
    };
    let mut report = Report::new(arguments.json);
    report.title(&format!("Attacks on {title}"));
    run(Ground::Sidecar(sidecar), host, &arguments.filter, |group, case, outcome, took| {
        report.row(group, case, &outcome, took);
    })?;
    Ok(report.finish())
}

/// Runs every case that matches on this ground, and hands each outcome on as it is known.
fn run(
    ground: Ground,
    host: Option<Host>,
    filter: &str,
    mut seen: impl FnMut(&'static str, &Case, Outcome, Duration),
) -> Result<(), String> {
    let mut arena = Arena::new(ground, host)?;
    for (group, case) in cases(filter) {
        let start = Instant::now();
        let outcome = arena.run(&case);
        seen(group, &case, outcome, start.elapsed());
    }
    arena.finish()
}
