//! The image store through the real binary: archives of a real Docker, and a real registry on loopback.

mod fixture;
mod registry;

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Instant,
};

use cellblock::image::Store;

use self::{
    fixture::{docker, fixture, same_as_docker},
    registry::{PASSWORD, Registry, Throttle, USER, tool},
};
use crate::harness::{cellblock, eventually};

/// A fresh store.
struct TestStore(tempfile::TempDir);

impl TestStore {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = cellblock();
        command.arg("image").args(arguments).arg("--store").arg(self.path());
        // Nobody's login but the test's own.
        command.env("DOCKER_CONFIG", self.0.path().join("docker")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        succeeded(&self.command(arguments).output().expect("runs"))
    }

    /// The exit status and the text of a command that fails.
    #[track_caller]
    fn error(&self, arguments: &[&str]) -> (i32, String) {
        failed(&self.command(arguments).output().expect("runs"))
    }

    fn names(&self) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_str(&self.ok(&["list", "--json"])).expect("JSON");
        list.as_array()
            .expect("an array")
            .iter()
            .map(|one| one["reference"].as_str().expect("text").to_owned())
            .collect()
    }

    /// What is in one of its folders.
    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join(folder)).into_iter().flatten();
        entries.map(|entry| entry.expect("readable").path()).collect()
    }

    #[track_caller]
    fn holds_nothing(&self) {
        for folder in ["names", "roots", "blobs", "tmp", "locks"] {
            assert_eq!(self.entries(folder), Vec::<PathBuf>::new());
        }
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn failed(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it should have failed: {text}");
    (output.status.code().expect("no signal"), text)
}

#[test]
fn archives_of_every_kind_unpack_to_what_docker_exports() {
    let (store, fixture) = (TestStore::new(), fixture());
    let saved = fixture.archive.to_str().expect("plain");
    assert_eq!(store.ok(&["import", saved]), format!("{} {}\n", fixture.name, fixture.id));
    let image = Store::open(&store.path()).and_then(|store| store.find(&fixture.name)).expect("imported");
    same_as_docker(&image.root);
    assert_eq!(image.digest, fixture.id);
    assert!(image.config.env.contains(&"GREETING=hello there".to_owned()), "{:?}", image.config);
    assert_eq!((image.config.working_dir.as_str(), image.config.user.as_str()), ("/data", "1000:1001"));
    assert!(image.root.join("data/sparse").metadata().expect("there").blocks() * 512 < 1 << 20, "holes stay holes");

    // The same content under another name, through a pipe and compressed, takes no second root.
    let mut gzip = Command::new("gzip").args(["-1c", saved]).stdout(Stdio::piped()).spawn().expect("gzip is there");
    let pipe = gzip.stdout.take().expect("piped");
    succeeded(&store.command(&["import", "-", "--name", "again"]).stdin(pipe).output().expect("runs"));
    assert!(gzip.wait().expect("ends").success());
    assert_eq!(store.entries("roots").len(), 1);
    assert_eq!(store.names(), ["again:latest", &fixture.name]);

    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().display();
    for (at, (target, extra)) in [
        (format!("oci-archive:{place}/oci.tar:one.example/layers:v2"), None),
        (format!("oci:{place}/oci"), Some("--dest-compress-format=zstd")),
    ]
    .into_iter()
    .enumerate()
    {
        let source = format!("docker-archive:{saved}");
        tool("skopeo", |skopeo| skopeo.args(["copy", "--insecure-policy"]).args(extra).args([&source, &target]));
        let store = TestStore::new();
        let archive = format!("{place}/{}", ["oci.tar", "oci"][at]);
        if at == 1 {
            let (status, text) = store.error(&["import", &archive]);
            assert!(status == 65 && text.contains("--name"), "{text}");
            store.ok(&["import", &archive, "--name", "one.example/layers:v2"]);
        } else {
            store.ok(&["import", &archive]);
        }
        let image = Store::open(&store.path()).and_then(|store| store.find("one.example/layers:v2")).expect("imported");
        same_as_docker(&image.root);
        assert_eq!(store.entries("tmp"), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_ordinary_user_has_a_store_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let user = 54321;
    let binary = folder.path().join("cellblock");
    fs::copy(env!("CARGO_BIN_EXE_cellblock"), &binary).expect("copied");
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("open to all");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command.args(arguments).env_clear().env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path().join("data"));
        if rustix::process::geteuid().is_root() {
            command.uid(user).gid(user);
        }
        let archive = fs::File::open(&fixture().archive).expect("there");
        command.stdin(archive).output().expect("runs")
    };
    succeeded(&run(&["image", "import", "-"]));
    let store = folder.path().join("data/cellblock");
    assert_eq!(store.metadata().expect("made").mode() & 0o777, 0o700, "private to its user");
    let root =
        fs::read_dir(store.join("roots")).expect("there").next().expect("one").expect("readable").path().join("rootfs");
    let stat = |name: &str| root.join(name).metadata().expect("there");
    assert_eq!(stat("data/shut").mode() & 0o777, 0o500, "the engine runs as the user and must get in");
    assert_eq!(stat("data/opaque").uid(), store.metadata().expect("made").uid(), "nobody else's files");
    assert_eq!(stat("data/hard").mtime(), 1_500_000_000);
    if rustix::process::geteuid().is_root() {
        let error = failed(&cellblock().args(["image", "list", "--store"]).arg(&store).output().expect("runs")).1;
        assert!(error.contains("belongs to user 54321") && error.contains("--store"), "{error}");
    }
    succeeded(&run(&["image", "rm", &fixture().name]));
    assert_eq!(fs::read_dir(store.join("roots")).expect("there").count(), 0, "unwritable folders go too");
}

#[test]
fn a_registry_with_logins_is_pulled_from() {
    let (registry, store) = (Registry::start(), TestStore::new());
    let name = registry.push(&fixture().archive, "team/layers:v1");
    let (status, text) = store.error(&["pull", &name]);
    assert!(status == 77 && text.contains("--username") && text.contains("docker login"), "{status}: {text}");
    let login = |password: &str| {
        let mut pull = store.command(&["pull", &name, "--username", USER, "--password-stdin"]);
        let mut child = pull.stdin(Stdio::piped()).spawn().expect("runs");
        child.stdin.take().expect("piped").write_all(password.as_bytes()).expect("written");
        child.wait_with_output().expect("ends")
    };
    let (status, text) = failed(&login("wrong\n"));
    assert!(status == 77 && !text.contains("wrong"), "{status}: {text}");
    store.holds_nothing();
    let printed = succeeded(&login(&format!("{PASSWORD}\n")));
    assert!(printed.starts_with(&format!("{name} sha256:")), "{printed}");
    let image = Store::open(&store.path()).and_then(|store| store.find(&name)).expect("pulled");
    same_as_docker(&image.root);
    assert_eq!(store.entries("blobs"), Vec::<PathBuf>::new(), "compressed layers are not kept beside the root");

    // What `docker login` has left is used, and content that is there is not fetched again.
    let (other, throttle) = (TestStore::new(), Throttle::before(&registry, u64::MAX));
    let through = name.replace(&registry.address, &throttle.address);
    throttle.write_login(&other.0.path().join("docker"));
    other.ok(&["pull", &through]);
    let fetched = throttle.bytes();
    other.ok(&["pull", &through]);
    assert!(throttle.bytes() - fetched < 100_000, "only the manifest again");
    let list: serde_json::Value = serde_json::from_str(&other.ok(&["list", "--json"])).expect("JSON");
    let pinned = format!("{}@{}", through.trim_end_matches(":v1"), list[0]["manifest"].as_str().expect("a digest"));
    other.ok(&["pull", &pinned]);
    assert_eq!(other.names(), [through.clone(), pinned]);
    let (status, text) = other.error(&["pull", &through.replace(":v1", ":v9")]);
    assert!(status == 66 && text.contains(":v9"), "{status}: {text}");
}

#[test]
fn a_corrupted_layer_is_refused_and_leaves_nothing() {
    let (registry, store) = (Registry::start(), TestStore::new());
    let name = registry.push(&fixture().archive, "team/layers:v1");
    registry.write_login(&store.0.path().join("docker"));
    let blob = registry.largest_blob();
    let good = fs::read(&blob).expect("a blob");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(&blob, &bad).expect("corrupted");
    let (status, text) = store.error(&["pull", &name]);
    assert!(status == 65 && text.contains("sha256:") && text.contains("broken"), "{status}: {text}");
    assert!(store.names().is_empty() && store.entries("roots").is_empty());
    fs::write(&blob, &good[..good.len() / 2]).expect("cut");
    let (status, text) = store.error(&["pull", &name]);
    assert!(status == 69 && text.contains("ended early"), "{status}: {text}");
    assert!(store.names().is_empty() && store.entries("roots").is_empty());
    fs::write(&blob, &good).expect("mended");
    store.ok(&["pull", &name]);
    same_as_docker(&Store::open(&store.path()).and_then(|store| store.find(&name)).expect("pulled").root);
}

#[test]
fn a_killed_pull_is_continued() {
    let (registry, store) = (Registry::start(), TestStore::new());
    let size = registry.push_and_measure(&fixture().archive, "team/layers:v1");
    let slow = Throttle::before(&registry, 6 << 20);
    slow.write_login(&store.0.path().join("docker"));
    let name = format!("{}/team/layers:v1", slow.address);
    let part = |store: &TestStore| {
        let parts = store.entries("blobs").into_iter().filter(|path| path.extension().is_some());
        parts.filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).max().unwrap_or(0)
    };
    let mut pull = store.command(&["pull", &name]).spawn().expect("runs");
    eventually("half of the layer", || part(&store) > size / 2);
    pull.kill().and_then(|()| pull.wait()).expect("killed");
    assert!(store.names().is_empty() && store.entries("roots").is_empty(), "nothing half-done is seen");
    let before = slow.bytes();
    slow.set_rate(u64::MAX);
    // Killed again while it unpacks.
    let mut pull = store.command(&["pull", &name]).spawn().expect("runs");
    eventually("unpacking", || store.entries("tmp").iter().any(|work| work.join("root/rootfs/usr").exists()));
    pull.kill().and_then(|()| pull.wait()).expect("killed");
    assert!(slow.bytes() - before < size * 6 / 10, "the half that was there is not fetched again");
    assert!(store.names().is_empty() && store.entries("roots").is_empty(), "nothing half-done is seen");
    let before = slow.bytes();
    store.ok(&["pull", &name]);
    assert!(slow.bytes() - before < 200_000, "layers that were complete are not fetched again");
    same_as_docker(&Store::open(&store.path()).and_then(|store| store.find(&name)).expect("pulled").root);
    store.ok(&["rm", &name]);
    store.holds_nothing();
}

