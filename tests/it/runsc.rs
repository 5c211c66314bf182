//! What only the runsc engine can do: without root, without control groups, and dying with its supervisor.

use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Sidecar, cellblock, eventually, processes, sandboxes};

/// An ordinary user, who needs no entry in the machine's list.
const USER: u32 = 1000;

/// A sidecar that runs as an ordinary user, from copies of the binary and of root's image store that are this user's.
fn rootless(arguments: &[&str]) -> (tempfile::TempDir, Sidecar) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("ours");
    let [binary, state, store] = ["cellblock", "state", "store"].map(|name| folder.path().join(name));
    std::fs::copy(cellblock().get_program(), &binary).expect("copied");
    std::fs::create_dir(&state).expect("made");
    let copied = Command::new("cp").args(["-a", "/var/lib/cellblock"]).arg(&store).status().expect("cp");
    assert!(copied.success(), "root has no image store; `scripts/setup` fills it");
    let owned = Command::new("chown").args(["-R", "1000:1000"]).args([&state, &store]).status().expect("chown");
    assert!(owned.success(), "these tests run as root");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "1000", "--regid", "1000", "--clear-groups"]).arg(&binary);
    command.env("CELLBLOCK_ENGINE", "runsc").env("CELLBLOCK_IMAGE_STORE", &store);
    let sidecar = Sidecar::with_command(command, &state, arguments);
    (folder, sidecar)
}

#[test]
fn an_ordinary_user_gets_the_same_walls() {
    let (folder, mut sidecar) = rootless(&[]);
    let engine = sidecar.call("server.info", &json!({}))["engine"].clone();
    assert_eq!((&engine["rootless"], &engine["isolation"]), (&json!(true), &json!("gvisor")), "{engine}");
    for (runtime, keep, endless) in
        [("python", "kept = 7", "while True: pass"), ("nodejs", "const kept = 7", "for (;;);")]
    {
        let session = sidecar.session(runtime);
        let posture = sidecar.call("session.posture", &json!({"session_id": session}));
        assert_eq!((&posture["strong"], &posture["outside"]["sentry"]), (&json!(true), &json!(true)), "{posture}");
        assert_eq!(posture["outside"]["memory_guard"], engine["memory_guard"]);
        let checks = posture["checks"].as_array().expect("a list");
        let uid = checks.iter().find(|check| check["name"] == "uid").expect("checked");
        assert_eq!(uid["found"], "65534 65534 65534 65534");
        sidecar.cell(&session, keep);
        let stopped = sidecar.timed(&session, endless, "500ms");
        assert_eq!((&stopped["status"], &stopped["state"]), (&json!("timeout"), &json!("preserved")), "{stopped}");
        assert_eq!(sidecar.cell(&session, "kept")["result"]["data"]["text/plain"], "7");
    }
    let state = folder.path().join("state");
    let owners: BTreeSet<_> = processes(&state).iter().map(|(pid, _)| owner(*pid)).collect();
    assert_eq!(owners, BTreeSet::from([Some(USER)]), "nothing runs as root");
    drop(sidecar);
    assert_eq!((sandboxes(&state), processes(&state)), (vec![], vec![]));
}

/// Allocates as fast as Python can; the walls of a cgroup are missing, so the supervisor's own guard has to hold.
#[test]
fn a_hog_without_a_control_group_is_ended_close_to_its_limit() {
    let (folder, mut sidecar) = rootless(&["--memory", "256m"]);
    let engine = sidecar.call("server.info", &json!({}))["engine"].clone();
    assert_eq!(engine["memory_guard"], "watchdog", "this test is about the guard that works without a group");
    let session = sidecar.session("python");
    let state = folder.path().join("state");
    let sentry = processes(&state).iter().find(|(_, command)| command.starts_with("runsc-sandbox")).expect("up").0;
    let memory = std::fs::read_dir(format!("/proc/{sentry}/fd")).expect("it lives").flatten().map(|entry| entry.path());
    let memory = memory
        .into_iter()
        .find(|path| std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("runsc-memory")));
    let memory = memory.expect("the guest's memory is a file of the Sentry");
    let hog =
        json!({"session_id": session, "code": "kept = []\nwhile True: kept.append(bytearray(b'x') * (16 << 20))"});
    let running = sidecar.send("cell.execute", &hog);
    let mut peak = 0;
    while let Ok(file) = std::fs::metadata(&memory) {
        peak = peak.max(file.blocks() * 512);
        std::thread::sleep(Duration::from_micros(500));
    }
    let result = sidecar.answer(running)["result"].clone();
    assert_eq!((&result["status"], &result["ended_by"]), (&json!("killed"), &json!("oom")), "{result}");
    assert_eq!(sidecar.cell(&session, "1")["generation"], 2);
    assert!(peak > 200 << 20, "the guest could not use what it was given: {} MiB", peak >> 20);
    assert!(peak < 320 << 20, "the guard came late: {} MiB", peak >> 20);
}

