//! The integration tests: the real binary, real `runsc` sandboxes, a real Docker daemon.
//!
//! One suite for both engines: `TEST_ENGINE` says which (`runsc` by default). `runsc` holds what only that one can do.
//!
//! Nothing is skipped: where a part is missing the first test fails and names the command that installs it.

mod cells;
mod chaos;
mod cli;
mod daemon;
mod document;
mod endings;
mod forgery;
mod harness;
mod images;
mod posture;
mod runsc;
mod setup;
mod transport;
