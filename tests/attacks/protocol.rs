//! Hostile clients: what breaks the framing, the grammar or the limits is answered, and the connection goes on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    arena::{Arena, cell, word},
    case::{Case, Wall, play},
};

/// What the server says to a line that is no request.
const PARSE: i64 = -32700;
const REQUEST: i64 = -32600;
const METHOD: i64 = -32601;
const PARAMS: i64 = -32602;
const OVERSIZE: i64 = -32007;

pub(crate) fn cases() -> Vec<Case> {
    [lines(), parameters(), code(), loads()].into_iter().flatten().collect()
}

/// What is no request at all.
fn lines() -> Vec<Case> {
    vec![
        play("not JSON", Wall::Answered, |arena| line(arena, b"rm -rf /\n", &[PARSE])),
        play("half a request", Wall::Answered, |arena| {
            line(arena, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"meth\n", &[PARSE])
        }),
        play("NUL bytes", Wall::Answered, |arena| line(arena, b"\0\0\0\0\n", &[PARSE])),
        play("bytes that are no UTF-8", Wall::Answered, |arena| {
            line(arena, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}\n", &[PARSE])
        }),
        play("a number as a request", Wall::Answered, |arena| line(arena, b"42\n", &[PARSE, REQUEST])),
        play("an empty batch", Wall::Answered, |arena| line(arena, b"[]\n", &[PARSE, REQUEST])),
        play("a batch in a batch", Wall::Answered, |arena| line(arena, b"[[[]]]\n", &[PARSE, REQUEST])),
        play("a batch over the limit", Wall::Answered, |arena| {
            let batch: Vec<Value> = (0..129).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "ping"})).collect();
            line(arena, format!("{}\n", json!(batch)).as_bytes(), &[-32010, REQUEST])
        }),
        play("100,000 nested arrays", Wall::Answered, |arena| {
            line(arena, &[b"[".repeat(100_000), b"\n".to_vec()].concat(), &[PARSE, REQUEST])
        }),
        play("100,000 nested objects in parameters", Wall::Answered, |arena| {
            let deep = [
                b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":".to_vec(),
                b"{\"a\":".repeat(100_000),
                b"\n".to_vec(),
            ]
            .concat();
            line(arena, &deep, &[PARSE, REQUEST])
        }),
        play("a line over the limit", Wall::Answered, |arena| {
            let limit = arena.limit("max_line");
            line(arena, &[b"x".repeat(limit + 2), b"\n".to_vec()].concat(), &[OVERSIZE])
        }),
        play("a line of four times the limit", Wall::Answered, |arena| {
            let limit = arena.limit("max_line");
            line(arena, &[b" {".repeat(limit * 2), b"\n".to_vec()].concat(), &[OVERSIZE])
        }),
        play("another version of JSON-RPC", Wall::Answered, |arena| {
            line(arena, b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}\n", &[PARSE, REQUEST])
        }),
        play("an id that is an object", Wall::Answered, |arena| {
            line(arena, b"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"ping\"}\n", &[PARSE, REQUEST])
        }),
        play("an id that is no finite number", Wall::Answered, |arena| {
            line(arena, b"{\"jsonrpc\":\"2.0\",\"id\":1e999,\"method\":\"ping\"}\n", &[PARSE, REQUEST])
        }),
    ]
}

