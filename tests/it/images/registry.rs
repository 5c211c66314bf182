//! A real registry on loopback, with logins, and a slow line before it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::harness::eventually;

pub(super) const USER: &str = "tester";
pub(super) const PASSWORD: &str = "s3cret";
/// The two, as `htpasswd -B` writes them.
const HTPASSWD: &str = "tester:$2y$04$TDc/LugOy9BEq9JqQxDTC.xmVH/bIEDCeJjeWHRtyk7pDSO98Xo2O\n";

/// Debian's `docker-registry`; ends when dropped.
pub(super) struct Registry {
    child: Child,
    pub(super) address: String,
    folder: tempfile::TempDir,
}

/// Runs a tool that the tests need and the program does not.
#[track_caller]
pub(super) fn tool(name: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(name);
    let output = arguments(&mut command).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}; `apt-get install {name}` installs it"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Registry {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().display().to_string();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let address = free.to_string();
        fs::write(folder.path().join("htpasswd"), HTPASSWD).expect("a file");
        let config = serde_json::json!({"version": 0.1, "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": place}},
            "http": {"addr": address}, "auth": {"htpasswd": {"realm": "test", "path": format!("{place}/htpasswd")}}});
        // JSON is YAML.
        fs::write(folder.path().join("config.yml"), config.to_string()).expect("a file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.expect("docker-registry is there: `apt-get install docker-registry` installs it");
        eventually("the registry's answer", || TcpStream::connect(&address).is_ok());
        Self { child, address, folder }
    }

    /// Pushes an archive's image; its name.
    pub(super) fn push(&self, archive: &Path, name: &str) -> String {
        let name = format!("{}/{name}", self.address);
        let source = format!("docker-archive:{}", archive.display());
        let login = format!("--dest-creds={USER}:{PASSWORD}");
        let target = format!("docker://{name}");
        tool("skopeo", |skopeo| {
            skopeo.args(["copy", "--insecure-policy", "--dest-tls-verify=false", &login, &source, &target])
        });
        name
    }

    /// Pushes an archive's image; the size of its largest layer.
    pub(super) fn push_and_measure(&self, archive: &Path, name: &str) -> u64 {
        self.push(archive, name);
        self.largest_blob().metadata().expect("a blob").len()
    }

    /// The file of the largest layer.
    pub(super) fn largest_blob(&self) -> PathBuf {
        let blobs = self.folder.path().join("docker/registry/v2/blobs/sha256");
        let below = |folder: &Path| {
            let entries = fs::read_dir(folder).expect("the registry's folders");
            entries.map(|entry| entry.expect("readable").path()).collect::<Vec<_>>()
        };
        let files = below(&blobs).into_iter().flat_map(|two| below(&two)).map(|blob| blob.join("data"));
        files.max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len())).expect("an image was pushed")
    }

    /// What `docker login` would leave in its folder.
    pub(super) fn write_login(&self, folder: &Path) {
        write_login(folder, &self.address);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_login(folder: &Path, address: &str) {
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let config = serde_json::json!({"auths": {address: {"auth": auth}}});
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("config.json"), config.to_string()))
        .expect("a file");
}

/// Another address of a registry, which passes so many bytes a second from it and counts them.
pub(super) struct Throttle {
    pub(super) address: String,
    rate: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Throttle {
    pub(super) fn before(registry: &Registry, rate: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (rate, bytes) = (Arc::new(AtomicU64::new(rate)), Arc::new(AtomicU64::new(0)));
        let (target, shared_rate, shared_bytes) = (registry.address.clone(), rate.clone(), bytes.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&target) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                let unbounded = Arc::new(AtomicU64::new(u64::MAX));
                std::thread::spawn(move || pass(near, far, &unbounded, &AtomicU64::new(0)));
                let (rate, bytes) = (shared_rate.clone(), shared_bytes.clone());
                std::thread::spawn(move || pass(far_too, near_too, &rate, &bytes));
            }
        });
        Self { address, rate, bytes }
    }

    pub(super) fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// How many bytes the registry has sent.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn write_login(&self, folder: &Path) {
        write_login(folder, &self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, rate: &AtomicU64, bytes: &AtomicU64) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut piece) {
        if read == 0 || to.write_all(&piece[..read]).is_err() {
            break;
        }
        bytes.fetch_add(read as u64, Ordering::Relaxed);
        let rate = rate.load(Ordering::Relaxed);
        if rate != u64::MAX {
            std::thread::sleep(Duration::from_micros(read as u64 * 1_000_000 / rate));
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
