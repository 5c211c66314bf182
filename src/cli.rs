//! The command line: arguments and environment in, an exit code out.
//!
//! With `main`, the only place that reads the environment. It builds the layers and starts them; it decides nothing.

mod flags;
mod image;
mod run;
mod serve;

use std::{io::Write as _, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};
use figment::value::Dict;

use crate::{
    config::{Config, ConfigError, Layer, LogFormat, Settings},
    engine::{
        EngineError, Instance, InstanceError,
        choice::EngineConfig,
        docker::WEAK_RUNTIME,
        runsc::launcher,
        seccomp::{Profile, ProfileError},
    },
    image::Store,
    protocol::Isolation,
    rpc::listen::SocketError,
    runtime::{Runtimes, UnknownRuntime},
    session::Registry,
};

/// The profile that ships with us.
const DEFAULT_SECCOMP: &str = include_str!("../seccomp/default.json");
/// The prefix of our environment variables.
const ENV_PREFIX: &str = "CELLBLOCK_";

/// Runs untrusted code in notebook-style cells, one hardened gVisor container per session.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "Each option has an environment variable (--max-line: CELLBLOCK_MAX_LINE) and a key of the configuration file (max_line).\nPrecedence: options, environment, file, defaults. `cellblock config` shows the result."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Configuration file (TOML); also `CELLBLOCK_CONFIG`
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: flags::Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve JSON-RPC 2.0, one message a line, on standard input and output or on a Unix socket
    Serve,
    /// Run one file in a fresh sandbox; its outcome is the exit status
    Run(run::RunArgs),
    /// Bring, list and remove the images of engines that have no daemon
    Image(image::ImageArgs),
    /// Print the effective settings and where each comes from
    Config,
}

