//! Completes a profile that builds upon another.
//!
//! The rule of merging, field by field: what the child states wins; groups of fields are merged in the same way
//! inside; maps are merged by key; a list that the child states replaces the parent's whole (an empty list
//! states nothing). `name` and `version` are the child's own. `resource_weights` and `verify.window` are stated
//! whole, so the child's replaces the parent's.

use super::Profile;
use super::field::{Field, Violation};
use crate::id::ProfileName;
use semver::VersionReq;

/// Longest chain of profiles, the first one counted.
pub const CHAIN_MAX: usize = 8;

/// Why a profile could not be completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtendsError {
    /// A parent is not there.
    #[error("profile {child} extends {parent}, which is not known{}", at_version(version))]
    MissingParent {
        /// Name and version of the profile that names the parent.
        child: String,
        /// The parent's name.
        parent: ProfileName,
        /// The versions that would do.
        version: Option<VersionReq>,
    },
    /// The chain comes back to a profile that is in it.
    #[error("profiles extend each other in a circle: {}", chain.join(" -> "))]
    Cycle {
        /// The chain, its first and last the same.
        chain: Vec<String>,
    },
    /// The chain is too long.
    #[error("more than {CHAIN_MAX} profiles extend each other: {}", chain.join(" -> "))]
    TooDeep {
        /// The chain as far as it was followed.
        chain: Vec<String>,
    },
    /// The lookup gave a profile that was not asked for.
    #[error("asked for profile {asked}, was given {given}")]
    WrongProfile {
        /// What was asked for.
        asked: String,
        /// What came.
        given: String,
    },
    /// The completed profile breaks rules that neither broke by itself.
    #[error("profile {profile}, completed from what it extends, is not sound: {}", listed(violations))]
    Unsound {
        /// Name and version.
        profile: String,
        /// The rules.
        violations: Vec<Violation>,
    },
}

fn at_version(version: &Option<VersionReq>) -> String {
    version.as_ref().map_or_else(String::new, |version| format!(" in a version {version}"))
}

fn listed(violations: &[Violation]) -> String {
    let texts: Vec<String> = violations.iter().map(Violation::to_string).collect();
    texts.join("; ")
}

/// Completes `profile` with what it extends. `lookup` gives the best profile of a name that meets a requirement.
/// The answer extends nothing.
pub fn resolve(
    profile: Profile,
    lookup: &dyn Fn(&ProfileName, Option<&VersionReq>) -> Option<Profile>,
) -> Result<Profile, ExtendsError> {
    let label = profile.label();
    let mut chain = vec![profile.name.clone()];
    let mut next = profile.extends.clone();
    let mut child = label.clone();
    let mut complete = Profile { extends: None, ..profile };
    while let Some(wanted) = next {
        let looped = chain.contains(&wanted.name);
        chain.push(wanted.name.clone());
        let names = || chain.iter().map(ProfileName::to_string).collect();
        if looped {
            return Err(ExtendsError::Cycle { chain: names() });
        }
        if chain.len() > CHAIN_MAX {
            return Err(ExtendsError::TooDeep { chain: names() });
        }
        let Some(parent) = lookup(&wanted.name, wanted.version.as_ref()) else {
            return Err(ExtendsError::MissingParent { child, parent: wanted.name, version: wanted.version });
        };
        let fits = wanted.version.as_ref().is_none_or(|version| version.matches(&parent.version));
        if parent.name != wanted.name || !fits {
            return Err(ExtendsError::WrongProfile { asked: wanted.to_string(), given: parent.label() });
        }
        child = parent.label();
        next = parent.extends.clone();
        complete = complete.over(Profile { extends: None, ..parent });
    }
    let violations = complete.violations();
    if violations.is_empty() {
        Ok(complete)
    } else {
        Err(ExtendsError::Unsound { profile: label, violations })
    }
}