#[test]
fn sandboxes_die_with_a_supervisor_that_is_killed() {
    let state = tempfile::tempdir().expect("a folder");
    let mut doomed = Sidecar::with_state(state.path(), &[]);
    let session = doomed.session("python");
    // Code that would not notice the end of its input: it stops every thread of its process.
    doomed
        .send("cell.execute", &json!({"session_id": session, "code": "import os, signal; os.kill(1, signal.SIGSTOP)"}));
    doomed.send("session.create", &json!({"runtime": "nodejs"}));
    std::thread::sleep(Duration::from_millis(100));
    doomed.kill_9();
    eventually("the end of every process", || processes(state.path()).is_empty());
    drop(Sidecar::with_state(state.path(), &[]));
    assert_eq!(sandboxes(state.path()), Vec::<String>::new());
}

/// Ten supervisors with twenty sandboxes each, killed in the middle of whatever they were doing.
#[test]
fn nothing_is_left_of_two_hundred_sandboxes_and_ten_killed_supervisors() {
    let state = tempfile::tempdir().expect("a folder");
    let (mut chance, mut owners) = (Chance::new(), BTreeSet::new());
    for _ in 0..10 {
        let mut doomed = Sidecar::with_state(state.path(), &["--memory", "128m"]);
        let creates: Vec<_> = (0..20)
            .map(|n| doomed.send("session.create", &json!({"runtime": if n % 4 == 0 { "nodejs" } else { "python" }})))
            .collect();
        // Some are up, some half-way, some not begun.
        let wait_for = chance.below(12);
        for &id in creates.iter().take(wait_for) {
            if let Value::String(session) = &doomed.answer(id)["result"]["session_id"] {
                doomed.send("cell.execute", &json!({"session_id": session, "code": "while True: pass"}));
            }
        }
        let running = processes(state.path());
        for (pid, _) in running.iter().filter(|(_, command)| command.starts_with("runsc")) {
            if chance.below(4) == 0 {
                // It may have ended by itself by now.
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
            }
        }
        std::thread::sleep(Duration::from_millis(chance.below(300) as u64));
        let instances = std::fs::read_dir(state.path()).expect("there").flatten();
        owners.extend(instances.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        doomed.kill_9();
    }
    eventually("the end of every process", || processes(state.path()).is_empty());
    drop(Sidecar::with_state(state.path(), &[]));
    let mut left: Vec<_> =
        std::fs::read_dir(state.path()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    left.sort();
    assert_eq!(left, ["platform", "scope"], "seed {}", chance.seed);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounted");
    assert!(!mounts.contains(&*state.path().to_string_lossy()), "seed {}: {mounts}", chance.seed);
    let groups = groups();
    let ours: Vec<_> = groups.iter().filter(|group| owners.iter().any(|owner| group.contains(&**owner))).collect();
    assert_eq!(ours, Vec::<&String>::new(), "seed {}", chance.seed);
}

/// `kvm` is no part of this: where /dev/kvm is paravirtual a trial of it keeps every processor of the machine busy, and
/// whatever else runs there waits.
#[test]
fn the_platform_is_the_one_that_was_asked_for() {
    for (asked, used) in [("auto", "systrap"), ("systrap", "systrap"), ("ptrace", "ptrace")] {
        let state = tempfile::tempdir().expect("a folder");
        let mut sidecar = Sidecar::with_state(state.path(), &["--platform", asked]);
        assert_eq!(sidecar.call("server.info", &json!({}))["engine"]["platform"], used);
        let session = sidecar.session("python");
        assert_eq!(sidecar.cell(&session, "6 * 7")["result"]["data"]["text/plain"], "42");
        let running = processes(state.path());
        assert!(running.iter().any(|(_, command)| command.contains(&format!("--platform={used}"))), "{running:?}");
        drop(sidecar);
        assert_eq!((processes(state.path()), sandboxes(state.path())), (vec![], vec![]), "{asked}");
    }
    let output = cellblock().args(["config", "--platform", "xen"]).output().expect("runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("'xen'") && error.contains("systrap"), "{error}");
}

/// Names of all control groups of ours, whichever supervisor's.
fn groups() -> Vec<String> {
    let roots = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let below = roots.chain([Path::new("/sys/fs/cgroup").to_owned()]).flat_map(std::fs::read_dir).flatten().flatten();
    let names = below.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("cellblock-")).collect()
}

fn owner(pid: u32) -> Option<u32> {
    std::fs::metadata(format!("/proc/{pid}")).ok().map(|process| process.uid())
}

/// Numbers that differ from run to run, and are told when a run fails.
struct Chance {
    seed: u64,
    state: u64,
}

impl Chance {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let seed = u64::from(now.subsec_nanos()) | 1;
        Self { seed, state: seed }
    }

    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX generator; its upper bits are good enough to shake things.
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.state >> 33).expect("31 bits") % bound
    }
}
