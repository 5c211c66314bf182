//! A Docker daemon of the test's own: what happens when the daemon stops, dies, hangs, or is set up too weakly.
//!
//! It has its own data, containerd and socket in a temporary folder, so that the machine's daemon is never touched.
//! Starting `dockerd` needs root.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{Sidecar, cellblock, eventually};

/// An endless cell that nothing but its sandbox's end ends in the time of these tests.
const ENDLESS: &str = "for (;;);";

struct Daemon {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Daemon {
    /// Up, without images.
    fn start() -> Self {
        let mut daemon = Self { folder: tempfile::tempdir().expect("a folder"), process: None };
        // The machine's own runtime, which fits its kernel, and the same as users have it who forget the flag.
        let output = Command::new("docker").args(["info", "--format", "{{json .Runtimes.runsc}}"]).output();
        let runtime: Value = serde_json::from_slice(&output.expect("the docker client").stdout)
            .expect("the runtime `runsc` is registered (scripts/setup does)");
        let mut bare = runtime.clone();
        bare["runtimeArgs"].as_array_mut().expect("a list").retain(|argument| argument != "--oci-seccomp");
        let settings = json!({"runtimes": {"runsc": runtime, "bare": bare}, "shutdown-timeout": 5});
        std::fs::write(daemon.path("daemon.json"), settings.to_string()).expect("a file");
        daemon.launch();
        daemon
    }

    /// Up, with the Node.js image, the smaller of the two.
    fn with_image() -> Self {
        let daemon = Self::start();
        let mut save =
            Command::new("docker").args(["save", "cellblock/nodejs"]).stdout(Stdio::piped()).spawn().expect("docker");
        let load = daemon.docker(&["load"]).stdin(save.stdout.take().expect("piped")).output().expect("docker");
        assert!(load.status.success() && save.wait().expect("ends").success(), "no image (scripts/setup builds it)");
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> String {
        self.path("docker.sock").display().to_string()
    }

    fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).expect("a file");
        let mut command = Command::new("dockerd");
        for (option, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "docker.pid"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        command.arg("--host").arg(format!("unix://{}", self.socket()));
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--log-level=error"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect("dockerd is there (scripts/setup installs it) and we are root"));
        eventually("the private daemon's first answer", || {
            self.docker(&["version"]).output().expect("docker").status.success()
        });
    }

    /// The client of this daemon.
    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &format!("unix://{}", self.socket())]).args(arguments);
        command
    }

    fn containers(&self) -> Vec<String> {
        let output = self.docker(&["ps", "-aq"]).output().expect("docker");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    fn signal(&self, signal: &str) {
        if let Some(process) = &self.process {
            Command::new("kill").args([signal, &process.id().to_string()]).status().expect("kill");
        }
    }

    /// Waits until the signalled daemon has ended.
    fn gone(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait().expect("it ends");
        }
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        points.filter(|point| Path::new(point).starts_with(self.folder.path())).map(str::to_owned).collect()
    }

    fn sidecar(&self, arguments: &[&str]) -> Sidecar {
        Sidecar::start(&[&["--docker-socket", &self.socket()], arguments].concat())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal("-CONT");
        // Only a daemon ends what it started.
        if self.process.is_none() {
            self.launch();
        }
        for container in self.containers() {
            let _ = self.docker(&["rm", "-f", &container]).output();
        }
        self.signal("-TERM");
        self.gone();
        for point in self.mounts() {
            let _ = Command::new("umount").arg(point).status();
        }
        assert!(std::thread::panicking() || self.mounts().is_empty(), "mounts are left: {:?}", self.mounts());
    }
}

#[track_caller]
fn unreachable(error: &Value) {
    assert_eq!(
        (&error["data"]["kind"], &error["data"]["outcome"], &error["data"]["retryable"]),
        (&json!("engine_unreachable"), &json!("not_started"), &json!(true)),
        "{error}"
    );
    assert!(error["message"].as_str().is_some_and(|text| text.contains("hint: ")), "{error}");
}

