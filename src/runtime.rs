//! Runtimes: which image, which command and which kernel make a language.
//!
//! A leaf: manifests ship in the binary (`images/<name>/runtime.toml`); nothing here starts anything.

use serde::Deserialize;

/// The Python kernel: the bootstrap runs its first part, which loads the others by name.
const PYTHON_KERNEL: &str = concat!(
    include_str!("../images/python/kernel/base.py"),
    "\n#### interrupts\n",
    include_str!("../images/python/kernel/interrupts.py"),
    "\n#### capture\n",
    include_str!("../images/python/kernel/capture.py"),
    "\n#### imports\n",
    include_str!("../images/python/kernel/imports.py"),
    "\n#### session\n",
    include_str!("../images/python/kernel/session.py"),
    "\n#### errors\n",
    include_str!("../images/python/kernel/errors.py"),
    "\n#### rich\n",
    include_str!("../images/python/kernel/rich.py"),
    "\n#### files\n",
    include_str!("../images/python/kernel/files.py"),
);

/// A language that sessions can ask for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The name in `session.create`.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Endings of files that `cellblock run` takes for it.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// The image; stock images of the interpreter work too.
    pub image: String,
    /// The bootstrap: reads the kernel's source from descriptor 0 as `protocol.md` says, and runs it.
    pub command: Vec<String>,
    /// A cell that calls `main` with the JSON text that the string literal `{arguments}` holds, where `main` can be
    /// called; its value's `application/json` is `{"called": true, "value": ..}`.
    pub call: Option<String>,
    /// The kernel's source.
    #[serde(skip)]
    pub kernel: &'static str,
}

/// All known runtimes.
#[derive(Clone, Debug)]
pub struct Runtimes(Vec<Runtime>);

/// A runtime that nobody knows; the message lists the known ones.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no runtime `{wanted}`; known: {known}")]
pub struct UnknownRuntime {
    wanted: String,
    known: String,
}

/// One program in parts, in the order in which its head says they belong.
const NODEJS_KERNEL: &str = concat!(
    include_str!("../images/nodejs/kernel/head.js"),
    include_str!("../images/nodejs/kernel/channel.js"),
    include_str!("../images/nodejs/kernel/source.js"),
    include_str!("../images/nodejs/kernel/values.js"),
    include_str!("../images/nodejs/kernel/process.js"),
    include_str!("../images/nodejs/kernel/files.js"),
    include_str!("../images/nodejs/kernel/cells.js"),
);

impl Runtimes {
    /// The runtimes that ship in the binary.
    pub fn builtin() -> Self {
        let parse = |manifest: &str, kernel| {
            let mut runtime: Runtime = toml::from_str(manifest).expect("a manifest of ours is tested");
            runtime.kernel = kernel;
            runtime
        };
        Self(vec![
            parse(include_str!("../images/python/runtime.toml"), PYTHON_KERNEL),
            parse(include_str!("../images/nodejs/runtime.toml"), NODEJS_KERNEL),
        ])
    }

    /// Every runtime, the default first.
    pub fn iter(&self) -> impl Iterator<Item = &Runtime> {
        self.0.iter()
    }

    /// The same runtimes with other images, as `(name, image)`.
    ///
    /// # Errors
    /// When a name is no runtime's.
    pub fn with_images<'a>(
        mut self,
        images: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, UnknownRuntime> {
        for (name, image) in images {
            let known = self.find(name)?.name.clone();
            for runtime in &mut self.0 {
                if runtime.name == known {
                    runtime.image.clone_from(image);
                }
            }
        }
        Ok(self)
    }

    /// The runtime with this name or alias.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, wanted: &str) -> Result<&Runtime, UnknownRuntime> {
        self.0
            .iter()
            .find(|runtime| runtime.name == wanted || runtime.aliases.iter().any(|alias| alias == wanted))
            .ok_or_else(|| {
                let known = self.0.iter().map(|runtime| format!("`{}`", runtime.name)).collect::<Vec<_>>().join(", ");
                UnknownRuntime { wanted: wanted.to_owned(), known }
            })
    }

    /// The runtime of a file with this ending.
    pub fn for_extension(&self, extension: &str) -> Option<&Runtime> {
        self.0.iter().find(|runtime| runtime.extensions.iter().any(|known| known == extension))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_manifests_are_found_by_name_alias_and_file_ending() {
        let runtimes = Runtimes::builtin();
        assert_eq!(runtimes.find("python").expect("shipped").name, "python");
        assert_eq!(runtimes.find("javascript").expect("an alias").name, "nodejs");
        assert_eq!(runtimes.for_extension("js").expect("an ending").name, "nodejs");
        let error = runtimes.find("cobol").expect_err("unknown").to_string();
        assert_eq!(error, "there is no runtime `cobol`; known: `python`, `nodejs`");
    }
}
