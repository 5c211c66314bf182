//! Images from a registry: which manifest, then its layers, each continued where an interrupted pull left it.
//!
//! The only module that names the registry's crates. A manifest is fetched here and not by `oci-client`, which reads
//! any length of it into memory.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use oci_client::{
    Client, RegistryOperation,
    client::{BlobResponse, ClientConfig, ClientProtocol, LayerDescriptor},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use oci_spec::image::{Descriptor, ImageManifest};
use reqwest::{StatusCode, header::ACCEPT};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
};

use super::{
    Event, ImageError, ImageSummary, Progress, Reference, Store, Version,
    archive::blocking,
    decompress,
    manifest::{self, Configuration, Document, LONGEST_DOCUMENT, MANIFEST_TYPES},
    store::Incoming,
    unpack::Layer,
};

/// Layers fetched at once.
const AT_ONCE: usize = 3;
/// How often one layer is tried again after the connection broke, with pauses of [`PAUSE`], twice that, and so on.
const RETRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(20);
const USER_AGENT: &str = concat!("cellblock/", env!("CARGO_PKG_VERSION"));

/// How to reach a registry.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Who we are.
    pub login: Login,
    /// HTTP without TLS, as loopback registries are always spoken to.
    pub plain_http: bool,
}

/// Who we are to a registry.
#[derive(Clone, Default)]
pub enum Login {
    /// Nobody.
    #[default]
    Anonymous,
    /// A user.
    Password {
        /// The name.
        username: String,
        /// The password or access token.
        password: String,
    },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Password { username, .. } => f.debug_tuple("Password").field(username).finish(),
        }
    }
}

impl Store {
    /// Brings an image from its registry, or only its name when the content is there.
    ///
    /// Pulls of one image at the same time, by other processes too, wait for the first; an interrupted one is continued.
    ///
    /// # Errors
    /// When the registry cannot be reached, wants other credentials or has no such image, when content is not what its
    /// digest says, and when the image is refused for what is in it.
    pub async fn pull(
        &self,
        reference: &str,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageSummary, ImageError> {
        let name: Reference = reference.parse()?;
        self.collect()?;
        let registry = Registry::connect(&name, options).await?;
        let (manifest, digest) = registry.manifest().await?;
        let document = registry.configuration(&manifest).await?;
        let configuration = Configuration::parse(&document)?;
        let incoming = Incoming { names: vec![name], manifest: Some(digest), configuration, document };
        let _work = self.work("image", &incoming.configuration.digest, Some(&*progress)).await?;
        let named = match self.attach(&incoming)? {
            Some(named) => named,
            None => self.fetch_and_install(&registry, &manifest, incoming, progress).await?,
        };
        named.into_iter().next().ok_or_else(|| registry.failed("the image got no name".to_owned()))
    }

    async fn fetch_and_install(
        &self,
        registry: &Registry,
        manifest: &ImageManifest,
        incoming: Incoming,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<ImageSummary>, ImageError> {
        let declared = manifest.layers().iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size()));
        if declared > self.limits.bytes {
            let why = format!(
                "its layers are {declared} bytes long, and {} are the most; if you trust it, allow more with `--max-size`",
                self.limits.bytes
            );
            return Err(ImageError::Manifest { what: "manifest", why });
        }
        let fetches = manifest.layers().iter().map(|layer| registry.layer(self, layer, &*progress));
        let layers: Vec<Layer> = futures_util::stream::iter(fetches).buffered(AT_ONCE).try_collect().await?;
        let store = self.clone();
        let installed = blocking(move || store.install(&incoming, layers, &progress)).await;
        // Also after a failure: what was not good enough to unpack is no start for the next try.
        for layer in manifest.layers() {
            let path = self.blob(&manifest::sha256(layer)?)?;
            let _ = std::fs::remove_file(path);
        }
        installed
    }
}

/// One image of a registry.
struct Registry {
    reference: Reference,
    /// The same, as the crate has it.
    name: oci_client::Reference,
    client: Client,
    http: reqwest::Client,
    login: Login,
    token: Option<String>,
    scheme: &'static str,
}

/// Why a download stopped.
enum Stop {
    /// The connection broke: what has come so far is good.
    Again(String),
    Final(ImageError),
}

