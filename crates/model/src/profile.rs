//! What a VM is asked to be: the profile, a named and versioned document. Pure data with rules between its
//! parts. Must never hold a command to run: everything in it maps to typed settings and checks.
//!
//! Text is read by [`document`]; a profile that `extends` another is completed by [`extends`].

pub mod quantity;

pub mod text;

pub mod tree;

pub mod field;

mod record;

pub mod resource;

pub mod network;

pub mod component;

pub mod promise;

pub mod tuning;

pub mod extends;

pub mod canonical;

#[cfg(feature = "document")]
pub mod document;

use crate::id::ProfileName;
use crate::setting::PriorityClass;
use component::{BehavioralRule, Component, Security};
use field::{Field, Violation, Violations};
use network::NetworkPolicy;
use promise::{Amounts, Cost, Sla, Verify};
use quantity::{Quantity, Ratio};
use record::record;
use resource::{Range, ResourceWeights, Resources};
use semver::Version;
use std::collections::{BTreeMap, BTreeSet};
use text::{Application, LabelKey, LabelValue, Line, ProfileRef, TraitName};
use tree::Step;
use tuning::Tuning;

record! {
    /// What a VM is asked to be. A profile is data; it never contains a command to run.
    pub struct Profile {
        /// Its name.
        pub name: ProfileName,
        /// Its version.
        pub version: Version,
        /// What it is for, in one line.
        pub summary: Option<Line>,
        /// Anything that people sort profiles by.
        pub labels: BTreeMap<LabelKey, LabelValue>,
        /// A profile that this one builds upon: what this one does not state is taken from there.
        pub extends: Option<ProfileRef>,
        /// The traits of the VMs that it suits, each from 0.0 (not at all) to 1.0 (wholly).
        pub traits: BTreeMap<TraitName, Ratio>,
        /// What the VM may have.
        pub resources: Option<Resources>,
        /// What the VM's share is spent on.
        pub resource_weights: Option<ResourceWeights>,
        /// How much each application matters inside the VM.
        pub application_priorities: BTreeMap<Application, PriorityClass>,
        /// Scripts that guide the VM.
        pub behavioral_rules: Vec<BehavioralRule>,
        /// Firewall and link limits.
        pub network_policy: Option<NetworkPolicy>,
        /// Parts that the VM must have.
        pub components: Vec<Component>,
        /// Kernel settings inside the guest.
        pub tuning: Option<Tuning>,
        /// What the VM's owner is promised.
        pub sla: Option<Sla>,
        /// The posture that the VM must keep.
        pub security: Option<Security>,
        /// How a change to this profile is judged.
        pub verify: Option<Verify>,
        /// What it costs to enter and to leave.
        pub cost: Option<Cost>,
    }
    checked by Profile::check_across
}

impl Profile {
    /// Name and version, as in `database@1.0.0`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Every rule that this profile breaks; none means that it is sound by itself.
    pub fn violations(&self) -> Vec<Violation> {
        let mut violations = Violations::default();
        self.check(&mut violations);
        violations.into_list().0.into_iter().map(|(_, violation)| violation).collect()
    }

    /// Text with sorted keys and no spaces: equal profiles have equal text, so that its digest is an identity.
    pub fn canonical_json(&self) -> String {
        canonical::to_text(&self.to_json())
    }

    /// The JSON Schema of a profile document, as it is published.
    pub fn json_schema() -> serde_json::Value {
        let mut schema = Self::schema();
        if let serde_json::Value::Object(fields) = &mut schema {
            fields.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
            fields.insert("title".to_owned(), "Proteus profile".into());
        }
        schema
    }

    /// Rules between the sections.
    fn check_across(&self, violations: &mut Violations) {
        let inside = |name: &str| Step::Field(name.to_owned());
        if self.extends.as_ref().is_some_and(|parent| parent.name == self.name) {
            violations.inside(inside("extends"), |v| v.note("another profile", "the profile itself", None));
        }
        violations.inside(inside("behavioral_rules"), |v| {
            each_once(self.behavioral_rules.iter().map(|rule| rule.name.as_str()), v);
        });
        violations.inside(inside("components"), |v| self.check_components(v));
        violations.inside(inside("security"), |v| self.check_required_components(v));
        violations.inside(inside("verify"), |v| self.check_window(v));
        if let Some(sla) = &self.sla {
            violations.inside(inside("sla"), |v| self.check_sla(sla, v));
        }
    }

