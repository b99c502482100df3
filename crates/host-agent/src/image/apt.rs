//! Finds and downloads Debian packages with everything that they depend on, from the sources that the host has
//! configured (and so with its keys). The host's own installed packages play no part, and nothing is installed.

use super::tool::APT_GET;
use super::{ImageError, Progress, file_error};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A package in one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with the epoch.
    pub version: String,
    /// Checksum from the signed index, as apt writes it; empty where only the installed system was asked.
    pub checksum: String,
}

/// Options that make apt see an empty system, and leave the real one alone.
fn options(scratch: &Path) -> Vec<String> {
    vec![
        "-o".into(),
        format!("Dir::State::status={}", scratch.join("status").display()),
        "-o".into(),
        // What the host downloaded earlier is not listed as to be downloaded, so its cache must not be seen.
        format!("Dir::Cache::archives={}", scratch.join("archives").display()),
        "-o".into(),
        "Debug::NoLocking=1".into(),
        "-o".into(),
        // Downloads go to a folder of root's own.
        "APT::Sandbox::User=root".into(),
        "-o".into(),
        "APT::Get::AllowUnauthenticated=false".into(),
    ]
}

/// Everything that `packages` need on an empty system, without what is only recommended.
pub fn closure(packages: &[String], scratch: &Path) -> Result<Vec<Package>, ImageError> {
    let status = scratch.join("status");
    std::fs::write(&status, "").map_err(file_error("write", &status))?;
    let partial = scratch.join("archives/partial");
    std::fs::create_dir_all(&partial).map_err(file_error("make", &partial))?;
    let mut args = options(scratch);
    args.extend(["-qq", "--no-install-recommends", "--print-uris", "install", "--"].map(str::to_owned));
    args.extend(packages.iter().cloned());
    let output = APT_GET.run(&format!("find the dependencies of {}", packages.join(", ")), scratch, args)?;
    let text = String::from_utf8_lossy(&output);
    let mut found: Vec<Package> = text.lines().filter_map(parse_uri).collect();
    found.sort();
    for name in packages {
        if !found.iter().any(|package| package.name == *name) {
            return Err(ImageError::NoPackage { name: name.clone() });
        }
    }
    Ok(found)
}

/// Reads `'URI' NAME_VERSION_ARCH.deb SIZE CHECKSUM`.
fn parse_uri(line: &str) -> Option<Package> {
    let mut words = line.rsplitn(4, ' ');
    let checksum = words.next()?.to_owned();
    let _size = words.next()?;
    let file = words.next()?.strip_suffix(".deb")?;
    let mut parts = file.splitn(3, '_');
    let name = parts.next()?.to_owned();
    let version = parts.next()?.replace("%3a", ":");
    Some(Package { name, version, checksum })
}

/// Downloads packages; gives the files in the same order.
pub fn download(
    packages: &[Package],
    scratch: &Path,
    progress: Progress<'_>,
) -> Result<Vec<PathBuf>, ImageError> {
    progress(&format!("downloading {} packages", packages.len()));
    let dir = scratch.join("packages");
    std::fs::create_dir_all(&dir).map_err(file_error("make", &dir))?;
    let mut args = options(scratch);
    args.extend(["-q".to_owned(), "download".to_owned(), "--".to_owned()]);
    args.extend(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
    APT_GET.run("download packages", &dir, args)?;
    let entries = std::fs::read_dir(&dir).map_err(file_error("list", &dir))?;
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    packages
        .iter()
        .map(|package| {
            let prefix = format!("{}_{}_", package.name, package.version.replace(':', "%3a"));
            let matches = |file: &&PathBuf| {
                file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix.as_str()))
            };
            let missing = || ImageError::NoPackage { name: package.name.clone() };
            files.iter().find(matches).cloned().ok_or_else(missing)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_apt_is_read() {
        let line = "'http://host/pool/z/zlib1g_1.2.13.dfsg-1_amd64.deb' zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 MD5Sum:ab";
        let package = parse_uri(line).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("zlib1g", "1:1.2.13.dfsg-1"));
        assert_eq!(package.checksum, "MD5Sum:ab");
        assert_eq!(parse_uri("W: something"), None);
    }
}
