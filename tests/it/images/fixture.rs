//! An image of a real Docker, and what Docker itself makes of it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use sha2::{Digest as _, Sha256};

/// Every way for a layer to change what is below it, on an image of several thousand files.
const DOCKERFILE: &str = r#"FROM debian:trixie-slim
RUN mkdir -p /data/opaque/sub /data/swap /data/gone && echo 1 >/data/opaque/sub/old && echo 1 >/data/swap/f && \
    echo 1 >/data/hard && ln /data/hard /data/hard2 && ln -s ../etc /data/etc && touch -d @1500000000 /data/hard
RUN rm -rf /data/opaque /data/swap /data/gone /data/hard2 /usr/share/doc && mkdir /data/opaque && \
    echo 2 >/data/opaque/new && ln -s hard /data/swap && cp /usr/bin/true /data/suid && chmod 6755 /data/suid && \
    mkdir -m 0 /data/shut && chown 1000:1001 /data/opaque && mkfifo /data/fifo && truncate -s 20M /data/sparse
ENV GREETING="hello there"
WORKDIR /data
USER 1000:1001
"#;

/// What Docker itself puts into a container, or we leave out on purpose.
const NOT_COMPARED: [&str; 9] =
    [".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", "dev", "proc", "sys", "data/fifo"];

/// Everything of one file that a guest can see.
type Seen = (char, u32, u64, u64, i64, String);

pub(super) struct Fixture {
    /// `docker save`.
    pub(super) archive: PathBuf,
    /// The name it was saved under.
    pub(super) name: String,
    /// The image's id, as Docker has it.
    pub(super) id: String,
    exported: BTreeMap<String, Seen>,
}

pub(super) fn docker(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("docker").args(arguments).output().expect("docker is there: scripts/setup installs it");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {arguments:?} (scripts/setup brings what is missing): {text}");
    output.stdout
}

/// An image of several layers, made by the real Docker, once for all tests.
pub(super) fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("Dockerfile"), DOCKERFILE).expect("a file");
        // Its own, as other checkouts may run the same tests with the same Docker.
        let name = format!("cellblock-test/layers:{}", std::process::id());
        let context = folder.to_str().expect("plain");
        docker(&[
            "build",
            "--quiet",
            "--network=none",
            "--tag",
            &name,
            "--file",
            &format!("{context}/Dockerfile"),
            context,
        ]);
        let id = docker(&["image", "inspect", "--format", "{{.Id}}", &name]);
        let id = String::from_utf8_lossy(&id).trim().to_owned();
        let archive = folder.join("saved.tar");
        docker(&["save", "--output", archive.to_str().expect("plain"), &name]);
        let container = docker(&["create", &name, "true"]);
        let container = String::from_utf8_lossy(&container).trim().to_owned();
        let exported = exported(&docker(&["export", &container]));
        docker(&["rm", &container]);
        docker(&["image", "rm", &name]);
        Fixture { archive, name, id, exported }
    })
}

fn hash(bytes: &[u8]) -> String {
    format!("{:?}", Sha256::digest(bytes))
}

fn compared(path: &str) -> bool {
    let below = |top: &str| path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    !path.is_empty() && !NOT_COMPARED.into_iter().any(below)
}

/// What `docker export` says, hard links resolved; set-user-ID bits are ours to drop.
fn exported(tar: &[u8]) -> BTreeMap<String, Seen> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().expect("a tar") {
        let mut entry = entry.expect("a tar");
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_matches('/').to_owned();
        if !compared(&path) {
            continue;
        }
        let header = entry.header().clone();
        let target = entry.link_name_bytes().map(|target| String::from_utf8_lossy(&target).into_owned());
        let (kind, content) = match header.entry_type() {
            tar::EntryType::Directory => ('d', String::new()),
            tar::EntryType::Symlink => ('l', target.expect("a target")),
            tar::EntryType::Link => {
                let linked = seen[target.expect("a target").trim_start_matches('/')].clone();
                seen.insert(path, linked);
                continue;
            }
            _ => {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("a tar");
                ('f', hash(&bytes))
            }
        };
        let mode = if kind == 'l' { 0o777 } else { header.mode().expect("a mode") & 0o1777 };
        let number = |number: std::io::Result<u64>| number.expect("a number");
        let time = i64::try_from(number(header.mtime())).expect("a time");
        // Docker writes its own files into these two.
        let time = if matches!(path.as_str(), "etc" | "dev") { 0 } else { time };
        seen.insert(path, (kind, mode, number(header.uid()), number(header.gid()), time, content));
    }
    seen
}

fn unpacked(root: &Path) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("readable") {
            let path = entry.expect("readable").path();
            let stat = path.symlink_metadata().expect("there");
            let (kind, content) = if stat.is_dir() {
                folders.push(path.clone());
                ('d', String::new())
            } else if stat.is_symlink() {
                ('l', fs::read_link(&path).expect("a link").display().to_string())
            } else {
                ('f', hash(&fs::read(&path).expect("readable")))
            };
            let path = path.strip_prefix(root).expect("below").display().to_string();
            if compared(&path) {
                let time = if path == "etc" { 0 } else { stat.mtime() };
                seen.insert(path, (kind, stat.mode() & 0o7777, stat.uid().into(), stat.gid().into(), time, content));
            }
        }
    }
    seen
}

#[track_caller]
pub(super) fn same_as_docker(root: &Path) {
    let (ours, theirs) = (unpacked(root), &fixture().exported);
    for (path, seen) in theirs {
        assert_eq!(ours.get(path), Some(seen), "`{path}`");
    }
    let extra: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(extra.is_empty() && theirs.len() > 1000, "{extra:?}");
}
