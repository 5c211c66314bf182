//! The runsc engine's floor: the echo program in the very bundle that the engine writes, run by hand.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    ECHO,
    process::{Process, round_trips, starts},
    sidecar::Sidecar,
    table::Measure,
};

/// The bundle to run.
pub(crate) struct Bundle {
    folder: tempfile::TempDir,
}

impl Bundle {
    /// Takes over what the engine wrote for a session, hardening and limits, but for the program; without the control
    /// group, which is the engine's own.
    pub(crate) fn like_the_engine() -> Self {
        let mut sidecar = Sidecar::start(&["--engine", "runsc"]);
        sidecar.open("python");
        let written = find(sidecar.state(), "config.json").expect("a session's bundle");
        let mut config: Value = serde_json::from_slice(&std::fs::read(written).expect("readable")).expect("JSON");
        config["process"]["args"] = json!(["python3", "-S", "-c", ECHO]);
        config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
        Self { folder }
    }

    /// A line to the echo program and back.
    pub(crate) fn round_trips(&self) -> Measure {
        round_trips(run(self.folder.path(), "trips"))
    }

    /// From the command to the first echoed line; its end is not counted.
    pub(crate) fn starts(&self) -> Measure {
        let (folder, mut number) = (self.folder.path().to_owned(), 0);
        starts(move || {
            number += 1;
            run(&folder, &format!("start-{number}"))
        })
    }
}

fn run(folder: &Path, id: &str) -> Process {
    let mut command = Command::new("runsc");
    command.arg("--root").arg(folder.join("state"));
    command.args(["--network=none", "--oci-seccomp", "--overlay2=none", "--ignore-cgroups", "--platform=systrap"]);
    Process::start(command.args(["run", "--bundle"]).arg(folder).arg(id))
}

/// The first file of this name below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find_map(|path| if path.is_dir() { find(&path, name) } else { Some(path).filter(|path| path.ends_with(name)) })
}
