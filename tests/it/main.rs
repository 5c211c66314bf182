//! The integration tests: the real binary, a real Docker daemon, real `runsc` containers.
//!
//! Nothing is skipped: where a part is missing the first test fails and names the command that installs it.

mod cells;
mod chaos;
mod cli;
mod document;
mod endings;
mod harness;
mod nodejs;
mod posture;
mod transport;