#[test]
fn a_daemon_that_goes_away_costs_the_variables_and_not_the_session() {
    let mut daemon = Daemon::with_image();
    for signal in ["-TERM", "-KILL"] {
        let mut sidecar = daemon.sidecar(&[]);
        let (session, idle) = (sidecar.session("nodejs"), sidecar.session("nodejs"));
        for session in [&session, &idle] {
            sidecar.cell(session, "var kept = 7");
        }
        let endless = json!({"session_id": session, "code": ENDLESS, "timeout": "60s"});
        let running = sidecar.send("cell.execute", &endless);
        std::thread::sleep(Duration::from_millis(300));
        daemon.signal(signal);
        let began = Instant::now();
        let result = sidecar.answer(running)["result"].clone();
        assert_eq!((&result["status"], &result["state"]), (&json!("killed"), &json!("lost")), "{signal}: {result}");
        assert!(began.elapsed() < Duration::from_secs(45), "{signal}: {:?}", began.elapsed());
        daemon.gone();

        assert_eq!(sidecar.call("ping", &json!({})), "pong");
        unreachable(&sidecar.fail("session.create", &json!({"runtime": "nodejs"})));
        unreachable(&sidecar.fail("cell.execute", &json!({"session_id": session, "code": "1"})));

        daemon.launch();
        for session in [&session, &idle] {
            let result = sidecar.cell(session, "typeof kept");
            assert_eq!(result["result"]["data"]["text/plain"], "'undefined'", "{signal}: {result}");
            assert_eq!((&result["generation"], &result["execution_count"]), (&json!(2), &json!(1)), "{signal}");
        }
        eventually("the removal of what the old daemon had", || daemon.containers().len() == 2);
        drop(sidecar);
        assert_eq!(daemon.containers(), Vec::<String>::new(), "{signal}");
    }
}

#[test]
fn a_daemon_that_hangs_holds_nobody_for_long() {
    let daemon = Daemon::with_image();
    let mut sidecar = daemon.sidecar(&["--grace", "1s"]);
    let session = sidecar.session("nodejs");
    sidecar.cell(&session, "var kept = 7");
    daemon.signal("-STOP");
    let began = Instant::now();
    let endless = json!({"session_id": session, "code": ENDLESS, "timeout": "1s"});
    let running = sidecar.send("cell.execute", &endless);
    let creating = sidecar.send("session.create", &json!({"runtime": "nodejs"}));
    assert_eq!(sidecar.call("ping", &json!({})), "pong");
    let result = sidecar.answer(running)["result"].clone();
    assert_eq!(
        (&result["status"], &result["ended_by"], &result["state"], &result["generation"]),
        (&json!("timeout"), &json!("kill"), &json!("lost"), &json!(2)),
        "{result}"
    );
    unreachable(&sidecar.answer(creating)["error"]);
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    daemon.signal("-CONT");
    let result = sidecar.cell(&session, "typeof kept");
    assert_eq!((&result["result"]["data"]["text/plain"], &result["generation"]), (&json!("'undefined'"), &json!(2)));
    eventually("the removal of what the daemon did after it woke up", || daemon.containers().len() == 1);
}

#[test]
fn a_set_up_that_does_not_fit_is_refused_with_the_mend() {
    let daemon = Daemon::with_image();
    // The OCI runtime without `--oci-seccomp`: the profile is a decoration, and only a measurement shows it.
    let mut sidecar = daemon.sidecar(&["--runtime", "bare"]);
    let error = sidecar.fail("session.create", &json!({"runtime": "nodejs"}));
    assert_eq!((&error["code"], &error["data"]["kind"]), (&json!(1014), &json!("weak_posture")), "{error}");
    let text = error["message"].as_str().expect("a text");
    assert!(text.contains("Seccomp is `0`, not 2") && text.contains("`scripts/setup`"), "{text}");
    assert_eq!(daemon.containers(), Vec::<String>::new());

    let error = sidecar.fail("session.create", &json!({"runtime": "python"}));
    assert_eq!((&error["code"], &error["data"]["kind"]), (&json!(1012), &json!("no_image")), "{error}");
    let text = error["message"].as_str().expect("a text");
    assert!(text.contains("no image `cellblock/python`") && text.contains("`scripts/setup`"), "{text}");

    let state = tempfile::tempdir().expect("a folder");
    let mut command = cellblock();
    command.args(["serve", "--runtime", "kata", "--docker-socket", &daemon.socket(), "--state-dir"]).arg(state.path());
    let output = command.stdin(Stdio::null()).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(
        text.contains("no OCI runtime `kata`") && text.contains("bare") && text.contains("`scripts/setup`"),
        "{text}"
    );
}
