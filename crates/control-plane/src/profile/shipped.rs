//! The profiles that ship with Proteus, brought into the registry whenever it starts. Must never give a name and
//! version another text where somebody may know it by the old one: what a person pushed stays, and so does what a VM
//! has, can go back to, or is on the way to. All else is replaced, with an entry in the audit log.

use super::{ProfileRecord, digest, key_of, problems_error};
use crate::control::{Control, ControlError};
use crate::record::Versioned;
use proteus_model::execution::{Morph, Version};
use proteus_model::id::ProfileName;
use proteus_model::plan::Goal;
use proteus_model::profile::Profile;
use proteus_model::profile::document;
use semver::VersionReq;
use serde_json::json;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Profiles that ship, by file name.
const SHIPPED: [(&str, &str); 5] = [
    ("web-frontend.yaml", include_str!("../../../../profiles/web-frontend.yaml")),
    ("database.yaml", include_str!("../../../../profiles/database.yaml")),
    ("cache.yaml", include_str!("../../../../profiles/cache.yaml")),
    ("batch.yaml", include_str!("../../../../profiles/batch.yaml")),
    ("security-hardened.yaml", include_str!("../../../../profiles/security-hardened.yaml")),
];

/// Origin of the profiles that ship with Proteus. No actor has this name: people are `root` or `token/NAME`.
const SHIPPED_BY: &str = "shipped";

impl Control {
    /// Brings the shipped profiles into the registry.
    pub async fn ensure_shipped_profiles(&self) -> Result<(), ControlError> {
        self.ensure_profiles_of(&SHIPPED).await
    }

    /// Brings profiles that ship as these files into the registry, each for itself; the first error, where there are
    /// any.
    pub async fn ensure_profiles_of(&self, files: &[(&str, &str)]) -> Result<(), ControlError> {
        let mut outcome = Ok(());
        for (file, text) in files {
            let ensured = self.ensure_shipped(file, text).await;
            outcome = outcome.and(ensured);
        }
        outcome
    }

    async fn ensure_shipped(&self, file: &str, text: &str) -> Result<(), ControlError> {
        let parsed = document::parse(file, text.as_bytes(), None);
        let profile = parsed.map_err(|problems| problems_error(&problems))?;
        let key = key_of(&profile.name, &profile.version);
        let Some(Versioned { value: known, rev }) = self.records.get::<ProfileRecord>(&key).await? else {
            let record = self.profile_record(profile, SHIPPED_BY);
            let evidence = json!({ "digest": record.digest, "signed": record.signed });
            let subject = format!("profile/{}", record.profile.label());
            let entry = self.entry("proteus", "profile.ship", &subject, "it ships with Proteus", evidence);
            return self
                .commit_audited(self.records.batch().put(&key, &record, None)?, entry)
                .await
                .map(drop);
        };
        // Nothing is written that is there: on a full disk Proteus must come up again.
        if known.digest == digest(&profile) {
            return Ok(());
        }
        let record = self.profile_record(profile, SHIPPED_BY);
        let label = record.profile.label();
        let user = match known.origin.as_str() {
            SHIPPED_BY => self.user_of_profile(&label).await?,
            other => Some(format!("{other}, who pushed it")),
        };
        if let Some(user) = user {
            tracing::warn!(
                profile = %label, kept = %known.digest, shipped = %record.digest, %user,
                "the profile that ships has another text than the one that is kept: push it under a new version \
                 to use it"
            );
            return Ok(());
        }
        let evidence =
            json!({ "digest": record.digest, "digest_before": known.digest, "signed": record.signed });
        let why = "another text ships under its name and version, and no VM has it";
        let entry = self.entry("proteus", "profile.replace", &format!("profile/{label}"), why, evidence);
        self.commit_audited(self.records.batch().put(&key, &record, Some(rev))?, entry).await?;
        tracing::info!(profile = %label, before = %known.digest, now = %record.digest, "shipped profile replaced");
        Ok(())
    }

    /// Whoever knows a profile by its text, in words: a VM that has it or has one that extends it, can go back to it, or
    /// is on the way to it.
    async fn user_of_profile(&self, label: &str) -> Result<Option<String>, ControlError> {
        let children = self.those_built_on(label).await?;
        let is_it = |named: Option<&String>| named.is_some_and(|named| children.contains(named));
        let vms = self.vms().await?;
        if let Some(vm) = vms.iter().find(|vm| is_it(vm.profile.as_ref())) {
            return Ok(Some(format!("the VM {}", vm.intent.name)));
        }
        let names: BTreeMap<String, _> = vms.iter().map(|vm| (vm.id.to_string(), &vm.intent.name)).collect();
        for (key, found) in self.records.list::<Version>("version/").await? {
            let name = key.split('/').nth(1).and_then(|vm| names.get(vm));
            if let Some(name) = name.filter(|_| is_it(found.value.profile.as_ref())) {
                return Ok(Some(format!("version {} of the VM {name}", found.value.number)));
            }
        }
        let under_way = self.morphs().await?.into_iter().filter(|morph| !morph.state.is_terminal());
        let leads_to = |morph: &Morph| match &morph.plan.goal {
            Goal::Profile { label, .. } => is_it(Some(label)),
            Goal::Version { profile, .. } => is_it(profile.as_ref()),
            Goal::FreshVmm => false,
        };
        Ok(under_way.into_iter().find(leads_to).map(|morph| format!("the morph {}", morph.id)))
    }

    /// The profile of this label, and those that extend it over however many others.
    async fn those_built_on(&self, label: &str) -> Result<BTreeSet<String>, ControlError> {
        let all = self.profiles().await?;
        let mut built = BTreeSet::from([label.to_owned()]);
        for ProfileRecord { profile, .. } in &all {
            let parents = RefCell::new(BTreeSet::new());
            let look_up = |name: &ProfileName, requirement: Option<&VersionReq>| {
                let parent = super::newest(&all, name, requirement)?;
                parents.borrow_mut().insert(parent.label());
                Some(parent)
            };
            // One whose parents are not there is no VM's.
            let _: Result<Profile, _> = document::resolve(profile.clone(), &look_up);
            if parents.borrow().contains(label) {
                built.insert(profile.label());
            }
        }
        Ok(built)
    }
}
