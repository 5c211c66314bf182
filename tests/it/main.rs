//! The integration tests: the real binary, real `runsc` sandboxes, a real Docker daemon.
//!
//! One suite for both engines: `TEST_ENGINE` says which (`runsc` by default). What only one can do is in `runsc` and
//! `compose`, or in `daemon`; `images` and `setup` are about neither.
//!
//! Nothing is skipped: where a part is missing the first test fails and names the command that installs it.

mod cells;
mod chaos;
mod cli;
mod compose;
mod daemon;
mod document;
mod endings;
mod files;
mod forgery;
mod harness;
mod images;
mod life;
mod nodejs;
mod posture;
mod python;
mod run;
mod runsc;
mod setup;
mod streaming;
mod transport;