    fn check_components(&self, violations: &mut Violations) {
        each_once(self.components.iter().map(|component| component.name.as_str()), violations);
        for (index, component) in self.components.iter().enumerate() {
            for (nth, conflict) in component.conflicts.iter().enumerate() {
                if self.components.iter().any(|other| other.name == conflict.name) {
                    violations.inside(Step::Index(index), |v| {
                        v.inside(Step::Field("conflicts".to_owned()), |v| {
                            v.inside(Step::Index(nth), |v| {
                                v.note(
                                    "a component that is not in this profile",
                                    conflict.name.as_str(),
                                    None,
                                );
                            });
                        });
                    });
                }
            }
        }
    }

    fn check_required_components(&self, violations: &mut Violations) {
        let Some(security) = &self.security else { return };
        // What the parent brings is not known here; the completed profile is checked again.
        if self.extends.is_some() {
            return;
        }
        for (index, name) in security.required_components.iter().enumerate() {
            if !self.components.iter().any(|component| component.name == *name) {
                violations.inside(Step::Field("required_components".to_owned()), |v| {
                    v.inside(Step::Index(index), |v| {
                        let hint = Some("list it under components with its version".to_owned());
                        v.note("one of the profile's components", name.as_str(), hint);
                    });
                });
            }
        }
    }

    fn check_window(&self, violations: &mut Violations) {
        let Some(verify) = &self.verify else { return };
        if verify.performance.is_some() && verify.window.is_none() && self.extends.is_none() {
            let hint = Some("add window: { before: 5s, after: 5s }".to_owned());
            violations.note("a window beside performance", "none", hint);
        }
    }

    fn check_sla(&self, sla: &Sla, violations: &mut Violations) {
        let resources = self.resources.as_ref();
        let disk = resources.and_then(|r| r.disk.as_ref());
        let network = resources.and_then(|r| r.network.as_ref());
        let vcpus = resources.and_then(|r| r.vcpus.as_ref());
        let memory = resources.and_then(|r| r.memory.as_ref());
        check_promise("vcpus", sla, |a| a.vcpus, vcpus, violations);
        check_promise("memory", sla, |a| a.memory, memory, violations);
        check_promise("disk_iops", sla, |a| a.disk_iops, disk.and_then(|d| d.iops.as_ref()), violations);
        check_promise(
            "disk_bandwidth",
            sla,
            |a| a.disk_bandwidth,
            disk.and_then(|d| d.bandwidth.as_ref()),
            violations,
        );
        let to_guest = network.and_then(|n| n.to_guest.as_ref());
        check_promise("network_to_guest", sla, |a| a.network_to_guest, to_guest, violations);
        let from_guest = network.and_then(|n| n.from_guest.as_ref());
        check_promise("network_from_guest", sla, |a| a.network_from_guest, from_guest, violations);
    }
}

/// floor ≤ ceiling, and what the profile asks for lies between them.
fn check_promise<Q: Quantity>(
    name: &str,
    sla: &Sla,
    amount: impl Fn(&Amounts) -> Option<Q>,
    range: Option<&Range<Q>>,
    violations: &mut Violations,
) {
    let floor = sla.floor.as_ref().and_then(&amount);
    let ceiling = sla.ceiling.as_ref().and_then(&amount);
    let mut note = |part: &str, expected: String, found: Q| {
        violations.inside(Step::Field(part.to_owned()), |v| {
            v.inside(Step::Field(name.to_owned()), |v| v.note(expected, found.to_text(), None));
        });
    };
    if let (Some(floor), Some(ceiling)) = (floor, ceiling)
        && floor > ceiling
    {
        note("floor", format!("at most the ceiling, {}", ceiling.to_text()), floor);
    }
    let least = range.and_then(|r| r.min.or(r.preferred).or(r.max));
    if let (Some(floor), Some(least)) = (floor, least)
        && floor > least
    {
        note("floor", format!("at most the least that resources ask for, {}", least.to_text()), floor);
    }
    let most = range.and_then(|r| r.max.or(r.preferred).or(r.min));
    if let (Some(ceiling), Some(most)) = (ceiling, most)
        && ceiling < most
    {
        note("ceiling", format!("at least the most that resources ask for, {}", most.to_text()), ceiling);
    }
}

/// Notes names that come twice in the list that is being looked at.
fn each_once<'a>(names: impl Iterator<Item = &'a str>, violations: &mut Violations) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            violations.inside(Step::Index(index), |v| {
                v.inside(Step::Field("name".to_owned()), |v| {
                    v.note("each name once", format!("\"{name}\" again"), None)
                });
            });
        }
    }
}
