//! The `cellblock` program: see `cellblock --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellblock::cli::main()
}
