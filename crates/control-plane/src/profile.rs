//! The profiles: those that ship and those that people push. A profile is taken by digest; the same name and
//! version never means two texts.

mod shipped;

use crate::control::{Control, ControlError};
use crate::record::RecordError;
use proteus_model::id::ProfileName;
use proteus_model::profile::Profile;
use proteus_model::profile::document::{self, Problem};
use proteus_model::unit::UnixMillis;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A profile in the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// As its author wrote it, parents not yet laid under.
    pub profile: Profile,
    /// SHA-256 of its canonical text, in hex.
    pub digest: String,
    /// Who brought it: `shipped`, or an actor.
    pub origin: String,
    /// Whether a signature was checked. None is until signing is built: taken by digest, recorded as unsigned.
    pub signed: bool,
    /// When.
    pub at: UnixMillis,
}

fn key_of(name: &ProfileName, version: &Version) -> String {
    format!("profile/{name}/{version}")
}

/// SHA-256 of a profile's canonical text, in hex.
pub fn digest(profile: &Profile) -> String {
    Sha256::digest(profile.canonical_json()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Control {
    fn profile_record(&self, profile: Profile, origin: &str) -> ProfileRecord {
        let digest = digest(&profile);
        ProfileRecord { profile, digest, origin: origin.to_owned(), signed: false, at: self.now() }
    }

    /// Takes a profile into the registry. Idempotent; another text under a known name and version is refused.
    pub async fn push_profile(&self, profile: Profile, actor: &str) -> Result<ProfileRecord, ControlError> {
        let record = self.check_push(profile, actor).await?;
        let key = key_of(&record.profile.name, &record.profile.version);
        let subject = format!("profile/{}", record.profile.label());
        let evidence = json!({ "digest": record.digest, "signed": record.signed });
        let entry = self.entry(actor, "profile.push", &subject, "asked for", evidence);
        match self.commit_audited(self.records.batch().put(&key, &record, None)?, entry).await {
            Ok(_) => return Ok(record),
            Err(ControlError::Record(RecordError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
        match self.records.get::<ProfileRecord>(&key).await? {
            Some(known) if known.value.digest == record.digest => Ok(known.value),
            _ => Err(known_otherwise(&record.profile)),
        }
    }

    /// What the registry would have of a profile: refused as pushing it would be, and nothing is written.
    pub async fn check_push(&self, profile: Profile, actor: &str) -> Result<ProfileRecord, ControlError> {
        // Its parents must be there now, not when it is applied.
        self.resolve_profile(profile.clone()).await?;
        let known = self.records.get::<ProfileRecord>(&key_of(&profile.name, &profile.version)).await?;
        let record = self.profile_record(profile, actor);
        match known {
            Some(known) if known.value.digest == record.digest => Ok(known.value),
            Some(_) => Err(known_otherwise(&record.profile)),
            None => Ok(record),
        }
    }

    /// All profiles, by name and version.
    pub async fn profiles(&self) -> Result<Vec<ProfileRecord>, ControlError> {
        let mut all: Vec<ProfileRecord> =
            self.records.list("profile/").await?.into_iter().map(|(_, record)| record.value).collect();
        all.sort_by(|a, b| (&a.profile.name, &a.profile.version).cmp(&(&b.profile.name, &b.profile.version)));
        Ok(all)
    }

    /// The newest profile that `label` means: `name`, or `name@requirement`.
    pub async fn profile(&self, label: &str) -> Result<ProfileRecord, ControlError> {
        let unknown = || ControlError::NotFound { kind: "profile", name: label.chars().take(80).collect() };
        let (name, requirement) = label.split_once('@').unwrap_or((label, "*"));
        // A bare version in a label means exactly that one; in semver it would mean "compatible".
        let requirement = match requirement.parse::<Version>() {
            Ok(exact) => VersionReq::parse(&format!("={exact}")),
            Err(_) => VersionReq::parse(requirement),
        };
        let requirement = requirement.map_err(|_| unknown())?;
        let all = self.profiles().await?;
        let fits =
            |r: &ProfileRecord| r.profile.name.as_str() == name && requirement.matches(&r.profile.version);
        all.into_iter().rev().find(fits).ok_or_else(unknown)
    }

    /// A profile with its parents laid under it.
    pub async fn resolved_profile(&self, label: &str) -> Result<(Profile, String), ControlError> {
        let record = self.profile(label).await?;
        let resolved = self.resolve_profile(record.profile).await?;
        let digest = digest(&resolved);
        Ok((resolved, digest))
    }

    /// Lays the parents of a profile under it.
    pub async fn resolve_profile(&self, profile: Profile) -> Result<Profile, ControlError> {
        let all = self.profiles().await?;
        let look_up = |name: &ProfileName, requirement: Option<&VersionReq>| newest(&all, name, requirement);
        document::resolve(profile, &look_up).map_err(|problem| ControlError::Invalid {
            what: problem.to_string(),
            hint: "push the missing parent, or mend `extends`".into(),
        })
    }
}

/// The newest of `all`, which are in order, that meets the requirement.
fn newest(all: &[ProfileRecord], name: &ProfileName, requirement: Option<&VersionReq>) -> Option<Profile> {
    let fits = |record: &&ProfileRecord| {
        let Profile { name: has, version, .. } = &record.profile;
        has == name && requirement.is_none_or(|requirement| requirement.matches(version))
    };
    all.iter().rev().find(fits).map(|record| record.profile.clone())
}

fn known_otherwise(profile: &Profile) -> ControlError {
    ControlError::Conflict {
        what: format!("{} is known with another text", profile.label()),
        hint: "raise its version".into(),
    }
}

/// All problems of a document as one refusal.
pub(crate) fn problems_error(problems: &[Problem]) -> ControlError {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    ControlError::Invalid { what: lines.join("\n"), hint: "see `proteus profile validate`".into() }
}
