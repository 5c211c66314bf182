//! Carries attacks out: keeps the sessions that harmless cases share, and throws away those that a case has spoilt.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    case::{Attack, Case, Place, meaning},
    client::Client,
    host::Host,
    naked::Naked,
    sidecar::Sidecar,
};

/// The longest that a neighbour may wait for a trivial cell while a bomb goes off: these machines have two cores, and
/// the suite is not alone on them.
const NEIGHBOUR_LIMIT: Duration = Duration::from_secs(5);
/// The timeout of cells that are not about time.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where the attacks run.
pub(crate) enum Ground {
    /// Sessions of a cellblock.
    Sidecar(Sidecar),
    /// Containers without a wall, to show what falls there.
    Naked(Naked),
}

/// What became of a case.
pub(crate) enum Outcome {
    Stood(String),
    Fell(String),
    NotRun(&'static str),
}

/// Two sessions of each runtime are enough: the attacker's and the neighbour's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Seat {
    Attacker,
    Neighbour,
}

/// The sessions at hand, on some ground.
pub(crate) struct Arena {
    ground: Ground,
    host: Option<Host>,
    limits: Value,
    sessions: HashMap<(&'static str, Seat), String>,
    /// Sessions with a fresh interpreter, which knows nothing yet.
    fresh: HashSet<String>,
    /// A session could not be opened, which is no answer to any attack.
    startless: bool,
}

impl Arena {
    /// On this ground; `host` when it is on this machine.
    pub(crate) fn new(mut ground: Ground, host: Option<Host>) -> Result<Self, String> {
        let limits = match &mut ground {
            Ground::Sidecar(sidecar) => {
                let mut info = sidecar.client().call("server.info", &json!({}))?;
                info["limits"]["memory_guard"] = info["engine"]["memory_guard"].take();
                info["limits"].take()
            }
            Ground::Naked(_) => json!({"memory": 256 << 20, "processes": 64, "disk": 32 << 20, "max_line": 16 << 20}),
        };
        let mut arena =
            Self { ground, host, limits, sessions: HashMap::new(), fresh: HashSet::new(), startless: false };
        // Nothing is proven by attacks that never began.
        arena.attacker()?;
        Ok(arena)
    }

    /// Carries one case out.
    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        let naked = matches!(self.ground, Ground::Naked(_));
        let connections = self.sidecar().is_ok_and(|sidecar| sidecar.socket().is_some());
        match case.place {
            Place::Host if self.host.is_none() => return Outcome::NotRun("needs the host"),
            Place::Socket if !connections => return Outcome::NotRun("needs a second connection"),
            Place::Walls if naked => return Outcome::NotRun("would reach what is not ours"),
            Place::Anywhere | Place::Host | Place::Socket | Place::Walls => {}
        }
        if naked && matches!(case.attack, Attack::Play(_) | Attack::Ending { .. }) {
            return Outcome::NotRun("a wall of the sidecar itself");
        }
        let done = match case.attack {
            Attack::Cell { code } => self.value(case.runtime, Seat::Attacker, code).map(|word| (word, String::new())),
            Attack::Pair { leave, look } => self.pair(case.runtime, leave, look).map(|word| (word, String::new())),
            Attack::Ending { code, timeout } => self.ending(case.runtime, code, timeout),
            Attack::Bomb { code, timeout } => self.bomb(case.runtime, code, timeout, !naked),
            Attack::Play(act) => return self.play(case, act),
        };
        // What an attack has reached may be in no state for the next one.
        let fell = !done.as_ref().is_ok_and(|(word, _)| case.is_right(word));
        if case.dirty || fell {
            self.forget(case.runtime, Seat::Attacker);
        }
        if fell {
            self.forget(case.runtime, Seat::Neighbour);
        }
        match done {
            Err(_) if std::mem::take(&mut self.startless) => Outcome::NotRun("no container could be started"),
            Ok((word, note)) if case.is_right(&word) => Outcome::Stood(format!("{word}{}{note}", meaning(&word))),
            Ok((word, note)) => Outcome::Fell(format!("{word}{note}")),
            Err(failure) => Outcome::Fell(failure),
        }
    }

