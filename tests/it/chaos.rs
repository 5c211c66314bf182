//! Ends that nobody planned: what is answered, and what is left.

use std::process::Command;

use serde_json::json;

use crate::harness::{Sidecar, engine, eventually, processes, sandboxes};

#[test]
fn twenty_sessions_at_once_do_not_mix() {
    let mut sidecar = Sidecar::start(&["--memory", "256m"]);
    let creates: Vec<_> = (0..20)
        .map(|n| sidecar.send("session.create", &json!({"runtime": if n % 4 == 0 { "nodejs" } else { "python" }})))
        .collect();
    let sessions: Vec<_> = creates
        .iter()
        .map(|&id| sidecar.answer(id)["result"]["session_id"].as_str().expect("an id").to_owned())
        .collect();
    for (n, session) in sessions.iter().enumerate() {
        sidecar.send("cell.execute", &json!({"session_id": session, "code": format!("mine = {n}")}));
    }
    let reads: Vec<_> = sessions
        .iter()
        .map(|session| sidecar.send("cell.execute", &json!({"session_id": session, "code": "mine"})))
        .collect();
    for (n, id) in reads.into_iter().enumerate() {
        assert_eq!(sidecar.answer(id)["result"]["result"]["data"]["text/plain"], n.to_string());
    }
}

#[test]
fn a_killed_sidecar_leaves_nothing_after_the_next_start_and_a_living_one_is_not_touched() {
    let state = tempfile::tempdir().expect("a folder");
    let mut living = Sidecar::with_state(state.path(), &[]);
    let kept = living.session("python");
    living.cell(&kept, "kept = 7");
    let mut doomed = Sidecar::with_state(state.path(), &[]);
    for runtime in ["python", "nodejs"] {
        let session = doomed.session(runtime);
        doomed.send("cell.execute", &json!({"session_id": session, "code": "while (1) 1"}));
        doomed.send("cell.execute", &json!({"session_id": session, "code": "while True: pass"}));
    }
    assert_eq!(sandboxes(state.path()).len(), 3);
    doomed.kill_9();
    let next = Sidecar::with_state(state.path(), &[]);
    eventually("the dead one's containers are removed", || sandboxes(state.path()).len() == 1);
    assert_eq!(living.cell(&kept, "kept")["result"]["data"]["text/plain"], "7");
    drop(next);
    assert_eq!(living.cell(&kept, "kept")["result"]["data"]["text/plain"], "7");
    drop(living);
    assert_eq!(sandboxes(state.path()), Vec::<String>::new());
}

#[test]
fn end_of_input_drains_what_is_in_flight_and_removes_every_sandbox() {
    let state = tempfile::tempdir().expect("a folder");
    let mut sidecar = Sidecar::with_state(state.path(), &["--drain-timeout", "3s"]);
    let (short, long) = (sidecar.session("python"), sidecar.session("python"));
    let finishes =
        sidecar.send("cell.execute", &json!({"session_id": short, "code": "import time; time.sleep(1); 'done'"}));
    let endless = sidecar.send("cell.execute", &json!({"session_id": long, "code": "while True: pass"}));
    let (answers, status) = sidecar.finish();
    let answer = |id: u64| {
        answers.iter().find(|answer| answer["id"] == id).unwrap_or_else(|| panic!("no answer to {id}: {answers:?}"))
    };
    assert_eq!(answer(finishes)["result"]["result"]["data"]["text/plain"], "'done'");
    assert_eq!(answer(endless)["result"]["status"], "killed");
    assert!(status.success());
    assert_eq!(sandboxes(state.path()), Vec::<String>::new());
    let mut left: Vec<_> =
        std::fs::read_dir(state.path()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    // The runsc engine notes which platform works here.
    let expected: &[&str] = if engine() == "runsc" { &["platform", "scope"] } else { &["scope"] };
    left.sort();
    assert_eq!(left, expected, "no lock and no folder stays");
    assert_eq!(processes(state.path()), []);
}

#[test]
fn sigterm_and_shutdown_end_it_cleanly() {
    for stop in ["SIGTERM", "shutdown"] {
        let state = tempfile::tempdir().expect("a folder");
        let mut sidecar = Sidecar::with_state(state.path(), &[]);
        sidecar.session("python");
        if stop == "shutdown" {
            assert_eq!(sidecar.call("shutdown", &json!({}))["closed"], true);
        } else {
            Command::new("kill").arg(sidecar.pid().to_string()).status().expect("kill");
        }
        let pid = sidecar.pid();
        eventually("the end of the process", || {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
                || !std::path::Path::new(&format!("/proc/{pid}")).exists()
        });
        assert_eq!(sandboxes(state.path()), Vec::<String>::new(), "{stop}");
    }
}

#[test]
fn a_sandbox_that_somebody_ends_is_a_lost_state_and_not_a_hang() {
    let state = tempfile::tempdir().expect("a folder");
    let mut sidecar = Sidecar::with_state(state.path(), &[]);
    let session = sidecar.session("python");
    let running = sidecar.send("cell.execute", &json!({"session_id": session, "code": "while True: pass"}));
    std::thread::sleep(std::time::Duration::from_millis(300));
    if engine() == "docker" {
        for id in sandboxes(state.path()) {
            Command::new("docker").args(["rm", "-f", &id]).output().expect("docker");
        }
    } else {
        for (pid, _) in processes(state.path()).iter().filter(|(_, command)| command.starts_with("runsc-sandbox")) {
            Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill");
        }
    }
    let result = sidecar.answer(running)["result"].clone();
    assert_eq!((&result["status"], &result["state"]), (&json!("killed"), &json!("lost")), "{result}");
    assert_eq!(sidecar.cell(&session, "1")["generation"], 2);
}
