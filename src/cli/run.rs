//! `cellblock run FILE`: one file as one cell of a fresh session, its output as it comes.

use std::{io::Write as _, path::PathBuf, time::Duration};

use clap::Args;
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use super::{Failure, start};
use crate::{
    config::Config,
    kernel::wire::StreamName,
    protocol::{CellResult, CellStatus, EndedBy},
    session::{Cell, Opening, Said},
};

/// Chunks of output that wait for the terminal.
const LIVE_CHUNKS: usize = 16;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: the program's own (sys.exit, process.exit), else 0, or 1 for an exception, 124 for a timeout,\n130 for an interrupt, 137 for a sandbox that was ended. 66, 69 and 78: the file, the engine, the settings."
)]
pub(super) struct RunArgs {
    /// The file to run; `-` for standard input
    file: PathBuf,
    /// Runtime, when the file's ending does not name it (`python`, `nodejs`)
    #[arg(short, long, value_name = "NAME")]
    language: Option<String>,
}

pub(super) async fn run(config: Config, args: RunArgs) -> Result<u8, Failure> {
    let code = if args.file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(&args.file)
    };
    let code = code.map_err(|error| Failure::File(args.file.clone(), error))?;
    let (registry, runtimes) = start(&config).await?;
    let runtime = match &args.language {
        Some(name) => runtimes.find(name)?,
        None if args.file.as_os_str() == "-" => runtimes.find("python")?,
        None => {
            let extension = args.file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            runtimes.for_extension(extension).ok_or_else(|| Failure::NoLanguage(args.file.clone()))?
        }
    };
    // Draws on standard error, and only on a terminal.
    let progress = ProgressBar::new_spinner().with_message(format!("starting a {} sandbox", runtime.name));
    progress.enable_steady_tick(Duration::from_millis(100));
    let session = registry.open(Opening::new(runtime.clone(), config.session_limits()))?;
    let ready = session.ready().await;
    progress.finish_and_clear();
    ready?;

    let (live, mut chunks) = mpsc::channel(LIVE_CHUNKS);
    let mut pending = session.execute(Cell { live: Some(live), ..Cell::new(code, config.timeout.0, 0) })?;
    let printing = tokio::task::spawn_blocking(move || {
        while let Some(said) = chunks.blocking_recv() {
            let Said::Output(name, bytes) = said else { continue };
            // A reader that went away (`| head`) is no reason to stop the program.
            let _ = match name {
                StreamName::Stdout => std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush()),
                StreamName::Stderr => std::io::stderr().write_all(&bytes),
            };
        }
    });
    let answer = loop {
        tokio::select! {
            answer = pending.answer() => break answer,
            _ = tokio::signal::ctrl_c() => pending.cancel().await,
        }
    };
    let _ = printing.await;
    registry.close_all().await;
    Ok(report(&answer?))
}

/// Prints what ended the program, and returns the exit status.
fn report(result: &CellResult) -> u8 {
    let mut stderr = std::io::stderr();
    if let Some(error) =
        result.error.as_ref().filter(|error| !matches!(error.name.as_str(), "SystemExit" | "ProcessExit"))
    {
        let text = if error.traceback.is_empty() {
            format!("{}: {}", error.name, error.message)
        } else {
            error.traceback.join("\n")
        };
        let _ = writeln!(stderr, "{text}");
    }
    let own = result.exit_code.and_then(|code| u8::try_from(code & 0xFF).ok());
    match (result.status, own) {
        (CellStatus::Timeout, _) => {
            let _ = writeln!(stderr, "cellblock: the timeout ended the program; allow more with `--timeout`");
            124
        }
        (CellStatus::Interrupted, _) => 130,
        (CellStatus::Killed, Some(code)) if result.ended_by == EndedBy::Exit => code,
        (CellStatus::Killed, _) => 137,
        (_, Some(code)) => code,
        (CellStatus::Error, None) => 1,
        (CellStatus::Ok, None) => 0,
    }
}
