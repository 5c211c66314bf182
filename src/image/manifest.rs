//! What the documents of an image say: index, manifest, configuration. Pure; bounded by whoever reads them.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use serde::de::DeserializeOwned;

use super::{ImageConfig, ImageError, decompress, reference::sha256_hex};

/// The longest index, manifest or configuration in bytes: what registries accept.
pub(super) const LONGEST_DOCUMENT: u64 = 4 << 20;
/// The most layers, as Docker has it.
const MOST_LAYERS: usize = 127;

/// Media types to ask a registry for.
pub(super) const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index of such.
#[derive(Debug)]
pub(super) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// A configuration that fits this machine.
#[derive(Debug)]
pub(super) struct Configuration {
    /// Its own digest.
    pub(super) digest: String,
    /// The digests of the layers' contents, the lowest first.
    pub(super) diff_ids: Vec<String>,
    pub(super) config: ImageConfig,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(serde::Deserialize)]
        struct Shape {
            manifests: Option<serde::de::IgnoredAny>,
        }
        if parse::<Shape>("manifest", bytes)?.manifests.is_some() {
            return parse("index", bytes).map(|index| Self::Index(Box::new(index)));
        }
        let manifest: ImageManifest = parse("manifest", bytes)?;
        if manifest.layers().len() > MOST_LAYERS {
            let why = format!("it has {} layers, and {MOST_LAYERS} are the most", manifest.layers().len());
            return Err(ImageError::Manifest { what: "manifest", why });
        }
        Ok(Self::Manifest(Box::new(manifest)))
    }
}

impl Configuration {
    /// Reads a configuration and checks that it is for this machine.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let configuration: ImageConfiguration = parse("configuration", bytes)?;
        let found = format!("{}/{}", configuration.os(), configuration.architecture());
        if found != platform() {
            return Err(ImageError::Platform { found, wanted: platform() });
        }
        let diff_ids = configuration.rootfs().diff_ids().clone();
        if let Some(wrong) = diff_ids.iter().find(|digest| sha256_hex(digest).is_none()) {
            let why = format!("`{wrong}` is not a sha256 digest");
            return Err(ImageError::Manifest { what: "configuration", why });
        }
        let mut config = ImageConfig::default();
        if let Some(said) = configuration.config() {
            config.env = said.env().clone().unwrap_or_default();
            config.working_dir = said.working_dir().clone().unwrap_or_default();
            config.user = said.user().clone().unwrap_or_default();
            config.entrypoint = said.entrypoint().clone().unwrap_or_default();
            config.cmd = said.cmd().clone().unwrap_or_default();
            config.labels = said.labels().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        }
        Ok(Self { digest: decompress::digest(bytes), diff_ids, config })
    }
}

/// The entry of an index for this machine.
pub(super) fn choose(entries: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let name = |entry: &Descriptor| {
        entry.platform().as_ref().map_or_else(
            || "no platform".to_owned(),
            |platform| format!("{}/{}", platform.os(), platform.architecture()),
        )
    };
    let fits = entries.iter().find(|entry| name(entry) == platform());
    // A lone entry may leave it to the configuration to say what it is for.
    let lone = || entries.first().filter(|entry| entries.len() == 1 && entry.platform().is_none());
    fits.or_else(lone).ok_or_else(|| ImageError::Platform {
        found: if entries.is_empty() {
            "nothing".to_owned()
        } else {
            entries.iter().map(name).collect::<Vec<_>>().join(", ")
        },
        wanted: platform(),
    })
}

/// The digest of a descriptor, when it is one that we can check.
pub(super) fn sha256(descriptor: &Descriptor) -> Result<String, ImageError> {
    let digest = descriptor.digest().to_string();
    match sha256_hex(&digest) {
        Some(_) => Ok(digest),
        None => Err(ImageError::Manifest { what: "manifest", why: format!("`{digest}` is not a sha256 digest") }),
    }
}

/// Checks that bytes are what a digest says.
pub(super) fn verify(what: &str, bytes: &[u8], expected: &str) -> Result<(), ImageError> {
    let actual = decompress::digest(bytes);
    if actual == expected {
        return Ok(());
    }
    Err(ImageError::Digest { what: what.to_owned(), expected: expected.to_owned(), actual })
}

/// This machine as images name it.
fn platform() -> String {
    format!("{}/{}", Os::Linux, Arch::default())
}

pub(super) fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Manifest { what, why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";

    fn index(platforms: &[Option<&str>]) -> ImageIndex {
        let manifests: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(at, platform)| {
                let mut entry = serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": DIGEST, "size": at});
                if let Some((os, architecture)) = platform.and_then(|platform| platform.split_once('/')) {
                    entry["platform"] = serde_json::json!({"os": os, "architecture": architecture});
                }
                entry
            })
            .collect();
        let bytes =
            serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": manifests})).expect("plain");
        match Document::parse(&bytes).expect("an index") {
            Document::Index(index) => *index,
            Document::Manifest(_) => panic!("it has manifests"),
        }
    }

    #[test]
    fn an_index_gives_this_machines_image_and_no_other() {
        let here = platform();
        for (platforms, chosen) in [
            (vec![Some("linux/riscv64"), Some(here.as_str()), Some("unknown/unknown")], Some(1)),
            (vec![None], Some(0)),
            (vec![None, None], None),
            (vec![Some("windows/amd64")], None),
            (vec![], None),
        ] {
            let index = index(&platforms);
            let found = choose(index.manifests()).ok().map(Descriptor::size);
            assert_eq!(found, chosen, "{platforms:?}");
        }
        let error = choose(index(&[Some("linux/riscv64"), Some("windows/amd64")]).manifests()).expect_err("none");
        assert_eq!(
            error.to_string(),
            format!("the image is for linux/riscv64, windows/amd64, and this machine is {here}")
        );
    }

    #[test]
    fn docker_configurations_are_read_with_their_nulls() {
        let (os, architecture) = platform().split_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("two");
        let text = serde_json::json!({"os": os, "architecture": architecture, "created": "2024-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": null, "Volumes": null, "ExposedPorts": null, "WorkingDir": "/w", "Labels": null, "OnBuild": null, "Image": "", "Hostname": ""},
            "container_config": {"Cmd": ["x"]}, "docker_version": "26", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}});
        let read = Configuration::parse(text.to_string().as_bytes()).expect("Docker writes such");
        assert_eq!((read.config.env, read.config.working_dir), (vec!["PATH=/bin".to_owned()], "/w".to_owned()));
        let error =
            Configuration::parse(text.to_string().replace(DIGEST, "sha256:../../x").as_bytes()).expect_err("hostile");
        assert!(error.to_string().contains("`sha256:../../x`"), "{error}");
    }
}
