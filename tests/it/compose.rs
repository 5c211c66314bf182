//! `compose/docker-compose.yml`, brought up for real: the runsc engine in a container without any privilege.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Sidecar, cellblock, eventually};

/// A Compose project of its own; dropping it takes it down with its volumes.
struct Stack {
    project: String,
}

impl Stack {
    /// With the sidecar's image made of the binary under test, and the Python image in its store.
    fn new() -> Self {
        let built = Command::new("scripts/sidecar-image").arg(cellblock().get_program()).output().expect("runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let stack = Self { project: format!("cellblock-test-{}", std::process::id()) };
        let mut save = Command::new("docker").args(["save", "cellblock/python"]).stdout(Stdio::piped()).spawn();
        let archive = save.as_mut().expect("docker").stdout.take().expect("piped");
        let mut import = stack.command(&["run", "--rm", "-T", "images", "import", "-"]);
        let imported = import.stdin(archive).output().expect("runs");
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        assert!(save.expect("docker").wait().expect("ends").success());
        stack
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args([
            "compose",
            "--ansi",
            "never",
            "--project-name",
            &self.project,
            "--file",
            "compose/docker-compose.yml",
        ]);
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().expect("docker compose is there (`scripts/setup` installs it)");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The id of a service's container.
    fn container(&self, service: &str) -> String {
        String::from_utf8_lossy(&self.run(&["ps", "--all", "--quiet", service]).stdout).trim().to_owned()
    }

    /// What it printed; `docker compose logs` would mix control sequences in.
    fn logs(&self, service: &str) -> String {
        let output = Command::new("docker").args(["logs", &self.container(service)]).output().expect("docker");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `docker ps -a`, volumes and networks still know of it.
    fn left(&self) -> String {
        let label = format!("label=com.docker.compose.project={}", self.project);
        let list = |arguments: &[&str]| {
            let output = Command::new("docker").args(arguments).args(["-q", "--filter", &label]).output();
            String::from_utf8_lossy(&output.expect("docker").stdout).into_owned()
        };
        list(&["ps", "-a"]) + &list(&["volume", "ls"]) + &list(&["network", "ls"])
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let _ = self.command(&["--profile", "tools", "down", "--volumes", "--timeout", "5"]).output();
    }
}

#[test]
fn an_unprivileged_container_serves_an_application_over_a_shared_socket() {
    let stack = Stack::new();
    stack.run(&["up", "--detach"]);
    eventually("the application's end", || stack.logs("app").contains("the sum is"));
    assert_eq!(stack.logs("app"), "strong posture: True\nthe sum is 45\n");
    let ended = Command::new("docker").args(["wait", &stack.container("app")]).output().expect("docker");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "0\n");

    let inspected = Command::new("docker").args(["inspect", &stack.container("cellblock")]).output().expect("docker");
    let inspected: Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    let (host, mounts) = (&inspected[0]["HostConfig"], inspected[0]["Mounts"].to_string());
    assert_eq!((&host["Privileged"], &host["CapAdd"]), (&Value::Bool(false), &Value::Null));
    assert_eq!((&host["CapDrop"][0], &host["ReadonlyRootfs"]), (&"ALL".into(), &Value::Bool(true)));
    assert_eq!((&inspected[0]["Config"]["User"], &host["NetworkMode"]), (&"1000:1000".into(), &"none".into()));
    assert!(!mounts.contains("docker.sock"), "{mounts}");

    // A client that speaks to a sidecar of the same kind directly finds the walls that it finds outside.
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--interactive", "--init", "--user", "1000:1000", "--read-only", "--network", "none"]);
    command.args(["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt"]);
    command.args(["seccomp=seccomp/sidecar.json", "--security-opt", "apparmor=unconfined"]);
    command.args(["--tmpfs", "/tmp:mode=1777", "--volume", &format!("{}_images:/var/lib/cellblock:ro", stack.project)]);
    command.args(["--env", "SECRET_OF_THE_SIDECAR=xyzzy", "cellblock/sidecar"]);
    let mut sidecar = Sidecar::with_command(command, std::path::Path::new("/tmp/state"), &[]);
    let session = sidecar.session("python");
    let posture = sidecar.call("session.posture", &serde_json::json!({"session_id": session}));
    assert_eq!(
        (&posture["strong"], &posture["outside"]["memory_guard"]),
        (&true.into(), &"watchdog".into()),
        "{posture}"
    );
    let found = sidecar.cell(&session, LOOK);
    assert_eq!(found["stdout"]["text"], "", "what user code finds of the sidecar and the machine: {found}");
    drop(sidecar);

    stack.run(&["--profile", "tools", "down", "--volumes", "--timeout", "5"]);
    assert_eq!(stack.left(), "");
}

/// Looks for whatever would betray the sidecar or the machine: its files, its environment, its processes, devices,
/// other sessions' bundles.
const LOOK: &str = "
import glob, os
def has(path, text):
    try: return text in open(path, 'rb').read(1 << 20)
    except OSError: return False
for path in ('/usr/local/bin/cellblock', '/usr/bin/runsc', '/run/cellblock', '/var/lib/cellblock', '/tmp/cellblock',
             '/tmp/state', '/var/run/docker.sock', '/.dockerenv', '/dev/kvm', '/dev/mem', '/dev/sda', '/dev/vda'):
    if os.path.lexists(path): print('there is', path)
for path in glob.glob('/proc/[0-9]*'):
    for name in ('cmdline', 'environ', 'mountinfo'):
        for text in (b'runsc', b'SECRET_OF_THE_SIDECAR', b'cellblock serve', b'overlay2'):
            if has(path + '/' + name, text): print(path, name, 'tells', text)
    if int(path[6:]) != 1 and int(path[6:]) != os.getpid(): print('another process', path, has(path + '/cmdline', b''))
for path in ('/proc/kcore', '/proc/kmsg', '/proc/sysrq-trigger', '/sys/kernel/security', '/sys/fs/bpf', '/sys/firmware'):
    try:
        open(path, 'rb').read(16); print('can read', path)
    except OSError: pass
";
