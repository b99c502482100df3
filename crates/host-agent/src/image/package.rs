//! Debian packages as a read-only image with a service in it: erofs, or squashfs where erofs-utils is missing.

use super::apt::{self, Package};
use super::artifact::{BUILDER_VERSION, ImageKind, ImageMetadata, OutputDir, digest_of};
use super::recipe::Recipe;
use super::tool::{MKFS_EROFS, MKSQUASHFS, Tool};
use super::{ImageError, Progress, tree};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageImage {
    /// The image file: attach it as a read-only disk.
    pub path: PathBuf,
    /// Its description.
    pub metadata: ImageMetadata,
    /// Whether it was there already.
    pub reused: bool,
}

/// The file system and the program that makes it.
fn filesystem() -> Result<(&'static str, Tool), ImageError> {
    if MKFS_EROFS.find().is_ok() {
        return Ok(("erofs", MKFS_EROFS));
    }
    // Missing both, the user is told to install the better one.
    MKSQUASHFS
        .find()
        .map(|_| ("squashfs", MKSQUASHFS))
        .map_err(|_| ImageError::MissingTool { program: MKFS_EROFS.program, package: MKFS_EROFS.package })
}

fn words(args: &[&'static str]) -> Vec<&'static OsStr> {
    args.iter().map(|arg| OsStr::new(*arg)).collect()
}

fn make(kind: (&str, Tool), tree: &Path, image: &Path, scratch: &Path) -> Result<(), ImageError> {
    let (tree, image) = (tree.as_os_str(), image.as_os_str());
    // Not compressed: a guest without hardware help unpacks slower than it reads. The same inputs give the same bytes.
    let args = match kind.0 {
        "erofs" => {
            let uuid = "-U00000000-0000-4000-8000-000000000000";
            [words(&["--quiet", "-T0", uuid]), vec![image, tree]].concat()
        }
        _ => {
            let last = [
                "-noappend",
                "-quiet",
                "-no-progress",
                "-all-time",
                "0",
                "-mkfs-time",
                "0",
                "-noI",
                "-noD",
                "-noF",
            ];
            [vec![tree, image], words(&last)].concat()
        }
    };
    kind.1.run("make an image", scratch, args).map(drop)
}

/// Builds the image of a recipe into a folder, unless it is there from the same inputs.
pub fn build_package_image(
    recipe: &Recipe,
    out: &Path,
    progress: Progress<'_>,
) -> Result<PackageImage, ImageError> {
    let dir = OutputDir::open(out)?;
    let scratch = dir.scratch()?;
    progress(&format!("{}: finding packages", recipe.name));
    let mut packages = apt::closure(&recipe.packages, scratch.path())?;
    packages.retain(|package| !recipe.excludes(&package.name));
    let version = upstream_version(&packages, recipe)?;
    let kind = filesystem()?;
    let inputs = digest_of("a build's inputs", &(BUILDER_VERSION, recipe, &packages, kind.0))?;
    if let Some(metadata) = dir.existing(&recipe.name, &inputs) {
        progress(&format!("{}: up to date", recipe.name));
        return Ok(PackageImage { path: dir.path(&metadata, "image"), metadata, reused: true });
    }
    let files = apt::download(&packages, scratch.path(), progress)?;
    let root = scratch.path().join("tree");
    tree::unpack_all(&files, &root, progress)?;
    tree::furnish(recipe, &version, &root)?;
    progress(&format!("{}: making the {} image", recipe.name, kind.0));
    let made = scratch.path().join("image");
    make(kind, &root, &made, scratch.path())?;
    let file = dir.take(&made, &format!("{}-{version}", recipe.name), kind.0)?;
    let metadata = ImageMetadata {
        name: recipe.name.clone(),
        version,
        kind: ImageKind::Package,
        inputs,
        files: [("image".to_owned(), file)].into(),
        packages,
    };
    dir.publish(&metadata)?;
    Ok(PackageImage { path: dir.path(&metadata, "image"), metadata, reused: false })
}

/// Version of the main package as its authors count: without Debian's epoch and revision.
fn upstream_version(packages: &[Package], recipe: &Recipe) -> Result<String, ImageError> {
    let main = recipe.packages.first().map_or("", String::as_str);
    let found = packages.iter().find(|package| package.name == main);
    let version = &found.ok_or_else(|| ImageError::NoPackage { name: main.to_owned() })?.version;
    let version = version.split_once(':').map_or(version.as_str(), |(_, rest)| rest);
    let version = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
    Ok(version.split('+').next().unwrap_or(version).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::built_in;

    #[test]
    fn versions_are_as_the_authors_count() {
        let recipe = built_in("redis").unwrap();
        for (given, wanted) in [
            ("5:7.0.15-1~deb12u10", "7.0.15"),
            ("15.20-0+deb12u1", "15.20"),
            ("1.2.13.dfsg-1", "1.2.13.dfsg"),
        ] {
            let package =
                Package { name: "redis-server".into(), version: given.into(), checksum: String::new() };
            assert_eq!(upstream_version(&[package], &recipe).unwrap(), wanted);
        }
    }
}
