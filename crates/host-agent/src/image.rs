//! Builds what guests boot and run from: a small guest (kernel and initramfs), read-only images of Debian packages
//! with a service in them, and a full Debian. Each build is named by the digest of its inputs: the same inputs are
//! not built twice. Must never run a package's maintainer scripts on this host, nor leave half a build behind.
//!
//! The functions here wait for programs; call them where waiting is allowed (`tokio::task::spawn_blocking`).

pub mod apt;

pub mod artifact;

mod cpio;

mod elf;

pub mod full;

mod kernel;

pub mod package;

pub mod recipe;

pub mod small;

pub(crate) mod tool;

mod tree;

pub(crate) use artifact::digest_file;
pub use artifact::{ImageKind, ImageMetadata};
pub use full::{FullGuest, FullOptions, build_agent_deb, build_full};
pub use package::{PackageImage, build_package_image};
pub use recipe::{Recipe, built_in};
pub use small::{SmallGuest, SmallOptions, build_small};

use std::path::PathBuf;
use std::process::ExitStatus;

/// Called with what is being done, for people.
pub type Progress<'a> = &'a dyn Fn(&str);

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A program is not installed.
    #[error("{program} is not installed; run: apt-get install {package}")]
    MissingTool {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program could not be run.
    #[error("{operation}: run {program}")]
    Run {
        /// What it was for.
        operation: String,
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{operation}: {program} ended with {status}: {said}{hint}")]
    Tool {
        /// What it was for.
        operation: String,
        /// The program.
        program: String,
        /// Its end.
        status: ExitStatus,
        /// The last that it said.
        said: String,
        /// What may help, beginning with a line break, or nothing.
        hint: &'static str,
    },
    /// A file could not be read or written.
    #[error("{operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The sources do not have a package, or not in one version.
    #[error("apt knows no package {name}; run: apt-get update, and look into the host's apt sources")]
    NoPackage {
        /// Its name.
        name: String,
    },
    /// The host has no source for a release.
    #[error("the host's apt sources have no main component of {release}")]
    NoMirror {
        /// The release's code name.
        release: &'static str,
    },
    /// A kernel lacks a module that every guest needs.
    #[error("kernel {release} has no module {module}")]
    NoModule {
        /// The kernel.
        release: String,
        /// The module.
        module: &'static str,
    },
    /// A program in an image needs a library that is not in it.
    #[error("{program} needs {library}, which none of the packages has")]
    NoLibrary {
        /// The program.
        program: String,
        /// The library.
        library: String,
    },
    /// The agent is not a static program, and could not run as the first process.
    #[error(
        "{path} is not a static program; build it with: RUSTFLAGS=\"-C target-feature=+crt-static\" cargo build -p proteus-guest --profile agent --target x86_64-unknown-linux-gnu"
    )]
    NotStatic {
        /// The agent.
        path: PathBuf,
    },
    /// The recipe's service is malformed.
    #[error("recipe {recipe}")]
    Recipe {
        /// Its name.
        recipe: String,
        /// What is wrong.
        #[source]
        source: proteus_protocol::guest::v1::service::ManifestError,
    },
    /// There is no such built-in recipe.
    #[error("there is no recipe {given:?}; there are {known}")]
    NoRecipe {
        /// What was asked for.
        given: String,
        /// All names.
        known: String,
    },
    /// What is described cannot be written down.
    #[error("write {what} as JSON")]
    Json {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A failed file operation, for `map_err`.
fn file_error(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> ImageError {
    let path = path.into();
    move |source| ImageError::File { operation, path, source }
}