/// Why the program ends without having done its job. Each text says what to do next.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot read `{0}`: {1}")]
    File(PathBuf, std::io::Error),
    #[error("cannot read `{0}`: {1}")]
    Toml(PathBuf, Box<toml::de::Error>),
    #[error("`{0}` is not a seccomp profile: {1}")]
    Seccomp(String, ProfileError),
    #[error("cannot start a program: {0}")]
    Launch(std::io::Error),
    #[error("`{0}` is not a log level or filter; use `error`, `warn`, `info`, `debug` or `trace`")]
    LogLevel(String),
    #[error("ENABLE_SANDBOX is `{0}`; it must be `true` or `false`")]
    EnableSandbox(String),
    #[error("`{0}` has no ending that names a runtime\nhint: name one with `--language`")]
    NoLanguage(PathBuf),
    #[error(transparent)]
    Runtime(#[from] UnknownRuntime),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    #[error(transparent)]
    Credentials(#[from] image::CredentialsError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Session(#[from] crate::error::Error),
    #[error("cannot use standard input or output: {0}")]
    Stdio(std::io::Error),
}

impl Failure {
    /// As in sysexits.h: 78 for settings, 66 for input, 69 for a service that is not there.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Toml(..) | Self::Seccomp(..) | Self::LogLevel(_) | Self::EnableSandbox(_) => 78,
            Self::File(..) | Self::NoLanguage(_) | Self::Runtime(_) | Self::Credentials(_) => 66,
            Self::Instance(_) | Self::Engine(_) | Self::Socket(_) | Self::Session(_) => 69,
            Self::Image(error) => image::exit_code(error),
            Self::Stdio(_) | Self::Launch(_) => 74,
        }
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Not for people, and on the way of every sandbox: neither in the help nor parsed by it.
    let outcome = if arguments.next().is_some_and(|command| command == launcher::COMMAND) {
        Err(Failure::Launch(launcher::become_program(arguments)))
    } else {
        execute(Cli::parse())
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "cellblock: error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn execute(cli: Cli) -> Result<u8, Failure> {
    let settings = settings(&cli)?;
    log_to_stderr(&settings.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Stdio)?;
    let code = match cli.command {
        Command::Serve => runtime.block_on(serve::serve(settings.config)),
        Command::Run(args) => runtime.block_on(run::run(settings.config, args)),
        Command::Image(args) => runtime.block_on(image::image(&settings.config, args)),
        Command::Config => {
            std::io::stdout().write_all(settings.describe().as_bytes()).map(|()| 0).map_err(Failure::Stdio)
        }
    };
    // A blocked read of standard input cannot be cancelled and must not keep us.
    runtime.shutdown_background();
    code
}

/// Joins flags, environment and file.
fn settings(cli: &Cli) -> Result<Settings, Failure> {
    let variables: Vec<(String, String)> = std::env::vars().collect();
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let mut layers = Vec::new();
    if let Some(path) = cli.config.clone().or_else(|| variable("CELLBLOCK_CONFIG").map(PathBuf::from)) {
        let text = std::fs::read_to_string(&path).map_err(|error| Failure::File(path.clone(), error))?;
        let values: Dict = toml::from_str(&text).map_err(|error| Failure::Toml(path.clone(), Box::new(error)))?;
        layers.push(Layer { name: path.display().to_string(), values });
    }
    // The name that RAGFlow's users know for the weaker isolation.
    if let Some(text) = variable("ENABLE_SANDBOX") {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => {}
            "false" | "0" | "no" | "off" => {
                let values = Dict::from([("runtime".to_owned(), WEAK_RUNTIME.into())]);
                layers.push(Layer { name: "ENABLE_SANDBOX".to_owned(), values });
            }
            _ => return Err(Failure::EnableSandbox(text)),
        }
    }
    for (name, value) in &variables {
        if let Some(key) = name.strip_prefix(ENV_PREFIX).filter(|key| *key != "CONFIG") {
            let value = value.parse::<figment::value::Value>().unwrap_or_else(|never| match never {});
            layers.push(Layer { name: name.clone(), values: Dict::from([(key.to_lowercase(), value)]) });
        }
    }
    layers.extend(cli.flags.layers());
    // SAFETY of the default: only root may write /run, others have a folder of their own.
    let state_dir = match variable("XDG_RUNTIME_DIR") {
        Some(folder) if !rustix::process::geteuid().is_root() => PathBuf::from(folder).join("cellblock"),
        _ if rustix::process::geteuid().is_root() => "/run/cellblock".into(),
        _ => std::env::temp_dir().join(format!("cellblock-{}", rustix::process::geteuid().as_raw())),
    };
    let home = || std::env::home_dir().unwrap_or_else(|| state_dir.clone());
    let image_store = match variable("XDG_DATA_HOME") {
        _ if rustix::process::geteuid().is_root() => "/var/lib/cellblock".into(),
        Some(folder) => PathBuf::from(folder).join("cellblock"),
        None => home().join(".local/share/cellblock"),
    };
    Ok(Settings::resolve(state_dir, image_store, layers)?)
}

fn log_to_stderr(config: &Config) -> Result<(), Failure> {
    let filter = config
        .log_level
        .parse::<tracing_subscriber::EnvFilter>()
        .map_err(|_| Failure::LogLevel(config.log_level.clone()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Connects the engine, removes what dead supervisors left, and makes the registry.
async fn start(config: &Config) -> Result<(Arc<Registry>, Runtimes), Failure> {
    let runtimes = Runtimes::builtin().with_images(config.images.iter())?;
    let seccomp = match config.seccomp.as_str() {
        "default" => DEFAULT_SECCOMP.to_owned(),
        path => std::fs::read_to_string(path).map_err(|error| Failure::File(path.into(), error))?,
    };
    let seccomp = Profile::parse(&seccomp).map_err(|error| Failure::Seccomp(config.seccomp.clone(), error))?;
    let engine = EngineConfig {
        choice: config.engine,
        docker_socket: config.docker_socket.display().to_string(),
        runtime: config.runtime.clone(),
        runsc: config.runsc.clone(),
        search: std::env::var_os("PATH").unwrap_or_default(),
        platform: config.platform,
        seccomp,
    };
    let store = Store::open(&config.image_store)?;
    let engine = engine.connect(store, Instance::claim(&config.state_dir)?).await?;
    if engine.info().isolation != Isolation::Gvisor {
        tracing::warn!(runtime = %config.runtime, "NOT in gVisor: user code shares the machine's kernel, as the settings ask");
    }
    let removed = engine.reap().await?;
    if removed > 0 {
        tracing::info!(removed, "removed sandboxes of dead supervisors");
    }
    Ok((Arc::new(Registry::new(engine, config.policy())), runtimes))
}
