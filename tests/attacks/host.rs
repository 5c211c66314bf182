//! The machine outside, as the suite sees it: things that an attack would like to reach, put there on purpose.

use std::{
    hash::BuildHasher as _,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
};

use serde_json::{Value, json};

/// The name of the variable that holds the token in the sidecar's own environment.
pub(crate) const VARIABLE: &str = "ATTACKS_SECRET";

/// A file, a variable and three listening sockets of the host; they live as long as this.
pub(crate) struct Host {
    folder: tempfile::TempDir,
    tcp: TcpListener,
    token: String,
    _sockets: [UnixListener; 2],
}

impl Host {
    pub(crate) fn new() -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        // Not to be guessed, so that whoever prints it has read it.
        let token = format!("secret-{:x}", std::collections::hash_map::RandomState::new().hash_one(std::process::id()));
        std::fs::write(folder.path().join("secret"), &token)?;
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let named = UnixListener::bind(folder.path().join("socket"))?;
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&token)?)?;
        Ok(Self { folder, tcp, token, _sockets: [named, hidden] })
    }

    /// What attacks are told about it.
    pub(crate) fn facts(&self) -> Value {
        let namespaces = ["net", "pid", "mnt", "ipc", "uts", "user"].map(|kind| {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
            (kind.to_owned(), Value::from(link.to_string_lossy()))
        });
        json!({
            "namespaces": Value::Object(namespaces.into_iter().collect()),
            "file": self.folder.path().join("secret"), "socket": self.folder.path().join("socket"),
            "token": self.token, "variable": VARIABLE, "pid": std::process::id(),
            "port": self.tcp.local_addr().map_or(0, |address| address.port()),
            "hostname": read("/proc/sys/kernel/hostname"), "release": read("/proc/sys/kernel/osrelease"),
            "boot": read("/proc/sys/kernel/random/boot_id"), "cmdline": read("/proc/cmdline"),
        })
    }

    /// The secret; whoever knows it has read what is not theirs.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Where the file and the socket are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
