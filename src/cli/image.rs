//! `cellblock image pull | import | list | rm`: the image store by hand.

mod credentials;
mod progress;

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};

pub(super) use self::credentials::CredentialsError;
use super::Failure;
use crate::{
    config::Config,
    image::{ImageError, ImageSummary, Limits, Login, Progress, PullOptions, Reference, Source, Store},
    units::ByteSize,
};

#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Bring an image from its registry; an interrupted pull is continued
    Pull {
        /// Such as `python:3.13-slim` or `registry.example/team/image:tag`
        reference: String,
        /// User of the registry; else what `docker login` has left is used
        #[arg(long, value_name = "NAME", requires = "password_stdin")]
        username: Option<String>,
        /// Read the password or access token from standard input
        #[arg(long, requires = "username")]
        password_stdin: bool,
        /// HTTP without TLS, as loopback registries are always spoken to
        #[arg(long)]
        plain_http: bool,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// Take images from an archive: `docker save cellblock/python | cellblock image import -`
    Import {
        /// A `docker save` or OCI archive, compressed or not, an OCI layout folder, or `-` for standard input
        archive: PathBuf,
        /// The name for the archive's one image, instead of what it says
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        bounds: Bounds,
    },
    /// List the names, with the size of all their files
    #[command(visible_alias = "ls")]
    List {
        /// One JSON array
        #[arg(long)]
        json: bool,
    },
    /// Take names away; an image without a name goes when no sandbox uses it any more
    #[command(visible_alias = "remove")]
    Rm {
        /// The names
        #[arg(required = true)]
        references: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Bounds {
    /// What all files of the image may take
    #[arg(long, value_name = "SIZE", default_value = "16g")]
    max_size: ByteSize,
}

/// As in sysexits.h: 65 for content, 66 for input, 69 for a registry, 77 for permission, 78 for settings.
pub(super) fn exit_code(error: &ImageError) -> u8 {
    match error {
        ImageError::Reference(_) | ImageError::NotFound { .. } | ImageError::NoSuchImage { .. } => 66,
        ImageError::Archive { .. }
        | ImageError::Manifest { .. }
        | ImageError::Platform { .. }
        | ImageError::Digest { .. }
        | ImageError::Layer { .. } => 65,
        ImageError::Registry { .. } => 69,
        ImageError::Io { .. } => 74,
        ImageError::Unauthorized { .. } => 77,
        ImageError::Folder { .. } => 78,
    }
}

pub(super) async fn image(config: &Config, args: ImageArgs) -> Result<u8, Failure> {
    let store = Store::open(&config.image_store)?;
    match args.command {
        ImageCommand::Pull { reference, username, plain_http, bounds, .. } => {
            let name: Reference = reference.parse().map_err(ImageError::from)?;
            let login = match username {
                Some(username) => Login::Password { username, password: credentials::from_stdin()? },
                None => credentials::from_docker(name.registry())?,
            };
            let store = store.with_limits(bounds.limits());
            let progress = progress::reporter(&name.familiar());
            let pulled = store.pull(&reference, &PullOptions { login, plain_http }, progress.clone()).await;
            progress.finish();
            print(&[pulled?])
        }
        ImageCommand::Import { archive, name, bounds } => {
            let source = if archive == Path::new("-") {
                Source::Stream(Box::new(std::io::stdin()))
            } else {
                Source::Path(archive.clone())
            };
            let store = store.with_limits(bounds.limits());
            let progress = progress::reporter(&archive.display().to_string());
            let shared: Arc<dyn Progress> = progress.clone();
            let imported = store.import(source, name.as_deref(), shared).await;
            progress.finish();
            print(&imported?)
        }
        ImageCommand::List { json } => {
            store.collect()?;
            list(&store.list()?, json)
        }
        ImageCommand::Rm { references } => {
            for reference in references {
                store.remove(&reference)?;
            }
            Ok(0)
        }
    }
}

impl Bounds {
    fn limits(&self) -> Limits {
        let bytes = self.max_size.0;
        let default = Limits::default();
        // One file may be as large a part of a raised bound as it is of the default.
        Limits { bytes, file: default.file.max(bytes / 2).min(bytes), ..default }
    }
}

/// What came in, one line a name for scripts.
fn print(summaries: &[ImageSummary]) -> Result<u8, Failure> {
    let mut stdout = std::io::stdout();
    for one in summaries {
        writeln!(stdout, "{} {}", one.reference, one.digest).map_err(Failure::Stdio)?;
    }
    Ok(0)
}

fn list(summaries: &[ImageSummary], json: bool) -> Result<u8, Failure> {
    let mut text =
        if json { serde_json::to_string(summaries).expect("plain texts and numbers") } else { table(summaries) };
    if json {
        text.push('\n');
    }
    std::io::stdout().write_all(text.as_bytes()).map(|()| 0).map_err(Failure::Stdio)
}

fn table(summaries: &[ImageSummary]) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let rows = summaries.iter().map(|one| {
        let digest = one.digest.trim_start_matches("sha256:").chars().take(12).collect();
        [one.reference.clone(), digest, indicatif::HumanBytes(one.size).to_string(), age(now.saturating_sub(one.added))]
    });
    let header = ["NAME", "DIGEST", "SIZE", "AGE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[String; 4]| {
        format!(
            "{:<a$}  {:<b$}  {:>c$}  {}\n",
            row[0],
            row[1],
            row[2],
            row[3],
            a = widths[0],
            b = widths[1],
            c = widths[2]
        )
    };
    rows.iter().map(line).collect()
}

/// The largest unit of an age, as tables of images have it.
fn age(seconds: u64) -> String {
    let text = indicatif::HumanDuration(Duration::from_secs(seconds)).to_string();
    if seconds == 0 { "just now".to_owned() } else { format!("{text} ago") }
}

/// Whether a person watches.
fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}