#[test]
fn pulls_at_the_same_time_fetch_once() {
    let (registry, store) = (Registry::start(), TestStore::new());
    let size = registry.push_and_measure(&fixture().archive, "team/layers:v1");
    let throttle = Throttle::before(&registry, 20 << 20);
    throttle.write_login(&store.0.path().join("docker"));
    let name = format!("{}/team/layers:v1", throttle.address);
    let pulls: Vec<_> = (0..4).map(|_| store.command(&["pull", &name]).spawn().expect("runs")).collect();
    let outputs: Vec<_> = pulls.into_iter().map(|pull| pull.wait_with_output().expect("ends")).collect();
    let printed: Vec<_> = outputs.iter().map(succeeded).collect();
    assert!(printed.iter().all(|text| *text == printed[0]), "{printed:?}");
    assert!(outputs.iter().any(|output| String::from_utf8_lossy(&output.stderr).contains("waiting for another pull")));
    assert!(throttle.bytes() < size * 3 / 2, "{} bytes for {size}", throttle.bytes());
    assert_eq!((store.entries("roots").len(), store.entries("tmp").len()), (1, 0));
    same_as_docker(&Store::open(&store.path()).and_then(|store| store.find(&name)).expect("pulled").root);
}

#[test]
fn an_image_in_use_loses_its_name_and_keeps_its_root() {
    let (here, name) = (TestStore::new(), fixture().name.as_str());
    here.ok(&["import", fixture().archive.to_str().expect("plain")]);
    let store = Store::open(&here.path()).expect("a store");
    let held = store.find(name).expect("imported");
    let (status, text) = here.error(&["rm", &name.replace("layers", "layer")]);
    assert!(status == 66 && text.contains(&format!("near it are `{name}`")), "{status}: {text}");
    here.ok(&["rm", &format!("docker.io/{name}")]);
    assert!(here.names().is_empty());
    assert!(held.root.join("usr/bin/env").exists(), "a sandbox still runs on it");
    let error = store.find(name).expect_err("no name").to_string();
    assert!(error.contains(&format!("cellblock image pull {name}")) && error.contains("image import"), "{error}");
    // The same image again, while the old one is held, is the old one.
    here.ok(&["import", fixture().archive.to_str().expect("plain")]);
    assert_eq!(store.find(name).expect("again").root, held.root);
    here.ok(&["rm", name]);
    let root = held.root.clone();
    drop(held);
    here.ok(&["list"]);
    assert!(!root.exists());
    here.holds_nothing();
}