impl Registry {
    async fn connect(reference: &Reference, options: &PullOptions) -> Result<Self, ImageError> {
        // A second call finds the first one's choice in place, which is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (registry, repository) = (reference.registry().to_owned(), reference.repository().to_owned());
        let name = match reference.version() {
            Version::Tag(tag) => oci_client::Reference::with_tag(registry, repository, tag.clone()),
            Version::Digest(digest) => oci_client::Reference::with_digest(registry, repository, digest.clone()),
        };
        let plain = options.plain_http || is_loopback(name.resolve_registry());
        let failed = |error: &dyn std::error::Error| ImageError::Registry {
            registry: reference.registry().to_owned(),
            why: chain(error),
        };
        let client = Client::try_from(ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        })
        .map_err(|error| failed(&error))?;
        let http = reqwest::Client::builder().read_timeout(SILENCE).connect_timeout(CONNECT).user_agent(USER_AGENT);
        let http = http.build().map_err(|error| failed(&error))?;
        let mut registry = Self {
            reference: reference.clone(),
            name,
            client,
            http,
            login: options.login.clone(),
            token: None,
            scheme: if plain { "http" } else { "https" },
        };
        let auth = match &registry.login {
            Login::Anonymous => RegistryAuth::Anonymous,
            Login::Password { username, password } => RegistryAuth::Basic(username.clone(), password.clone()),
        };
        let token = registry.client.auth(&registry.name, &auth, RegistryOperation::Pull).await;
        registry.token = token.map_err(|error| registry.explain(&error))?;
        Ok(registry)
    }

    /// The manifest for this machine, and the digest that the name stands for.
    async fn manifest(&self) -> Result<(ImageManifest, String), ImageError> {
        let wanted = match self.reference.version() {
            Version::Tag(tag) => tag,
            Version::Digest(digest) => digest,
        };
        let bytes = self.document(wanted).await?;
        let digest = decompress::digest(&bytes);
        if let Version::Digest(expected) = self.reference.version() {
            manifest::verify("the manifest", &bytes, expected)?;
        }
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => Ok((*manifest, digest)),
            Document::Index(index) => {
                let expected = manifest::sha256(manifest::choose(index.manifests())?)?;
                let bytes = self.document(&expected).await?;
                manifest::verify("the manifest", &bytes, &expected)?;
                match Document::parse(&bytes)? {
                    Document::Manifest(manifest) => Ok((*manifest, digest)),
                    Document::Index(_) => Err(self.failed("its index leads to another index".to_owned())),
                }
            }
        }
    }

    /// A manifest or an index by tag or digest.
    async fn document(&self, version: &str) -> Result<Vec<u8>, ImageError> {
        let (host, repository) = (self.name.resolve_registry(), self.name.repository());
        let url = format!("{}://{host}/v2/{repository}/manifests/{version}", self.scheme);
        let mut request = self.http.get(url).header(ACCEPT, MANIFEST_TYPES);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        } else if let Login::Password { username, password } = &self.login {
            request = request.basic_auth(username, Some(password));
        }
        let mut response = request.send().await.map_err(|error| self.failed(chain(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.unauthorized(response.status().to_string()));
            }
            StatusCode::NOT_FOUND => {
                let registry = self.reference.registry().to_owned();
                return Err(ImageError::NoSuchImage { registry, reference: self.reference.familiar() });
            }
            status => return Err(self.failed(format!("asked for the manifest, it answers {status}"))),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(chain(&error)))? {
            if (bytes.len() + chunk.len()) as u64 > LONGEST_DOCUMENT {
                let why = format!("it is longer than {LONGEST_DOCUMENT} bytes");
                return Err(ImageError::Manifest { what: "manifest", why });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn configuration(&self, manifest: &ImageManifest) -> Result<Vec<u8>, ImageError> {
        let descriptor = manifest.config();
        let digest = manifest::sha256(descriptor)?;
        let too_long = || ImageError::Manifest {
            what: "configuration",
            why: format!("it is longer than {LONGEST_DOCUMENT} bytes"),
        };
        if descriptor.size() > LONGEST_DOCUMENT {
            return Err(too_long());
        }
        let blob = LayerDescriptor { digest: &digest, urls: &None };
        let stream = self.client.pull_blob_stream(&self.name, &blob).await.map_err(|error| self.explain(&error))?;
        let mut stream = stream.stream;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.try_next().await.map_err(|error| self.failed(chain(&error)))? {
            if (bytes.len() + chunk.len()) as u64 > LONGEST_DOCUMENT {
                return Err(too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        manifest::verify("the configuration", &bytes, &digest)?;
        Ok(bytes)
    }

    /// A layer as an open file: whoever removes it from the store does not take it from us.
    async fn layer(
        &self,
        store: &Store,
        descriptor: &Descriptor,
        progress: &dyn Progress,
    ) -> Result<Layer, ImageError> {
        let digest = manifest::sha256(descriptor)?;
        let size = descriptor.size();
        let path = store.blob(&digest)?;
        let _work = store.work("blob", &digest, None).await?;
        if !path.exists() {
            let part = path.with_extension("part");
            self.download(&part, &digest, size, progress).await?;
            std::fs::rename(&part, &path).map_err(ImageError::io(part))?;
        }
        let file = std::fs::File::open(&path).map_err(ImageError::io(path))?;
        progress.report(Event::Fetching { layer: &digest, bytes: size, total: size });
        Ok(Layer { content: Box::new(file), size, digest: None })
    }

    /// Completes a partial download and proves its content; removes what turns out to be wrong.
    async fn download(&self, part: &Path, digest: &str, size: u64, progress: &dyn Progress) -> Result<(), ImageError> {
        loop {
            let mut partial = Partial::open(part).await.map_err(ImageError::io(part))?;
            let resumed = partial.bytes > 0;
            let mut tries = 0;
            while let Err(stop) = self.fetch(&mut partial, digest, size, progress).await {
                match stop {
                    Stop::Again(why) if tries < RETRIES => {
                        tracing::info!(layer = digest, why, "the connection broke; going on from {}", partial.bytes);
                        tokio::time::sleep(PAUSE * 2_u32.pow(tries)).await;
                        tries += 1;
                    }
                    Stop::Again(why) => return Err(self.failed(why)),
                    Stop::Final(error) => return Err(error),
                }
            }
            let actual = decompress::hex(&partial.hash.finalize());
            if actual == digest {
                return Ok(());
            }
            std::fs::remove_file(part).map_err(ImageError::io(part))?;
            if !resumed {
                let what = format!("a layer from `{}`", self.reference.registry());
                return Err(ImageError::Digest { what, expected: digest.to_owned(), actual });
            }
            tracing::warn!(layer = digest, "what an earlier pull had left was broken; fetching all of it");
        }
    }

    /// Fetches what is missing of a layer.
    async fn fetch(&self, partial: &mut Partial, digest: &str, size: u64, progress: &dyn Progress) -> Result<(), Stop> {
        let write = |error: std::io::Error| Stop::Final(ImageError::io(digest)(error));
        if partial.bytes > size {
            partial.restart().await.map_err(write)?;
        }
        if partial.bytes == size {
            return Ok(());
        }
        // Foreign addresses of a layer are never followed: they would be anybody's choice.
        let blob = LayerDescriptor { digest, urls: &None };
        let response = self.client.pull_blob_stream_partial(&self.name, &blob, partial.bytes, None).await;
        let mut stream = match response {
            Ok(BlobResponse::Partial(stream)) => stream.stream,
            Ok(BlobResponse::Full(stream)) => {
                partial.restart().await.map_err(write)?;
                stream.stream
            }
            Err(error) => return Err(self.stop(&error)),
        };
        loop {
            let chunk = match stream.try_next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                // A full answer is checked by the crate as well, and its last word may be that the digest is wrong.
                Err(_) if partial.bytes == size => break,
                Err(error) => return Err(Stop::Again(chain(&error))),
            };
            if partial.bytes + chunk.len() as u64 > size {
                let why = format!("layer {digest} is longer than the {size} bytes that the manifest says");
                return Err(Stop::Final(self.failed(why)));
            }
            partial.append(&chunk).await.map_err(write)?;
            progress.report(Event::Fetching { layer: digest, bytes: partial.bytes, total: size });
        }
        partial.file.flush().await.map_err(write)?;
        if partial.bytes < size { Err(Stop::Again(format!("layer {digest} ended early"))) } else { Ok(()) }
    }

    fn stop(&self, error: &OciDistributionError) -> Stop {
        match error {
            OciDistributionError::RequestError(_)
            | OciDistributionError::IoError(_)
            | OciDistributionError::ServerError { code: 429 | 500.., .. } => Stop::Again(chain(error)),
            error => Stop::Final(self.explain(error)),
        }
    }

    fn explain(&self, error: &OciDistributionError) -> ImageError {
        match error {
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                self.unauthorized(error.to_string())
            }
            error => self.failed(chain(error)),
        }
    }

    fn unauthorized(&self, why: String) -> ImageError {
        let (registry, repository) = (self.reference.registry().to_owned(), self.reference.repository().to_owned());
        ImageError::Unauthorized { registry, repository, why }
    }

    fn failed(&self, why: String) -> ImageError {
        ImageError::Registry { registry: self.reference.registry().to_owned(), why }
    }
}

/// A download so far, and its hash.
struct Partial {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Partial {
    /// Reads what an earlier pull has left.
    async fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(path).await?;
        let mut partial = Self { file, hash: Sha256::new(), bytes: 0 };
        let mut piece = vec![0; 256 << 10];
        loop {
            let read = partial.file.read(&mut piece).await?;
            if read == 0 {
                return Ok(partial);
            }
            partial.hash.update(&piece[..read]);
            partial.bytes += read as u64;
        }
    }

    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0).await?;
        (self.hash, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }

    async fn append(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.file.write_all(chunk).await?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }
}

/// Whether a host can only be this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// An error with its causes, which libraries leave out of their texts.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
