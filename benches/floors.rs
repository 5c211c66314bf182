//! `make bench`: round trips and starts beside the engine's own floors, in one run and one table.
//!
//! Ratios are what counts: these machines are noisy, so the rows of a section take turns and share the noise.
//! A floor is what the engine itself could at best do: a line-echo program reached in the way the engine reaches a
//! kernel. To compare something else, add a row to a section; `sidecar` takes the server's options.

#[path = "floors/docker_api.rs"]
mod docker_api;
#[path = "floors/memory.rs"]
mod memory;
#[path = "floors/process.rs"]
mod process;
#[path = "floors/runsc.rs"]
mod runsc;
#[path = "floors/sidecar.rs"]
mod sidecar;
#[path = "floors/table.rs"]
mod table;

use table::{Row, section};

/// A line-echo program: what any kernel in Python can at best be.
const ECHO: &str =
    "import os\nwhile True:\n    line = os.read(0, 65536)\n    if not line: break\n    os.write(1, line)";

fn main() {
    let (docker, bundle) = (["--engine", "docker"], runsc::Bundle::like_the_engine());
    let direct = ["--engine", "runsc"];
    let api = docker_api::Api::like_the_engine();
    section(
        "round trip of a line, engine runsc",
        (10, 200),
        vec![
            Row::floor("line echo, `runsc run` on the engine's bundle", bundle.round_trips()),
            Row::new("trivial cell, Python", sidecar::cells("python", &direct)),
            Row::new("trivial cell, Node.js", sidecar::cells("nodejs", &direct)),
        ],
    );
    section(
        "round trip of a line, engine docker",
        (10, 100),
        vec![
            Row::floor("line echo, attached by the API", api.round_trips()),
            Row::new("line echo, `docker run -i`", process::docker_round_trips()),
            Row::new("trivial cell, Python", sidecar::cells("python", &docker)),
            Row::new("trivial cell, Node.js", sidecar::cells("nodejs", &docker)),
        ],
    );
    section(
        "start to the first line",
        (10, 1),
        vec![
            Row::floor("line echo, `runsc run` on the engine's bundle", bundle.starts()),
            Row::new("session.create, Python, engine runsc", sidecar::opens("python", &direct)),
            Row::new("session.create, Node.js, engine runsc", sidecar::opens("nodejs", &direct)),
            Row::new("line echo: create, attach, start by Docker's API", api.starts()),
            Row::new("line echo, `docker run -i`", process::docker_starts()),
            Row::new("session.create, Python, engine docker", sidecar::opens("python", &docker)),
            Row::new("session.create, Node.js, engine docker", sidecar::opens("nodejs", &docker)),
        ],
    );
    memory::idle_sessions(&["runsc", "docker"]);
}
