//! `make bench`: round trips and starts beside the engine's own floors, in one run and one table.
//!
//! Ratios are what counts: these machines are noisy, so the rows of a section take turns and share the noise.
//! A floor is what the engine itself could at best do: a line-echo program reached in the way the engine reaches a
//! kernel. To compare something else, add a row to a section; `sidecar` takes the server's options.

#[path = "floors/docker_api.rs"]
mod docker_api;
#[path = "floors/process.rs"]
mod process;
#[path = "floors/sidecar.rs"]
mod sidecar;
#[path = "floors/table.rs"]
mod table;

use table::{Row, section};

/// A line-echo program: what any kernel in Python can at best be.
const ECHO: &str =
    "import os\nwhile True:\n    line = os.read(0, 65536)\n    if not line: break\n    os.write(1, line)";

fn main() {
    let api = docker_api::Api::like_the_engine();
    section(
        "round trip of a line",
        (10, 100),
        vec![
            Row::floor("line echo, attached by the API", api.round_trips()),
            Row::new("line echo, `docker run -i`", process::docker_round_trips()),
            Row::new("trivial cell, Python", sidecar::cells("python", &[])),
            Row::new("trivial cell, Node.js", sidecar::cells("nodejs", &[])),
        ],
    );
    section(
        "start to the first line",
        (10, 1),
        vec![
            Row::floor("line echo: create, attach, start by the API", api.starts()),
            Row::new("line echo, `docker run -i`", process::docker_starts()),
            Row::new("session.create, Python", sidecar::opens("python", &[])),
            Row::new("session.create, Node.js", sidecar::opens("nodejs", &[])),
        ],
    );
}
