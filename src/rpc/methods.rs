//! The methods of `protocol.md`, one registration each: parse, ask the session, answer.

mod cell;
mod file;
mod session;

use jsonrpsee::{Extensions, Methods, RpcModule, types::Params};

use super::{
    Server,
    connection::Connection,
    dispatch::{Cancelled, parse},
};
use crate::{
    error::Error,
    protocol::{Closed, NoParams, PROTOCOL_VERSION, RuntimeInfo, ServerInfo},
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
        "session.create" => session::create,
        "session.attach" => session::attach,
        "session.get" => session::get,
        "session.list" => session::list,
        "session.restart" => session::restart,
        "session.close" => session::close,
        "session.posture" => session::posture,
        "cell.execute" => cell::execute,
        "cell.wait" => cell::wait,
        "cell.interrupt" => cell::interrupt,
        "file.write" => file::write,
        "file.read" => file::read,
        "file.list" => file::list,
        "file.delete" => file::delete,
        "run" => cell::run,
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