/// Requests for what nobody may have.
fn parameters() -> Vec<Case> {
    vec![
        play("an unknown method", Wall::Answered, |arena| {
            refused(arena, "engine.shell", &json!({"command": "id"}), METHOD)
        }),
        play("an internal name as a method", Wall::Answered, |arena| {
            refused(arena, "rpc.discover", &json!({}), METHOD)
        }),
        play("parameters as text", Wall::Answered, |arena| {
            line(
                arena,
                b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"session.create\",\"params\":\"x\"}\n",
                &[PARSE, REQUEST, PARAMS],
            )
        }),
        play("an unknown parameter", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"privileged": true}), PARAMS)
        }),
        play("an image of the client's choice", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"runtime": "python", "image": "debian:trixie-slim"}), PARAMS)
        }),
        play("host mounts of the client's choice", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"mounts": ["/:/host"]}), PARAMS)
        }),
        play("a runtime that is a path", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"runtime": "../../etc/passwd"}), PARAMS)
        }),
        play("a runtime that is an option", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"runtime": "--privileged"}), PARAMS)
        }),
        play("a runtime with a NUL", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"runtime": "python\0x"}), PARAMS)
        }),
        play("an endless timeout", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"timeout": "1000000h"}), PARAMS)
        }),
        play("a negative timeout", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"timeout": "-1s"}), PARAMS)
        }),
        play("a timeout that overflows", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"timeout": "99999999999999999999years"}), PARAMS)
        }),
        play("an output cap over the limit", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"max_output": "1t"}), PARAMS)
        }),
        play("a negative output cap", Wall::Answered, |arena| {
            refused(arena, "session.create", &json!({"max_output": -1}), PARAMS)
        }),
        play("an empty session id", Wall::Answered, |arena| {
            refused(arena, "cell.execute", &json!({"session_id": "", "code": "1"}), 1001)
        }),
        play("a guessed session id", Wall::Answered, |arena| {
            refused(arena, "cell.execute", &json!({"session_id": "0".repeat(32), "code": "1"}), 1001)
        }),
        play("a session id that is a path", Wall::Answered, |arena| {
            refused(arena, "cell.execute", &json!({"session_id": "../../x", "code": "1"}), 1001)
        }),
        play("a session id of a megabyte", Wall::Answered, |arena| {
            refused(arena, "session.get", &json!({"session_id": "a".repeat(900_000)}), 1001)
        }),
    ]
}

/// What the code itself may try on the framing.
fn code() -> Vec<Case> {
    vec![
        play("code that is no text", Wall::Answered, |arena| {
            let session = arena.attacker()?;
            refused(arena, "cell.execute", &json!({"session_id": session, "code": ["1"]}), PARAMS)
        }),
        play("code with NUL, lone newlines and a byte order mark", Wall::Contained, |arena| {
            let result = arena.attack("\u{feff}\r\n\0\u{2028}1", Duration::from_secs(5))?;
            let next = word(&arena.attack("6 * 7", Duration::from_secs(5))?);
            if next == "42" { Ok(result["status"].to_string()) } else { Err(next) }
        }),
        play("a kernel command inside the code", Wall::Contained, |arena| {
            let code = "1\n{\"type\":\"execute\",\"cell\":\"c999\",\"count\":999,\"code\":\"open('/tmp/forged', 'w')\",\"max_value\":9}\n";
            arena.attack(code, Duration::from_secs(5))?;
            let seen = word(&arena.attack("import os; os.path.exists('/tmp/forged')", Duration::from_secs(5))?);
            if seen == "False" { Ok("it was only a dictionary".into()) } else { Err(seen) }
        }),
    ]
}

