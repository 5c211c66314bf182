//! The methods of cells.

use tokio::sync::mpsc;

use super::{Call, parse};
use crate::{
    error::Error,
    protocol::{CellResult, ExecuteParams, Interrupted, RunParams, RunResult, SessionParams, WaitParams},
    rpc::{
        stream::{self, SAID},
        wanted::{self, Limits},
    },
    session::{Cell, OneShot, Opening, Pending, Session},
};

pub(super) async fn execute(call: Call) -> Result<CellResult, Error> {
    let params: ExecuteParams = parse(&call.params)?;
    let session = call.connection.session(&params.session_id)?;
    let (config, limits) = (&call.server.config, session.limits());
    let timeout = wanted::timeout(config, params.timeout.unwrap_or(limits.timeout))?;
    let max_output = wanted::max_output(config, params.max_output.unwrap_or(limits.max_output))?;
    let max_output = usize::try_from(max_output.0).unwrap_or(usize::MAX);
    let key = wanted::label("idempotency_key", params.idempotency_key)?;
    let (live, said) = if params.stream { Some(mpsc::channel(SAID)) } else { None }.unzip();
    let wanted = Cell {
        stdin: params.stdin,
        artifacts: params.artifacts,
        key,
        live,
        ..Cell::new(params.code, timeout.0, max_output)
    };
    let pending = session.execute(wanted)?;
    let Some(said) = said else { return answer(&call, &session, pending).await };
    let passing = stream::pass_on(call.connection.outbox(), session.id(), max_output, said);
    let ((), answer) = tokio::join!(passing, answer(&call, &session, pending));
    answer
}

/// The answer of a session that goes with its connection; a detached one's cell goes on when the connection ends.
async fn answer(call: &Call, session: &Session, pending: Pending<CellResult>) -> Result<CellResult, Error> {
    let answer = pending.answer_or_cancel(&call.cancelled.0);
    if !session.detach() {
        return answer.await;
    }
    tokio::select! {
        answer = answer => answer,
        () = call.connection.gone().cancelled() => Err(Error::Detached),
    }
}

pub(super) async fn wait(call: Call) -> Result<CellResult, Error> {
    let params: WaitParams = parse(&call.params)?;
    let session = call.connection.session(&params.session_id)?;
    let pending = session.wait(params.cell_id)?;
    answer(&call, &session, pending).await
}

pub(super) async fn interrupt(call: Call) -> Result<Interrupted, Error> {
    let params: SessionParams = parse(&call.params)?;
    let interrupted = call.connection.session(&params.session_id)?.interrupt().await?;
    Ok(Interrupted { interrupted })
}

pub(super) async fn run(call: Call) -> Result<RunResult, Error> {
    let params: RunParams = parse(&call.params)?;
    let runtime = call.server.runtimes.find(params.runtime.as_deref().unwrap_or("python"))?.clone();
    let RunParams { timeout, max_output, memory, cpus, .. } = params;
    let limits = wanted::limits(&call.server.config, &Limits { timeout, max_output, idle_ttl: None, memory, cpus })?;
    let opening = Opening { env: wanted::env(params.env)?, ..Opening::new(runtime, limits) };
    let one = OneShot {
        opening,
        code: params.code,
        arguments: params.arguments,
        files: wanted::files(params.files)?,
        stdin: params.stdin,
        artifacts: params.artifacts,
    };
    tokio::select! {
        result = call.server.registry.run(one, &call.cancelled.0) => result,
        () = call.connection.gone().cancelled() => Err(Error::Abandoned),
    }
}
