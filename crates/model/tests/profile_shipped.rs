//! The profiles that ship, and the published JSON Schema, are what the code says. Set `UPDATE_EXPECT=1` to write
//! the schema anew.

use proteus_model::profile::document;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_published_schema_is_current() {
    let path = root().join("openapi/profile.schema.json");
    let text = document::json_schema_text();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == text, "{} is not current: run with UPDATE_EXPECT=1", path.display());
}

#[test]
fn shipped_profiles_are_sound_and_named_as_their_files() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("profiles")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let profile =
            document::parse(&name, &std::fs::read(&path).unwrap(), None).unwrap_or_else(|problems| {
                panic!("{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>());
            });
        assert_eq!(format!("{}.yaml", profile.name), name);
        assert_eq!(profile.version.to_string(), "1.0.0");
        assert!(
            profile.summary.is_some() && profile.resources.is_some() && profile.resource_weights.is_some()
        );
        assert!(profile.verify.is_some() && profile.cost.is_some() && !profile.traits.is_empty());
        // What is not built yet would make `morph apply` refuse.
        assert!(profile.behavioral_rules.is_empty() && profile.components.is_empty());
        count += 1;
    }
    assert_eq!(count, 5);
}
