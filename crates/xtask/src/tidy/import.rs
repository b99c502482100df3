//! Who may import whom (the table of the house style), as cargo says it is.

use super::Finding;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Folder of a crate, and the crates of ours that it may import.
const TABLE: [(&str, &[&str]); 13] = [
    ("model", &[]),
    ("xtask", &[]),
    ("brain", &["model"]),
    ("protocol", &["model"]),
    ("hypervisor", &["model"]),
    ("guest-agent", &["protocol", "model"]),
    ("cli", &["protocol", "model"]),
    ("host-agent", &["hypervisor", "brain", "protocol", "model"]),
    ("control-plane", &["brain", "protocol", "model"]),
    ("libvirt-adapter", &["host-agent", "cli", "brain", "protocol", "model"]),
    ("twin", &["host-agent", "control-plane", "hypervisor", "brain", "protocol", "model"]),
    ("lab", &["twin", "brain", "protocol", "model"]),
    ("proteus", &["model", "brain", "protocol", "hypervisor", "host-agent", "control-plane", "cli", "twin"]),
];

/// One of our crates.
pub struct Crate {
    /// Its folder in `crates`.
    folder: String,
    package: String,
    /// Text of its manifest.
    manifest: String,
    /// Folders of our crates that it imports.
    imports: Vec<String>,
}

/// Asks cargo for our crates.
pub fn crates(root: &Path) -> Result<Vec<Crate>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
    let output = command.output().context("run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    parse(&serde_json::from_slice(&output.stdout).context("read what cargo metadata says")?, &|path| {
        std::fs::read_to_string(path).with_context(|| format!("read {path}"))
    })
}

fn parse(metadata: &Value, read: &dyn Fn(&str) -> Result<String>) -> Result<Vec<Crate>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let folder = |path: &str| Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut found = Vec::new();
    for package in packages {
        let manifest_path = text(&package["manifest_path"]).context("a package without a manifest")?;
        let own = manifest_path.trim_end_matches("/Cargo.toml");
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        found.push(Crate {
            folder: folder(own).context("a package without a folder")?,
            package: text(&package["name"]).context("a package without a name")?,
            manifest: read(&manifest_path)?,
            imports: dependencies
                .iter()
                // What only tests use is not in what ships.
                .filter(|dependency| dependency["kind"] != "dev")
                .filter_map(|dependency| dependency["path"].as_str())
                // A crate may import itself to turn features on for its tests.
                .filter(|path| *path != own)
                .filter_map(folder)
                .collect(),
        });
    }
    Ok(found)
}

/// Package of the crate in a folder.
fn package(folder: &str) -> String {
    match folder {
        "proteus" | "xtask" => folder.to_owned(),
        "guest-agent" => "proteus-guest".to_owned(),
        "libvirt-adapter" => "proteus-libvirt".to_owned(),
        _ => format!("proteus-{folder}"),
    }
}

/// Checks them against the table; dependencies of build scripts too, those of tests not.
pub fn check(crates: &[Crate]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in crates {
        let path = format!("crates/{}/Cargo.toml", one.folder);
        let line_of =
            |word: &str| one.manifest.lines().position(|line| line.starts_with(word)).map_or(1, |at| at + 1);
        let Some((_, may)) = TABLE.iter().find(|(folder, _)| *folder == one.folder) else {
            findings.push(Finding::new(&path, 1, "not in the table of who may import whom (style.md)"));
            continue;
        };
        if one.package != package(&one.folder) {
            let what = format!("the package of this folder is called {}", package(&one.folder));
            findings.push(Finding::new(&path, line_of("name"), what));
        }
        for import in one.imports.iter().filter(|import| !may.contains(&import.as_str())) {
            let allowed = if may.is_empty() { "nothing of ours".to_owned() } else { may.join(", ") };
            let what = format!("{} must not import {import}; it may import {allowed}", one.folder);
            findings.push(Finding::new(&path, line_of(&package(import)), what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(folder: &str, name: &str, imports: &[&str]) -> Vec<String> {
        let dependencies: Vec<_> = imports
            .iter()
            .map(|import| json!({"name": import, "path": format!("/r/crates/{import}")}))
            .collect();
        let foreign = vec![json!({"name": "serde", "path": null})];
        let metadata = json!({"packages": [{
            "name": name,
            "manifest_path": format!("/r/crates/{folder}/Cargo.toml"),
            "dependencies": ([dependencies, foreign].concat()),
        }]});
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nproteus-hypervisor.workspace = true\n";
        let crates = parse(&metadata, &|_| Ok(manifest.to_owned())).unwrap();
        check(&crates).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn what_the_table_allows_passes() {
        assert!(found("brain", "proteus-brain", &["model", "brain"]).is_empty());
        assert!(found("guest-agent", "proteus-guest", &["protocol", "model"]).is_empty());
        assert!(found("proteus", "proteus", &["cli", "twin"]).is_empty());
    }

    #[test]
    fn what_only_tests_use_is_free() {
        let metadata = json!({"packages": [{
            "name": "proteus-model",
            "manifest_path": "/r/crates/model/Cargo.toml",
            "dependencies": [{"name": "brain", "path": "/r/crates/brain", "kind": "dev"}],
        }]});
        let crates = parse(&metadata, &|_| Ok(String::new())).unwrap();
        assert!(check(&crates).is_empty());
    }

    #[test]
    fn what_it_does_not_is_told_with_its_line() {
        assert_eq!(
            found("control-plane", "proteus-control-plane", &["hypervisor"]),
            ["crates/control-plane/Cargo.toml:4: control-plane must not import hypervisor; \
              it may import brain, protocol, model"]
        );
        assert!(found("model", "proteus-model", &["brain"])[0].contains("nothing of ours"));
        assert!(found("gadget", "proteus-gadget", &[])[0].contains("not in the table"));
        assert!(found("brain", "brain", &[])[0].contains("is called proteus-brain"));
    }

    #[test]
    fn the_table_has_no_circle() {
        for (folder, imports) in TABLE {
            let floor = |name: &str| TABLE.iter().position(|(folder, _)| *folder == name).unwrap();
            assert!(imports.iter().all(|import| floor(import) < floor(folder)), "{folder}");
        }
    }
}
