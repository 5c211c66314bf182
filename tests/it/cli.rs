//! The command line as a person uses it.

use std::{io::Write as _, process::Stdio};

use crate::harness::{cellblock, engine, file};

#[test]
fn run_streams_a_files_output_and_exits_with_its_status() {
    for (name, code, stdout, status) in [
        ("a.py", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)", "out\n", 3),
        ("b.py", "if __name__ == '__main__':\n    print('main')\n5", "main\n", 0),
        ("c.py", "1/0", "", 1),
        ("d.js", "console.log(6 * 7)", "42\n", 0),
        ("e.js", "process.exit(4)", "", 4),
        ("f.py", "import os; os._exit(9)", "", 9),
        ("g.py", "while True: pass", "", 124),
    ] {
        let (_folder, path) = file(name, code);
        let output = cellblock().args(["run", "--timeout", "5s"]).arg(&path).output().expect("runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{name}");
        assert_eq!(output.status.code(), Some(status), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        if name == "c.py" {
            assert!(String::from_utf8_lossy(&output.stderr).contains("ZeroDivisionError: division by zero"));
        }
    }
}

#[test]
fn run_reads_standard_input_and_is_not_capped() {
    let mut child = cellblock().args(["run", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
    child.stdin.take().expect("piped").write_all(b"for i in range(300000): print('line', i)").expect("written");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 300_000);
}

#[test]
fn errors_say_what_to_do_next() {
    let (_folder, script) = file("a.py", "1");
    let (_other, unknown) = file("a.cob", "1");
    let (_third, settings) = file("cellblock.toml", "memroy = \"1g\"\n");
    let script = script.to_str().expect("plain");
    let mut cases = vec![
        (vec!["run", "/nowhere.py"], 66, vec!["/nowhere.py"]),
        (vec!["run", unknown.to_str().expect("plain")], 66, vec!["--language"]),
        (vec!["run", script, "--language", "cobol"], 66, vec!["`cobol`", "`python`"]),
        (vec!["run", script, "--seccomp", script], 78, vec!["a.py", "seccomp/README.md"]),
        (vec!["config", "--config", settings.to_str().expect("plain")], 78, vec!["memroy", "cellblock.toml", "memory"]),
    ];
    let no_image = if engine() == "docker" {
        cases.extend([
            (
                vec!["run", script, "--docker-socket", "/nowhere.sock"],
                69,
                vec!["/nowhere.sock", "scripts/setup", "--docker-socket"],
            ),
            (vec!["run", script, "--runtime", "kata"], 69, vec!["`kata`", "runsc", "scripts/setup"]),
        ]);
        ["nobody/nothing", "docker pull"]
    } else {
        cases.extend([
            (vec!["run", script, "--runsc", "/nowhere/runsc"], 69, vec!["/nowhere/runsc", "scripts/setup", "--runsc"]),
            (vec!["run", script, "--runtime", "runc"], 69, vec!["`runc`", "--engine docker"]),
        ]);
        ["nobody/nothing", "cellblock image pull"]
    };
    for (arguments, status, parts) in cases {
        let output = cellblock().args(&arguments).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{arguments:?}: {text}");
    }
    let output = cellblock()
        .args(["run", script])
        .env("CELLBLOCK_IMAGES", "{python=\"nobody/nothing\"}")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(no_image.iter().all(|part| text.contains(part)), "{text}");
    let output = cellblock().args(["config"]).env("CELLBLOCK_MEMORY", "lots").output().expect("runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("`lots`") && text.contains("CELLBLOCK_MEMORY"), "{text}");
}

#[test]
fn config_prints_values_and_where_they_come_from() {
    let (_folder, settings) = file("cellblock.toml", "memory = \"1g\"\ncpus = 0.5\n");
    let output = cellblock()
        .env("CELLBLOCK_CPUS", "0.75")
        .args(["config", "--timeout", "9s", "--config"])
        .arg(&settings)
        .output();
    let text = String::from_utf8_lossy(&output.expect("runs").stdout).into_owned();
    for (key, value, source) in [
        ("memory", "1073741824", "cellblock.toml"),
        ("cpus", "0.75", "CELLBLOCK_CPUS"),
        ("timeout", "\"9s\"", "--timeout"),
        ("disk", "134217728", "default"),
    ] {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{key} = {value}")))
            .unwrap_or_else(|| panic!("{key}: {text}"));
        assert!(line.ends_with(source), "{line}");
    }
}
