//! The methods of sessions.

use super::{Call, parse};
use crate::{
    error::Error,
    posture::Posture,
    protocol::{
        Attached, CloseReason, Closed, CreateParams, NoParams, SessionInfo, SessionLimits, SessionList, SessionParams,
    },
    rpc::wanted::{self, Limits},
    session::{Opening, Session, files::FilePath},
};

pub(super) async fn create(call: Call) -> Result<SessionInfo, Error> {
    let params: CreateParams = parse(&call.params)?;
    let config = &call.server.config;
    let runtime = call.server.runtimes.find(params.runtime.as_deref().unwrap_or("python"))?.clone();
    let CreateParams { timeout, max_output, idle_ttl, memory, cpus, .. } = params;
    let limits = wanted::limits(config, &Limits { timeout, max_output, idle_ttl, memory, cpus })?;
    let files = wanted::files(params.files)?;
    let (env, name) = (wanted::env(params.env)?, wanted::label("name", params.name)?);
    let opening = Opening { runtime, limits, env, name, detach: detach(params.detach, limits)? };
    let session = call.server.registry.open(opening)?;
    // Held only when it is all there: until then its id is nobody's, and whoever fails here closes it.
    match prepare(&call, &session, files).await.and_then(|()| call.connection.hold(&session)) {
        Ok(()) => Ok(session.info()),
        Err(error) => {
            session.close(CloseReason::Closed).await;
            Err(error)
        }
    }
}

fn detach(detach: bool, limits: SessionLimits) -> Result<bool, Error> {
    if detach && limits.idle_ttl.0.is_zero() {
        let text = "`idle_ttl` is 0s; a session that outlives its connection must expire some time";
        return Err(Error::Params(text.to_owned()));
    }
    Ok(detach)
}

async fn prepare(call: &Call, session: &Session, files: Vec<(FilePath, Vec<u8>)>) -> Result<(), Error> {
    let ready = async {
        session.ready().await?;
        session.put(files, &call.cancelled.0).await
    };
    tokio::select! {
        ready = ready => ready,
        () = call.cancelled.0.cancelled() => Err(Error::Cancelled),
        () = call.connection.gone().cancelled() => Err(Error::ShuttingDown),
    }
}

pub(super) async fn attach(call: Call) -> Result<Attached, Error> {
    let params: SessionParams = parse(&call.params)?;
    let session = if let Ok(session) = call.connection.session(&params.session_id) {
        session
    } else {
        let session = call.server.registry.find(&params.session_id)?;
        if !session.detach() {
            return Err(Error::NoSession(params.session_id));
        }
        call.connection.hold(&session)?;
        session
    };
    let (running, last) = session.attach().await?;
    Ok(Attached { session: session.info(), running, last })
}

pub(super) async fn get(call: Call) -> Result<SessionInfo, Error> {
    let params: SessionParams = parse(&call.params)?;
    Ok(call.connection.session(&params.session_id)?.info())
}

pub(super) async fn list(call: Call) -> Result<SessionList, Error> {
    let NoParams {} = parse(&call.params)?;
    Ok(SessionList { sessions: call.connection.all().iter().map(Session::info).collect() })
}

pub(super) async fn restart(call: Call) -> Result<SessionInfo, Error> {
    let params: SessionParams = parse(&call.params)?;
    let session = call.connection.session(&params.session_id)?;
    session.restart().await?;
    Ok(session.info())
}

pub(super) async fn close(call: Call) -> Result<Closed, Error> {
    let params: SessionParams = parse(&call.params)?;
    call.connection.close(&params.session_id, CloseReason::Closed).await?;
    Ok(Closed { closed: true })
}

pub(super) async fn posture(call: Call) -> Result<Posture, Error> {
    let params: SessionParams = parse(&call.params)?;
    let posture = call.connection.session(&params.session_id)?.ready().await?;
    Ok((*posture).clone())
}
