//! Whatever a client sends: each line is answered at most once, every answer is JSON-RPC, and no valid request is
//! without one.
#![no_main]

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use cellblock::{
    config::{Config, Settings},
    engine::{Engine, EngineError, Resources, Sandbox},
    protocol::{EngineInfo, Isolation, MemoryGuard},
    rpc::{Server, serve},
    runtime::{Runtime, Runtimes},
    session::Registry,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

/// As small as it may be, so that long lines are met.
const MAX_LINE: usize = 1024;
const MAX_BATCH: usize = 128;

/// Starts nothing: requests are what is looked at.
#[derive(Debug)]
struct NoEngine;

#[async_trait]
impl Engine for NoEngine {
    async fn start(&self, runtime: &Runtime, _: &Resources) -> Result<Sandbox, EngineError> {
        Err(EngineError::NoImage { image: runtime.image.clone() })
    }

    fn info(&self) -> EngineInfo {
        EngineInfo {
            name: "none".into(),
            version: "0".into(),
            runtime: "none".into(),
            isolation: Isolation::Gvisor,
            platform: None,
            rootless: None,
            memory_guard: MemoryGuard::Cgroup,
        }
    }

    async fn reap(&self) -> Result<usize, EngineError> {
        Ok(0)
    }
}

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let values = [("max_line".to_owned(), MAX_LINE.to_string().into())].into();
    let layer = cellblock::config::Layer { name: "fuzz".into(), values };
    Settings::resolve("/nonexistent".into(), "/nonexistent".into(), vec![layer]).expect("valid").config
});

async fn talk(bytes: &[u8]) -> Vec<u8> {
    let registry = Arc::new(Registry::new(Arc::new(NoEngine), CONFIG.policy()));
    let server = Server::new(registry, Runtimes::builtin(), CONFIG.clone(), CancellationToken::new());
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let mut answers = Vec::new();
    let serving = serve(server, std::io::Cursor::new(bytes.to_vec()), theirs);
    tokio::join!(serving, async { ours.read_to_end(&mut answers).await.expect("a pipe") });
    answers
}

/// Ids of the requests that are certainly valid, and how often each must be answered; nothing is read after `shutdown`.
fn valid(bytes: &[u8]) -> BTreeMap<String, usize> {
    let mut expected = BTreeMap::new();
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| line.len() <= MAX_LINE) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
        let entries = match value {
            Value::Array(entries) if entries.len() <= MAX_BATCH => entries,
            value => vec![value],
        };
        for entry in &entries {
            if entry["method"] == "shutdown" {
                return expected;
            }
            let id = &entry["id"];
            let named = entry.get("id").is_some() && (id.is_null() || id.is_string() || id.is_u64());
            if entry["jsonrpc"] == "2.0" && entry["method"].is_string() && named {
                *expected.entry(id.to_string()).or_default() += 1;
            }
        }
    }
    expected
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let answers = runtime.block_on(talk(bytes));
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = 0;
    for line in answers.split_inclusive(|&byte| byte == b'\n') {
        lines += 1;
        let value: Value = serde_json::from_slice(line).expect("an answer is JSON");
        let entries = if let Value::Array(entries) = value { entries } else { vec![value] };
        // Notifications answer nobody.
        for answer in entries.into_iter().filter(|entry| entry.get("method").is_none()) {
            assert_eq!(answer["jsonrpc"], "2.0");
            assert!(answer.get("result").is_some() != answer.get("error").is_some(), "{answer}");
            *found.entry(answer["id"].to_string()).or_default() += 1;
        }
    }
    assert!(lines <= bytes.split(|&byte| byte == b'\n').count());
    for (id, times) in valid(bytes) {
        assert!(found.get(&id).is_some_and(|&found| found >= times), "{times} requests {id}: {found:?}");
    }
});
