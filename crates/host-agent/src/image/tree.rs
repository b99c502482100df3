//! Makes the folder tree of an image out of packages: a merged `/usr`, no maintainer scripts, nothing that a
//! service does not read.

use super::recipe::Recipe;
use super::tool::{LDCONFIG, unpack};
use super::{ImageError, Progress, elf, file_error};
use proteus_protocol::guest::v1::service::{MANIFEST_PATH, PrepareStep};
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// Links of a merged `/usr`, made before anything is unpacked.
const LINKS: [(&str, &str); 5] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib32", "usr/lib32"),
    ("lib64", "usr/lib64"),
];

/// Read by people, not by services; or only by maintainer scripts.
const PRUNED: [&str; 11] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/bash-completion",
    "usr/share/icons",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/systemd",
    "etc/init.d",
];

/// A path of an image inside a tree on this host.
fn inside(tree: &Path, path: &str) -> PathBuf {
    tree.join(path.trim_start_matches('/'))
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), ImageError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(file_error("make", parent))?;
    }
    // What a package put there may be a link that leads out of the tree: it must not be followed.
    if path.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
        std::fs::remove_file(path).map_err(file_error("remove", path))?;
    }
    std::fs::write(path, content).map_err(file_error("write", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(file_error("set the mode of", path))
}

fn remove(path: &Path) -> Result<(), ImageError> {
    let result = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    result.map_err(file_error("remove", path))
}

/// Unpacks packages over an empty tree.
pub fn unpack_all(packages: &[PathBuf], tree: &Path, progress: Progress<'_>) -> Result<(), ImageError> {
    std::fs::create_dir_all(tree).map_err(file_error("make", tree))?;
    for (name, target) in LINKS {
        let dir = tree.join(target);
        std::fs::create_dir_all(&dir).map_err(file_error("make", &dir))?;
        let link = tree.join(name);
        symlink(target, &link).map_err(file_error("link", &link))?;
    }
    progress(&format!("unpacking {} packages", packages.len()));
    packages.iter().try_for_each(|package| unpack(package, tree))
}

/// Turns unpacked packages into the tree of a service's image.
pub fn furnish(recipe: &Recipe, version: &str, tree: &Path) -> Result<(), ImageError> {
    for path in PRUNED.iter().map(|path| (*path).to_owned()).chain(recipe.prune.iter().cloned()) {
        remove(&inside(tree, &path))?;
    }
    for dir in ["dev", "proc", "sys", "run", "tmp", "root", "var/lib", "var/log"] {
        let path = tree.join(dir);
        std::fs::create_dir_all(&path).map_err(file_error("make", &path))?;
    }
    write_users(recipe, tree)?;
    for file in &recipe.files {
        let path = inside(tree, &file.path);
        write(&path, &file.content, file.mode)?;
        chown(&path, Some(file.owner.uid), Some(file.owner.gid))
            .map_err(file_error("set the owner of", &path))?;
    }
    let manifest = recipe.manifest(version);
    manifest.validate().map_err(|source| ImageError::Recipe { recipe: recipe.name.clone(), source })?;
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|source| ImageError::Json { what: "a service manifest", source })?;
    write(&inside(tree, MANIFEST_PATH), &text, 0o644)?;
    let root = tree.to_string_lossy().into_owned();
    LDCONFIG.run("make the cache of shared libraries", tree, ["-r", &root])?;
    let programs = manifest.prepare.iter().filter_map(|step| match step {
        PrepareStep::Run { argv, .. } => argv.first(),
        PrepareStep::Directory { .. } => None,
    });
    for program in programs.chain(manifest.argv.first()) {
        elf::libraries(tree, program)?;
    }
    Ok(())
}

/// The few users that an image's programs ask for by name.
fn write_users(recipe: &Recipe, tree: &Path) -> Result<(), ImageError> {
    let mut passwd = String::from("root:x:0:0:root:/root:/usr/sbin/nologin\n");
    let mut group = String::from("root:x:0:\n");
    for user in &recipe.users {
        // Writing to a string cannot fail.
        let _ = writeln!(
            passwd,
            "{0}:x:{1}:{2}:{0}:{3}:/usr/sbin/nologin",
            user.name, user.uid, user.gid, user.home
        );
        let _ = writeln!(group, "{}:x:{}:", user.name, user.gid);
    }
    passwd.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    group.push_str("nogroup:x:65534:\n");
    write(&tree.join("etc/passwd"), &passwd, 0o644)?;
    write(&tree.join("etc/group"), &group, 0o644)?;
    write(&tree.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)?;
    write(&tree.join("etc/hosts"), "127.0.0.1 localhost\n", 0o644)
}
