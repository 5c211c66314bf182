//! The methods of `protocol.md`, one registration each: parse, ask the session, answer.

use jsonrpsee::{Extensions, Methods, RpcModule, types::Params};

use super::{
    Server,
    connection::Connection,
    dispatch::{Cancelled, parse},
};
use crate::{
    error::Error,
    posture::Posture,
    protocol::{
        CellResult, Closed, CreateParams, ExecuteParams, Interrupted, NoParams, PROTOCOL_VERSION, RuntimeInfo,
        ServerInfo, SessionInfo, SessionLimits, SessionList, SessionParams,
    },
    session::Cell,
    units::{ByteSize, Span},
};

/// All methods.
pub(super) fn methods() -> Methods {
    let mut module = RpcModule::new(());
    macro_rules! register {
        ($($name:literal => $method:path),* $(,)?) => {
            $(module
                .register_async_method($name, |params, _, extensions| async move { $method(Call::new(params, &extensions)).await })
                .expect("method names are distinct");)*
        };
    }
    register! {
        "initialize" => info,
        "ping" => ping,
        "server.info" => info,
        "shutdown" => shutdown,
        "session.create" => create,
        "session.get" => get,
        "session.list" => list,
        "session.restart" => restart,
        "session.close" => close,
        "session.posture" => posture,
        "cell.execute" => execute,
        "cell.interrupt" => interrupt,
    }
    module.into()
}

/// One request and its surroundings.
struct Call {
    params: Params<'static>,
    server: Server,
    connection: Connection,
    cancelled: Cancelled,
}

impl Call {
    fn new(params: Params<'static>, extensions: &Extensions) -> Self {
        fn find<T: Clone + Send + Sync + 'static>(extensions: &Extensions) -> T {
            extensions.get::<T>().expect("dispatch puts it there").clone()
        }
        Self { params, server: find(extensions), connection: find(extensions), cancelled: find(extensions) }
    }
}

async fn ping(call: Call) -> Result<&'static str, Error> {
    parse::<NoParams>(&call.params).map(|NoParams {}| "pong")
}

async fn info(call: Call) -> Result<ServerInfo, Error> {
    let NoParams {} = parse(&call.params)?;
    let runtimes = call.server.runtimes.iter().map(|runtime| RuntimeInfo {
        name: runtime.name.clone(),
        aliases: runtime.aliases.clone(),
        image: runtime.image.clone(),
    });
    Ok(ServerInfo {
        name: "cellblock",
        version: env!("CARGO_PKG_VERSION"),
        protocol: PROTOCOL_VERSION,
        engine: call.server.registry.engine().info(),
        runtimes: runtimes.collect(),
        limits: call.server.config.server_limits(),
        sessions: call.server.registry.len(),
    })
}

async fn shutdown(call: Call) -> Result<Closed, Error> {
    let NoParams {} = parse(&call.params)?;
    call.server.shutdown.cancel();
    Ok(Closed { closed: true })
}

async fn create(call: Call) -> Result<SessionInfo, Error> {
    let params: CreateParams = parse(&call.params)?;
    let config = &call.server.config;
    let wanted = params.runtime.as_deref().unwrap_or("python");
    let runtime = call.server.runtimes.find(wanted)?.clone();
    let limits = SessionLimits {
        timeout: timeout(&call.server, params.timeout.unwrap_or(config.timeout))?,
        max_output: max_output(&call.server, params.max_output.unwrap_or(config.max_output))?,
    };
    let session = call.server.registry.open(runtime, limits)?;
    call.connection.insert(session.clone());
    let ready = tokio::select! {
        ready = session.ready() => ready.map(|_| ()),
        () = call.cancelled.0.cancelled() => Err(Error::Cancelled),
    };
    match ready {
        Ok(()) => Ok(session.info()),
        Err(error) => {
            let _ = call.connection.remove(session.id());
            session.close().await;
            Err(error)
        }
    }
}

async fn get(call: Call) -> Result<SessionInfo, Error> {
    let params: SessionParams = parse(&call.params)?;
    Ok(call.connection.session(&params.session_id)?.info())
}

async fn list(call: Call) -> Result<SessionList, Error> {
    let NoParams {} = parse(&call.params)?;
    Ok(SessionList { sessions: call.connection.all().iter().map(crate::session::Session::info).collect() })
}

async fn restart(call: Call) -> Result<SessionInfo, Error> {
    let params: SessionParams = parse(&call.params)?;
    let session = call.connection.session(&params.session_id)?;
    session.restart().await?;
    Ok(session.info())
}

async fn close(call: Call) -> Result<Closed, Error> {
    let params: SessionParams = parse(&call.params)?;
    call.connection.remove(&params.session_id)?.close().await;
    Ok(Closed { closed: true })
}

async fn posture(call: Call) -> Result<Posture, Error> {
    let params: SessionParams = parse(&call.params)?;
    let posture = call.connection.session(&params.session_id)?.ready().await?;
    Ok((*posture).clone())
}

async fn execute(call: Call) -> Result<CellResult, Error> {
    let params: ExecuteParams = parse(&call.params)?;
    let session = call.connection.session(&params.session_id)?;
    let limits = session.limits();
    let wanted = Cell {
        code: params.code,
        timeout: timeout(&call.server, params.timeout.unwrap_or(limits.timeout))?.0,
        max_output: usize::try_from(max_output(&call.server, params.max_output.unwrap_or(limits.max_output))?.0)
            .unwrap_or(usize::MAX),
        live: None,
    };
    let mut pending = session.execute(wanted)?;
    tokio::select! {
        answer = pending.answer() => answer,
        () = call.cancelled.0.cancelled() => {
            pending.cancel().await;
            pending.answer().await
        }
    }
}

async fn interrupt(call: Call) -> Result<Interrupted, Error> {
    let params: SessionParams = parse(&call.params)?;
    let interrupted = call.connection.session(&params.session_id)?.interrupt().await?;
    Ok(Interrupted { interrupted })
}

fn timeout(server: &Server, timeout: Span) -> Result<Span, Error> {
    let max = server.config.max_timeout;
    if timeout.0.is_zero() || timeout > max {
        return Err(Error::Params(format!("`timeout` is {timeout}; it must be over 0s and at most {max}")));
    }
    Ok(timeout)
}

fn max_output(server: &Server, size: ByteSize) -> Result<ByteSize, Error> {
    let max = server.config.max_output_limit;
    if size > max {
        return Err(Error::Params(format!("`max_output` is {size}; it must be at most {max}")));
    }
    Ok(size)
}
