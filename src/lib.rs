//! cellblock runs untrusted code in notebook-style cells, one hardened gVisor container per session.
//!
//! # The map
//!
//! Each layer knows only the ones below it.
//!
//! | module | what it is |
//! |---|---|
//! | `main`, [`cli`] | arguments, environment, exit codes: `serve`, `run`, `image`, `config` |
//! | [`rpc`] | the JSON-RPC front door: `listen` (stdio, Unix socket), `connection`, `dispatch`, `outbox`, `methods`; `wanted` holds requests against the settings |
//! | [`session`] | the registry, the handle, one `actor` per session with its `queue`, `running` cell and `files`, the pure ladder in `state`; `run` is the one-shot call |
//! | [`kernel`], [`output`], [`lines`] | drives one kernel over a reader and a writer; caps output; frames both protocols |
//! | [`engine`] | the seam: starts a sandbox. `hardening` and `seccomp` say what every sandbox is, `choice` which engine serves, `instance` who owns what |
//! | `engine/docker`, `engine/runsc` | containers of a daemon through bollard; `runsc` itself, without one. Each renders the hardening in one pure function |
//! | [`image`] | the store of unpacked OCI images, for engines without a daemon: registry, archives, hostile layers |
//! | [`posture`] | what a sandbox measurably is against what it must be; pure |
//! | [`protocol`], [`config`], [`error`], [`runtime`], [`units`] | leaves: wire types, settings, the one error enum, manifests, durations and sizes |
//!
//! A cell's way: a line -> `rpc::dispatch` (parsed and polled in order) -> `session::Session::execute` -> the actor ->
//! `kernel` -> the sandbox's standard input, and back through `output` into one result.
//!
//! # Invariants
//!
//! - One answer per request: success, failure, panic, cancel, kill, end of input.
//! - Only the actor touches its sandbox; everyone else waits on a channel, and dropping a waiter is harmless.
//! - Every buffer has a bound that is reached before it fills.
//! - A sandbox that is not measurably what the policy says never runs user code.
//!
//! And by absence: only `engine/docker` names bollard; only `rpc` and the error map name jsonrpsee; only
//! `image/registry` names oci-client; only `main` and `cli` read the environment; nothing under `session` knows which
//! engine runs; `session::state`, `posture`, `output`, `lines`, `engine/hardening`, `engine/seccomp`,
//! `engine/docker/spec` and `engine/runsc/bundle` know no tokio runtime.

pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod image;
pub mod kernel;
pub mod lines;
pub mod output;
pub mod posture;
pub mod protocol;
pub mod rpc;
pub mod runtime;
pub mod session;
pub mod units;

/// 128 random bits in hex: an id that cannot be guessed.
fn random_id() -> String {
    use std::fmt::Write as _;
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes.iter().fold(String::with_capacity(32), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}