/// Too much of everything, and clients that behave badly.
fn loads() -> Vec<Case> {
    vec![
        play("a queue of cells over the limit", Wall::Answered, |arena| {
            let session = arena.attacker()?;
            let limit = arena.limit("max_queue");
            let client = arena.client()?;
            let slow = json!({"session_id": session, "code": "import time; time.sleep(1)"});
            let sent: Vec<u64> =
                (0..limit + 8).map(|_| client.send("cell.execute", &slow)).collect::<Result<_, _>>()?;
            // Those that were let in are told to stop, newest first, so that this does not last.
            for id in sent.iter().rev() {
                let cancel = json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": id}});
                client.write(format!("{cancel}\n").as_bytes())?;
            }
            let mut full = 0;
            for id in sent {
                full += usize::from(client.answer(id)?["error"]["data"]["kind"] == "queue_full");
            }
            if full > 0 { Ok(format!("{full} queue_full")) } else { Err("all were let in".into()) }
        })
        .dirty(),
        play("2,000 requests at once", Wall::Answered, |arena| {
            let client = arena.client()?;
            let ids: Vec<u64> = (0..2000).map(|_| client.send("ping", &json!({}))).collect::<Result<_, _>>()?;
            let mut busy = 0;
            for id in &ids {
                busy += usize::from(client.answer(*id)?.get("error").is_some());
            }
            arena.all_is_well()?;
            Ok(format!("each answered, {busy} of them busy"))
        }),
        play("a client that does not read", Wall::Contained, |arena| {
            let mut deaf = std::os::unix::net::UnixStream::connect(arena.sidecar()?.socket().ok_or("no socket")?)
                .map_err(|error| error.to_string())?;
            deaf.set_write_timeout(Some(Duration::from_millis(500))).map_err(|error| error.to_string())?;
            let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server.info\"}\n".repeat(1000);
            let stopped = (0..1000).find(|_| std::io::Write::write_all(&mut deaf, &request).is_err());
            arena.all_is_well()?;
            stopped.map_or(Err("a million requests were read".into()), |count| {
                Ok(format!("not read after {count},000 requests"))
            })
        })
        .over_socket(),
        play("connections that say nothing", Wall::Contained, |arena| {
            let silent: Vec<_> = (0..64).map(|_| arena.sidecar()?.another()).collect::<Result<_, String>>()?;
            arena.all_is_well()?;
            Ok(format!("{} of them, and the neighbour is answered", silent.len()))
        })
        .over_socket(),
        play("a client that leaves in the middle of a cell", Wall::Contained, |arena| {
            let before = arena.client()?.call("server.info", &json!({}))?["sessions"].clone();
            let mut client = arena.sidecar()?.another()?;
            let session =
                client.call("session.create", &json!({}))?["session_id"].as_str().unwrap_or_default().to_owned();
            client.send("cell.execute", &cell(&session, "while True: pass", Duration::from_secs(60)))?;
            drop(client);
            for _ in 0..300 {
                if arena.client()?.call("server.info", &json!({}))?["sessions"] == before {
                    return Ok("its session is closed".into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err("its session lives on".into())
        })
        .over_socket(),
        play("an answer instead of a request", Wall::Answered, |arena| {
            arena.client()?.write(b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"session_id\":\"x\"}}\n")?;
            arena.all_is_well()?;
            Ok("goes on".into())
        }),
        play("cancelling what is not there", Wall::Answered, |arena| {
            arena
                .client()?
                .write(b"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":987654321}}\n")?;
            arena
                .client()?
                .write(b"{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":null}}\n")?;
            arena.all_is_well()?;
            Ok("ignored".into())
        }),
    ]
}

/// Sends a line on the connection of the sessions; it must be answered with one of these codes, and the connection go on.
fn line(arena: &mut Arena, bytes: &[u8], codes: &[i64]) -> Result<String, String> {
    let client = arena.client()?;
    client.write(bytes)?;
    let answer = client.stray()?;
    // A batch is answered by an array.
    let answer = answer.get(0).unwrap_or(&answer);
    let code = answer["error"]["code"].as_i64().unwrap_or_default();
    if !codes.contains(&code) {
        return Err(answer.to_string().chars().take(200).collect());
    }
    arena.all_is_well()?;
    Ok(code.to_string())
}

fn refused(arena: &mut Arena, method: &str, params: &Value, code: i64) -> Result<String, String> {
    let client = arena.client()?;
    let id = client.send(method, params)?;
    let answer = client.answer(id)?;
    if answer["error"]["code"] != code {
        // A session that should not have been opened must not stay.
        if let Some(session) = answer["result"]["session_id"].as_str() {
            let _ = client.call("session.close", &json!({"session_id": session}));
        }
        return Err(answer.to_string().chars().take(200).collect());
    }
    let kind = answer["error"]["data"]["kind"].as_str().unwrap_or("");
    Ok(format!("{code} {kind}").trim_end().to_owned())
}
