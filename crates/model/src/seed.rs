//! What cloud-init in a guest shall find: the three documents of its NoCloud source. Must never be shown to who may
//! only look: user-data holds passwords and keys.

use serde::{Deserialize, Serialize};

/// Name of the disk that carries them, also its serial number in the guest.
pub const SEED_DISK: &str = "cidata";
/// Longest document: cloud-init's own examples are a thousand times smaller, and all three fit a request.
pub const SEED_BYTES_MAX: usize = 512 << 10;

/// The documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedIntent {
    /// What the guest shall do: `#cloud-config` or a script.
    pub user_data: String,
    /// Who it is; `None`: its id and its name.
    #[serde(default)]
    pub meta_data: Option<String>,
    /// Its network; `None`: cloud-init's own choice, which is DHCP.
    #[serde(default)]
    pub network_config: Option<String>,
}

impl SeedIntent {
    /// The same with every text replaced by its length.
    pub fn hidden(&self) -> Self {
        let hide = |text: &String| format!("(hidden, {} bytes)", text.len());
        Self {
            user_data: hide(&self.user_data),
            meta_data: self.meta_data.as_ref().map(hide),
            network_config: self.network_config.as_ref().map(hide),
        }
    }
}

#[cfg(feature = "document")]
pub use check::{check_map, check_user_data};

#[cfg(feature = "document")]
mod check {
    use super::{SEED_BYTES_MAX, SeedIntent};
    use crate::profile::document::Problem;
    use saphyr_parser::{Event, Parser};

    /// Deepest nesting; no document of cloud-init comes near.
    const DEPTH_MAX: usize = 64;

    fn problem(file: &str, field: &str, line: usize, expected: &str, found: String) -> Box<Problem> {
        let (file, field, expected) = (file.to_owned(), field.to_owned(), expected.to_owned());
        Box::new(Problem { file, line, column: 1, field, expected, found, hint: None })
    }

    fn check_size(file: &str, field: &str, text: &str) -> Result<(), Box<Problem>> {
        if text.len() <= SEED_BYTES_MAX {
            return Ok(());
        }
        Err(problem(file, field, 1, "at most 512 KiB", format!("{} bytes", text.len())))
    }

    /// Checks a document that must be a YAML map, as meta-data is. `file`: its name in the problem.
    pub fn check_map(file: &str, field: &str, text: &str) -> Result<(), Box<Problem>> {
        check_size(file, field, text)?;
        let mut depth = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let line = error.marker().line();
                let mut problem = problem(file, field, line, "YAML", error.info().to_owned());
                problem.column = error.marker().col() + 1;
                problem.hint = error.info().contains("tab").then(|| "indent with spaces".to_owned());
                problem
            })?;
            let at = span.start.line();
            match event {
                // An empty text or `~`: only comments, an empty map.
                Event::Scalar(text, ..) if depth == 0 && !text.is_empty() && text != "~" => {
                    let found = format!("{:?}", text.chars().take(40).collect::<String>());
                    return Err(problem(file, field, at, "a map of YAML, as in `key: value`", found));
                }
                Event::SequenceStart(..) if depth == 0 => {
                    return Err(problem(
                        file,
                        field,
                        at,
                        "a map of YAML, as in `key: value`",
                        "a list".into(),
                    ));
                }
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err(problem(file, field, at, "at most 64 levels of nesting", "more".into()));
            }
        }
        Ok(())
    }

    /// Checks user-data: `#cloud-config` and YAML, or a script.
    pub fn check_user_data(file: &str, text: &str) -> Result<(), Box<Problem>> {
        let field = "user-data";
        check_size(file, field, text)?;
        let first = text.lines().next().unwrap_or_default();
        if first.trim_end() == "#cloud-config" {
            return check_map(file, field, text);
        }
        if first.starts_with("#!") {
            return Ok(());
        }
        let found = format!("{:?}", first.chars().take(40).collect::<String>());
        let mut wrong = problem(file, field, 1, "`#cloud-config` or `#!` at its beginning", found);
        wrong.hint =
            Some("put `#cloud-config` alone on the first line; cloud-init ignores the file else".into());
        Err(wrong)
    }

    impl SeedIntent {
        /// Checks all three; the first problem.
        pub fn check(&self) -> Result<(), Box<Problem>> {
            check_user_data("user-data", &self.user_data)?;
            for (field, text) in [("meta-data", &self.meta_data), ("network-config", &self.network_config)] {
                text.as_ref().map_or(Ok(()), |text| check_map(field, field, text))?;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn said(text: &str) -> String {
        check_user_data("u.yaml", text).map_or_else(|problem| problem.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn what_cloud_init_would_ignore_is_refused_with_its_place() {
        let texts = [
            "#cloud-config\nhostname: web\nruncmd:\n  - [ls, /]\n",
            "#cloud-config\n# nothing yet\n",
            "#cloud-config\nusers: &u [a]\nmore: *u\n",
            "#!/bin/sh\n: : [\n",
            "hostname: web\n",
            "",
            "#cloud-config\na: [1\nb: 2\n",
            "#cloud-config\na:\n\t- b\n",
            "#cloud-config\n- a\n",
            "#cloud-config\njust words\n",
        ];
        let all: Vec<String> = texts.iter().map(|text| said(text)).collect();
        expect![[r#"
            taken
            taken
            taken
            taken
            u.yaml:1:1: user-data: expected `#cloud-config` or `#!` at its beginning, found "hostname: web" (put `#cloud-config` alone on the first line; cloud-init ignores the file else)
            u.yaml:1:1: user-data: expected `#cloud-config` or `#!` at its beginning, found "" (put `#cloud-config` alone on the first line; cloud-init ignores the file else)
            u.yaml:3:2: user-data: expected YAML, found illegal placement of ':' indicator
            u.yaml:3:2: user-data: expected YAML, found tabs disallowed within this context (block indentation) (indent with spaces)
            u.yaml:2:1: user-data: expected a map of YAML, as in `key: value`, found a list
            u.yaml:2:1: user-data: expected a map of YAML, as in `key: value`, found "just words"
        "#]].assert_eq(&(all.join("\n") + "\n"));
        let deep = format!("#cloud-config\na: {}", "[".repeat(100_000));
        assert_ne!(said(&deep), "taken");
        assert!(said(&"#".repeat(SEED_BYTES_MAX + 1)).contains("512 KiB"));
    }

    #[test]
    fn nothing_of_a_hidden_seed_is_there() {
        let secret = SeedIntent {
            user_data: "#cloud-config\npassword: x1y2\n".into(),
            meta_data: Some("instance-id: x1y2\n".into()),
            network_config: None,
        };
        assert!(secret.check().is_ok());
        let shown = serde_json::to_string(&secret.hidden()).unwrap();
        assert!(!shown.contains("x1y2"), "{shown}");
    }
}