    /// Whether the ground is a sidecar that still answers; asked at the end.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        match &mut self.ground {
            Ground::Sidecar(sidecar) => sidecar.client().call("ping", &json!({})).map(drop),
            Ground::Naked(_) => Ok(()),
        }
    }

    /// The connection that the sessions belong to.
    pub(crate) fn client(&mut self) -> Result<&mut Client, String> {
        Ok(self.sidecar()?.client())
    }

    /// The sidecar; plays run on no other ground.
    pub(crate) fn sidecar(&mut self) -> Result<&mut Sidecar, String> {
        match &mut self.ground {
            Ground::Sidecar(sidecar) => Ok(sidecar),
            Ground::Naked(_) => Err("there is no sidecar here".into()),
        }
    }

    /// What the host keeps from the sandboxes.
    pub(crate) fn host(&self) -> Result<&Host, String> {
        self.host.as_ref().ok_or_else(|| "not on the host".into())
    }

    /// A limit of the server.
    pub(crate) fn limit(&self, name: &str) -> usize {
        self.limits[name].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or_default()
    }

    /// The attacker's Python session, for plays.
    pub(crate) fn attacker(&mut self) -> Result<String, String> {
        self.session("python", Seat::Attacker)
    }

    /// The neighbour's Python session, for plays.
    pub(crate) fn neighbour(&mut self) -> Result<String, String> {
        self.session("python", Seat::Neighbour)
    }

    /// Runs a cell in the attacker's Python session and returns the whole result.
    pub(crate) fn attack(&mut self, code: &str, timeout: Duration) -> Result<Value, String> {
        let session = self.attacker()?;
        self.cell(&session, code, timeout)
    }

    /// Whether the neighbour and the sidecar still answer.
    pub(crate) fn all_is_well(&mut self) -> Result<(), String> {
        let neighbour = self.neighbour()?;
        let found = word(&self.cell(&neighbour, "6 * 7", TIMEOUT)?);
        if found == "42" { Ok(()) } else { Err(format!("the neighbour's 6 * 7 is {found}")) }
    }

    fn play(&mut self, case: &Case, act: fn(&mut Self) -> Result<String, String>) -> Outcome {
        let done = act(self);
        if case.dirty || done.is_err() {
            self.forget("python", Seat::Attacker);
        }
        match done {
            Ok(what) => Outcome::Stood(what),
            Err(what) => Outcome::Fell(what),
        }
    }

    fn value(&mut self, runtime: &'static str, seat: Seat, code: &str) -> Result<String, String> {
        let session = self.session(runtime, seat)?;
        self.cell(&session, code, TIMEOUT).map(|result| word(&result))
    }

    fn pair(&mut self, runtime: &'static str, leave: &str, look: &str) -> Result<String, String> {
        // Both are up before the first leaves anything: a later one could not see what earlier ones did.
        self.session(runtime, Seat::Neighbour)?;
        let left = self.value(runtime, Seat::Attacker, leave)?;
        if left != "left" {
            return Err(format!("could not leave anything: {left}"));
        }
        self.value(runtime, Seat::Neighbour, look)
    }

    fn ending(&mut self, runtime: &'static str, code: &str, timeout: Duration) -> Result<(String, String), String> {
        let session = self.session(runtime, Seat::Attacker)?;
        self.neighbour()?;
        let before = Instant::now();
        let result = self.cell(&session, code, timeout)?;
        let note = format!(" after {} ms", before.elapsed().as_millis());
        self.all_is_well()?;
        let next = word(&self.cell(&session, "6 * 7", TIMEOUT)?);
        if next != "42" {
            return Err(format!("the session's next cell is {next}"));
        }
        // A lost sandbox has been replaced already; closing the session would only start another.
        if result["state"] != "lost" {
            self.forget(runtime, Seat::Attacker);
        }
        Ok((how(&result), note))
    }

    fn bomb(
        &mut self,
        runtime: &'static str,
        code: &str,
        timeout: Duration,
        watched: bool,
    ) -> Result<(String, String), String> {
        let session = self.session(runtime, Seat::Attacker)?;
        if !watched {
            let result = self.cell(&session, code, timeout)?;
            return Ok((value_or_end(&result), String::new()));
        }
        let neighbour = self.neighbour()?;
        let client = self.client()?;
        let running = client.send("cell.execute", &cell(&session, code, timeout))?;
        let (mut waits, mut pings) = (Vec::new(), Vec::new());
        while waits.is_empty() || !client.answered(running) {
            let before = Instant::now();
            client.call("ping", &json!({}))?;
            pings.push(before.elapsed());
            let before = Instant::now();
            let answer = client.call("cell.execute", &cell(&neighbour, "6 * 7", TIMEOUT))?;
            waits.push(before.elapsed());
            if word(&answer) != "42" {
                return Err(format!("the neighbour's 6 * 7 is {answer}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut answer = client.answer(running)?;
        let result = answer["result"].take();
        if result.is_null() {
            return Err(answer.to_string());
        }
        waits.sort();
        let worst = waits.last().copied().unwrap_or_default();
        let ping = pings.into_iter().max().unwrap_or_default();
        let note = format!(
            "; neighbour p50 {:.1} ms, worst {:.1} ms of {}; ping at most {:.1} ms",
            milliseconds(waits[waits.len() / 2]),
            milliseconds(worst),
            waits.len(),
            milliseconds(ping)
        );
        if worst > NEIGHBOUR_LIMIT {
            return Err(format!("{}{note}: over {NEIGHBOUR_LIMIT:?}", value_or_end(&result)));
        }
        Ok((value_or_end(&result), note))
    }

    fn session(&mut self, runtime: &'static str, seat: Seat) -> Result<String, String> {
        if let Some(session) = self.sessions.get(&(runtime, seat)).cloned() {
            if self.fresh.remove(&session) {
                self.prepare(&session, runtime)?;
            }
            return Ok(session);
        }
        let session = match &mut self.ground {
            Ground::Sidecar(sidecar) => {
                let answer = sidecar.client().call("session.create", &json!({"runtime": runtime}))?;
                answer["session_id"].as_str().unwrap_or_default().to_owned()
            }
            Ground::Naked(naked) => naked.open(runtime).inspect_err(|_| self.startless = true)?,
        };
        self.prepare(&session, runtime)?;
        self.sessions.insert((runtime, seat), session.clone());
        Ok(session)
    }

    /// Gives a fresh interpreter what every attack starts from.
    fn prepare(&mut self, session: &str, runtime: &str) -> Result<(), String> {
        let host = self.host.as_ref().map_or(Value::Null, Host::facts);
        let prelude = if runtime == "python" {
            // JSON text inside a Python literal: `null` is no Python.
            let facts = Value::String(json!([host, self.limits]).to_string());
            format!("{}\nHOST, LIMITS = json.loads({facts})\n'ready'", include_str!("prelude.py"))
        } else {
            format!("{}\nconst [HOST, LIMITS] = {};\n'ready'", include_str!("prelude.js"), json!([host, self.limits]))
        };
        let ready = self.cell(session, &prelude, TIMEOUT)?;
        if word(&ready) == "ready" { Ok(()) } else { Err(format!("the prelude failed: {ready}")) }
    }

    fn cell(&mut self, session: &str, code: &str, timeout: Duration) -> Result<Value, String> {
        let result = match &mut self.ground {
            Ground::Sidecar(sidecar) => sidecar.client().call("cell.execute", &cell(session, code, timeout)),
            Ground::Naked(naked) => naked.cell(session, code, timeout),
        }?;
        if result["state"] == "lost" {
            self.fresh.insert(session.to_owned());
        }
        Ok(result)
    }

    fn forget(&mut self, runtime: &'static str, seat: Seat) {
        let Some(session) = self.sessions.remove(&(runtime, seat)) else { return };
        match &mut self.ground {
            // It may be gone already; then there is nothing to close.
            Ground::Sidecar(sidecar) => {
                let _ = sidecar.client().call("session.close", &json!({"session_id": session}));
            }
            Ground::Naked(naked) => naked.close(&session),
        }
    }
}

/// The parameters of a cell.
pub(crate) fn cell(session: &str, code: &str, timeout: Duration) -> Value {
    json!({"session_id": session, "code": code, "timeout": format!("{}ms", timeout.as_millis())})
}

/// How a cell ended, in one word.
pub(crate) fn how(result: &Value) -> String {
    ["status", "ended_by", "state"].map(|field| result[field].as_str().unwrap_or("?")).join("-")
}

/// A cell's value as one word: without quotes; an exception is its name and message.
pub(crate) fn word(result: &Value) -> String {
    match (result["result"]["data"]["text/plain"].as_str(), result["error"]["name"].as_str()) {
        (Some(value), _) => value.trim_matches(['\'', '"']).to_owned(),
        (None, Some(name)) => {
            format!("{name}: {} ({})", result["error"]["message"].as_str().unwrap_or(""), how(result))
        }
        (None, None) => how(result),
    }
}

fn value_or_end(result: &Value) -> String {
    if result["status"] == "ok" { word(result) } else { how(result) }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
