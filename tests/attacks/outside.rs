//! From outside: what the host's processes of a sandbox may do, and what is left when it is gone. Only for a sidecar that
//! the suite has started.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::{
    arena::Arena,
    case::{Case, Wall, play},
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        play("the sandbox's process has a system call filter of its own", Wall::Refused, |arena| {
            every(arena, |pid| field(pid, "Seccomp").filter(|mode| mode != "2").map(|mode| format!("Seccomp {mode}")))
        })
        .on_host(),
        play("the sandbox's process can gain no privileges", Wall::Refused, |arena| {
            every(arena, |pid| field(pid, "NoNewPrivs").filter(|bit| bit != "1").map(|bit| format!("NoNewPrivs {bit}")))
        })
        .on_host(),
        play("the sandbox's process has a network of its own", Wall::Hidden, |arena| apart(arena, "net")).on_host(),
        play("the sandbox's process has mounts of its own", Wall::Hidden, |arena| apart(arena, "mnt")).on_host(),
        play("the sandbox's process has not the host's files", Wall::Hidden, |arena| {
            let secret = arena.host()?.folder().join("secret");
            every(arena, |pid| {
                let path = format!("/proc/{pid}/root{}", secret.display());
                std::fs::exists(&path).unwrap_or(false).then_some(path)
            })
        })
        .on_host(),
        play("the sandbox's process shares no memory with ours", Wall::Hidden, |arena| apart(arena, "ipc")).on_host(),
        play("the sandbox's process has not the sidecar's secret", Wall::Hidden, |arena| {
            let token = arena.host()?.token().to_owned();
            every(arena, |pid| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                String::from_utf8_lossy(&environment)
                    .contains(&token)
                    .then(|| "the secret is in its environment".into())
            })
        })
        .on_host(),
        play("the sandbox's process holds no socket or lock of the sidecar", Wall::Hidden, |arena| {
            let sidecar = arena.sidecar()?.own().ok_or("not our own sidecar")?.0;
            let theirs: Vec<_> = files(sidecar)
                .into_iter()
                .filter(|file| file.starts_with("socket:") || file.ends_with("lock"))
                .collect();
            every(arena, |pid| files(pid).into_iter().find(|file| theirs.contains(file)))
        })
        .on_host(),
        play("a closed session leaves no process", Wall::Contained, |arena| {
            let (session, container) = fresh(arena)?;
            if processes(&container).is_empty() {
                return Err("its processes cannot be found while it runs".into());
            }
            arena.client()?.call("session.close", &json!({"session_id": session}))?;
            for _ in 0..100 {
                if processes(&container).is_empty() {
                    return Ok("none".into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(format!("{:?}", processes(&container)))
        })
        .on_host(),
        play("a closed session leaves no file", Wall::Contained, |arena| {
            let state = arena.sidecar()?.own().ok_or("not our own sidecar")?.1;
            let (session, container) = fresh(arena)?;
            arena.client()?.call("session.close", &json!({"session_id": session}))?;
            let left: Vec<_> = below(&state).into_iter().filter(|path| path.contains(&container)).collect();
            if left.is_empty() { Ok("none".into()) } else { Err(left.join(", ")) }
        })
        .on_host(),
        play("code and output are in no file of the sidecar", Wall::Hidden, |arena| {
            let state = arena.sidecar()?.own().ok_or("not our own sidecar")?.1;
            arena.attack("print('needle-' + 'in-the-log')", Duration::from_secs(5))?;
            let hits: Vec<_> = below(&state)
                .into_iter()
                .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("needle-")))
                .collect();
            if hits.is_empty() { Ok("none".into()) } else { Err(hits.join(", ")) }
        })
        .on_host(),
    ]
}

/// A new session and its container's id.
fn fresh(arena: &mut Arena) -> Result<(String, String), String> {
    let client = arena.client()?;
    let session = client.call("session.create", &json!({}))?["session_id"].as_str().unwrap_or_default().to_owned();
    let posture = client.call("session.posture", &json!({"session_id": session}))?;
    let container = posture["outside"]["container"].as_str().unwrap_or_default().to_owned();
    if container.is_empty() { Err(posture.to_string()) } else { Ok((session, container)) }
}

/// Looks at each process that runs the attacker's sandbox: the first finding is the answer.
fn every(arena: &mut Arena, finding: impl Fn(u32) -> Option<String>) -> Result<String, String> {
    let session = arena.attacker()?;
    let posture = arena.client()?.call("session.posture", &json!({"session_id": session}))?;
    let container = posture["outside"]["container"].as_str().unwrap_or_default().to_owned();
    let inner: Vec<_> = processes(&container).into_iter().filter(|(_, inside)| *inside).collect();
    if inner.is_empty() {
        return Err(format!("no process of `{container}` can be found"));
    }
    match inner.iter().find_map(|(pid, _)| finding(*pid)) {
        None => Ok(format!("{} processes looked at", inner.len())),
        Some(what) => Err(what),
    }
}

/// Whether each process that runs the sandbox is in another namespace than the suite.
fn apart(arena: &mut Arena, kind: &str) -> Result<String, String> {
    let name = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let ours = name("self");
    every(arena, |pid| (name(&pid.to_string()) == ours).then(|| format!("the host's {kind} namespace")))
}

/// The host's processes of a container, and whether each is inside its walls: gVisor's Sentry and gofer, or without
/// gVisor whatever is in its control group; the engine's helpers are outside.
fn processes(container: &str) -> Vec<(u32, bool)> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let lines = pids.filter_map(|pid| Some((pid, std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?)));
    lines
        .filter_map(|(pid, line)| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let inner = line.split('\0').any(|argument| ["boot", "gofer"].contains(&argument));
            (line.contains(container) || groups.contains(container)).then(|| (pid, inner || groups.contains(container)))
        })
        .collect()
}

fn field(pid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// What a process has open.
fn files(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

/// Every path under a folder.
fn below(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| {
            let mut found = if path.is_dir() { below(&path) } else { Vec::new() };
            found.push(path.display().to_string());
            found
        })
        .collect()
}