#[test]
fn finding_an_image_costs_next_to_nothing() {
    let test = TestStore::new();
    test.ok(&["import", fixture().archive.to_str().expect("plain")]);
    let store = Store::open(&test.path()).expect("a store");
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let start = Instant::now();
            store.find(&fixture().name).expect("imported");
            start.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[100].as_micros() < 1000, "half of them took longer than {:?}", times[100]);
}

#[test]
fn archives_that_are_no_use_say_why() {
    let store = TestStore::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("text"), "not a tar, and long enough to look like one\n".repeat(40)).expect("a file");
    let mut tar = tar::Builder::new(fs::File::create(path("rootfs.tar")).expect("a file"));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_cksum();
    tar.append_data(&mut header, "etc/hostname", &b""[..]).expect("written");
    tar.finish().expect("written");
    let foreign = format!("cellblock-test/foreign:{}", std::process::id());
    docker(&["import", "--platform", "linux/s390x", &path("rootfs.tar"), &foreign]);
    docker(&["save", "--output", &path("foreign.tar"), &foreign]);
    docker(&["image", "rm", &foreign]);
    let saved = fixture().archive.display().to_string();
    for (arguments, status, part) in [
        (vec!["import", "/nowhere.tar"], 74, "/nowhere.tar"),
        (vec!["import", &path("text")], 65, "not a tar archive"),
        (vec!["import", &path("rootfs.tar")], 65, "docker save"),
        (vec!["import", &path("foreign.tar")], 65, "linux/s390x"),
        (vec!["import", &saved, "--max-size", "10m"], 65, "--max-size"),
        (vec!["import", &saved, "--name", "Upper Case"], 66, "`Upper Case`"),
        (vec!["pull", "a//b"], 66, "`a//b`"),
        (vec!["pull", "127.0.0.1:1/a"], 69, "127.0.0.1:1"),
    ] {
        let (code, text) = store.error(&arguments);
        assert!(code == status && text.contains(part), "{arguments:?}: {code}: {text}");
    }
    store.holds_nothing();
    fs::create_dir(path("mine")).and_then(|()| fs::write(path("mine/thesis.txt"), "")).expect("a folder");
    let output = cellblock().args(["image", "list", "--store", &path("mine")]).output().expect("runs");
    let (status, text) = failed(&output);
    assert!(status == 78 && text.contains("thesis.txt"), "{status}: {text}");
}

#[test]
fn a_terminal_gets_bars_and_a_table() {
    let store = TestStore::new();
    let command = format!(
        "{} image import {} --store {}",
        env!("CARGO_BIN_EXE_cellblock"),
        fixture().archive.display(),
        store.path().display()
    );
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output();
    let text = succeeded(&output.expect("script is there: it comes with bsdutils"));
    assert!(text.contains("unpacking layer 1 of 3") && text.contains('\u{1b}'), "{text:?}");
    let table = store.ok(&["list"]);
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "DIGEST", "SIZE", "AGE"]);
    assert_eq!(lines[1][..2], [&fixture().name, &fixture().id["sha256:".len()..][..12]]);
}
