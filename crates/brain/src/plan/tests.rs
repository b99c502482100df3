//! Plans on made-up subjects: what is wished, held, noted, ordered; and that a plan survives its own JSON.

use super::*;
use proteus_model::capability::CapabilityReport;
use proteus_model::profile::document;
use proteus_model::setting::{KnobKind, NicRate, ThpMode, Weight};
use proteus_model::unit::{MilliCpu, Millis, UnixMillis};
use proteus_model::vm::Boot;

fn subject(available: Option<u64>) -> Subject {
    let mut capabilities = CapabilityReport::default();
    for kind in KnobKind::ALL {
        capabilities.supports(Ability::Knob(kind), "made up", Millis(0));
    }
    capabilities.supports(Ability::ReplaceVmm, "made up", Millis(50));
    capabilities.limits.vcpus_max = 4;
    capabilities.limits.memory_boot = Bytes::mib(512);
    capabilities.limits.hot_memory_max = Bytes::mib(512);
    Subject {
        id: VmId::from_bits(1),
        name: "web".parse().unwrap(),
        intent: VmIntent {
            vcpus_max: 4,
            memory_max: Bytes::mib(1024),
            ..VmIntent::new("web".parse().unwrap(), Boot::Firmware, Bytes::mib(512))
        },
        version: 3,
        generation: Generation(7),
        capabilities,
        memory: available.map(|mib| (Bytes::mib(512), Bytes::mib(mib))),
        resident: Some(Bytes::mib(100)),
    }
}

fn profile(body: &str) -> Profile {
    document::parse("p.yaml", format!("name: p\nversion: 1.0.0\n{body}").as_bytes(), None).unwrap()
}

fn setting_of(wishes: &Wishes, knob: &Knob) -> Option<Setting> {
    wishes.settings.iter().find(|wish| wish.setting.knob() == *knob).map(|wish| wish.setting.clone())
}

#[test]
fn cpu_time_becomes_whole_cpus_and_a_cap() {
    let of = |amount: &str| {
        let body = format!("resources: {{ vcpus: {{ preferred: {amount} }} }}");
        let wishes = wishes(&profile(&body), &subject(None));
        (setting_of(&wishes, &Knob::Vcpus), setting_of(&wishes, &Knob::CpuCap))
    };
    assert_eq!(of("1500m").0, Some(Setting::Vcpus { online: 2 }));
    assert_eq!(of("1500m").1, Some(Setting::CpuCap { limit: Some(MilliCpu(1500)) }));
    assert_eq!(of("2").1, Some(Setting::CpuCap { limit: None }));
    assert_eq!(of("9").0, Some(Setting::Vcpus { online: 4 }), "clamped to what the VM was created for");
}

#[test]
fn memory_is_never_taken_below_what_is_used_and_a_margin() {
    let shrink = profile("resources: { memory: { preferred: 128MiB } }");
    let target = |available| setting_of(&wishes(&shrink, &subject(available)), &Knob::Memory);
    // 512 − 412 = 100 MiB used, a quarter is less than 32 MiB: 132 MiB.
    assert_eq!(target(Some(412)), Some(Setting::Memory { target: Bytes::mib(132) }));
    // 400 MiB used and a quarter of it.
    assert_eq!(target(Some(112)), Some(Setting::Memory { target: Bytes::mib(500) }));
    // Unknown is not zero: held.
    assert_eq!(target(None), Some(Setting::Memory { target: Bytes::mib(512) }));
}

#[test]
fn memory_beyond_the_boot_memory_is_plugged_in() {
    let wishes = wishes(&profile("resources: { memory: { preferred: 768MiB } }"), &subject(Some(300)));
    assert_eq!(setting_of(&wishes, &Knob::Memory), Some(Setting::Memory { target: Bytes::mib(512) }));
    assert_eq!(setting_of(&wishes, &Knob::HotMemory), Some(Setting::HotMemory { plugged: Bytes::mib(256) }));
}

#[test]
fn what_is_not_built_is_named_and_nothing_else_is() {
    let named = wishes(
        &profile("sla: { objectives: [ { latency: { percentile: 99, max: 20ms } } ] }"),
        &subject(None),
    );
    assert_eq!(named.unsupported.len(), 1);
    assert_eq!(named.unsupported[0].field, "sla.objectives");
    let mut subject = subject(None);
    subject.capabilities.lacks(Ability::Knob(KnobKind::Thp), "no agent");
    let refused = wishes(&profile("tuning: { thp: never }"), &subject);
    assert_eq!(refused.unsupported[0].why, "no agent");
}

#[test]
fn giving_comes_before_taking_and_a_plan_survives_its_json() {
    let wanted = profile(
        "resources: { vcpus: { preferred: 2 }, memory: { preferred: 256MiB }, \
         network: { to_guest: { preferred: 10MiB/s } } }\ntuning: { thp: never }",
    );
    let subject = subject(Some(450));
    let now = [
        Setting::Vcpus { online: 1 },
        Setting::CpuCap { limit: None },
        Setting::Memory { target: Bytes::mib(512) },
        Setting::HotMemory { plugged: Bytes::ZERO },
        Setting::NicRate { rate: NicRate::default() },
        Setting::Thp { mode: ThpMode::Madvise },
    ];
    let wished = wishes(&wanted, &subject);
    let plan = compose(&wanted, "digest", &subject, wished, &now);
    let knobs: Vec<Knob> = plan.knobs().collect();
    assert_eq!(knobs, [Knob::Vcpus, Knob::Thp, Knob::Memory, Knob::NicRate]);
    assert_eq!(plan.already.len(), 2);
    for plan in [plan, compose_fresh_vmm(&subject)] {
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}

#[test]
fn a_rollback_leads_to_the_settings_of_the_version() {
    let settings = [Setting::CpuWeight { weight: Weight(300) }];
    let now = [Setting::CpuWeight { weight: Weight::NEUTRAL }];
    let of = |settings: &[Setting]| Version {
        number: 2,
        goal: None,
        morph: None,
        at: UnixMillis(0),
        profile: Some("p@1.0.0".into()),
        settings: settings.to_vec(),
    };
    let plan = compose_rollback(&subject(None), &of(&settings), &settings, &now);
    assert_eq!(plan.goal, Goal::Version { number: 2, profile: Some("p@1.0.0".into()) });
    assert_eq!(plan.steps.len(), 1);
}

/// What was decided from, written down and read again.
fn recorded(subject: &Subject) -> Subject {
    let again = |text: String| serde_json::from_str(&text).unwrap();
    let intent = serde_json::to_string(&subject.intent).unwrap();
    let capabilities = serde_json::to_string(&subject.capabilities).unwrap();
    Subject {
        intent: serde_json::from_str(&intent).unwrap(),
        capabilities: again(capabilities),
        ..subject.clone()
    }
}

#[test]
fn a_decision_repeated_on_its_recorded_snapshot_is_the_same() {
    let body = "resources: { vcpus: { preferred: 1500m }, memory: { preferred: 384MiB } }\n\
        resource_weights: { cpu: 0.5, memory: 0.25, network: 0.25, storage_io: 0.0 }\n\
        tuning: { thp: never, sysctl: { vm.swappiness: 10 } }";
    let (profile, subject) = (profile(body), subject(Some(300)));
    let now = [Setting::Thp { mode: ThpMode::Always }, Setting::Vcpus { online: 1 }];
    let decide = |profile: &Profile, subject: &Subject| {
        let plan = compose(profile, "digest", subject, wishes(profile, subject), &now);
        serde_json::to_string(&plan).unwrap()
    };
    let first = decide(&profile, &subject);
    let text = profile.canonical_json();
    let read = document::parse("p.json", text.as_bytes(), None).unwrap();
    assert!(first.contains("swappiness"), "{first}");
    for _ in 0..10 {
        assert_eq!(decide(&read, &recorded(&subject)), first);
    }
}

#[test]
fn a_snapshot_comes_first_and_its_undo_leaves_it() {
    let wanted = profile("resources: { vcpus: { preferred: 2 } }");
    let mut subject = subject(None);
    let now = [Setting::Vcpus { online: 1 }, Setting::CpuCap { limit: None }];
    let made = || compose(&wanted, "digest", &subject, wishes(&wanted, &subject), &now);
    let refused = with_snapshot(made(), &subject);
    assert_eq!((refused.steps.len(), refused.unsupported[0].field.as_str()), (1, "snapshot"));
    let plain = made();
    subject.capabilities.supports(Ability::Snapshot, "made up", Millis(700));
    let plan = with_snapshot(plain, &subject);
    let first = &plan.steps[0];
    let name = "before-morph-8".parse().unwrap();
    assert_eq!(first.change, Change::Snapshot { name, disk_max: Bytes::mib(116) });
    assert!(matches!(&first.undo, Undo::Nothing { because } if because.contains("stays")));
    assert_eq!((plan.steps.len(), plan.blackout_ms_max()), (2, Millis(700)));
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn a_weight_that_is_not_turned_is_noted_with_the_hosts_own_reason() {
    let wanted = profile("resource_weights: { cpu: 0.25, memory: 0.25, network: 0.1, storage_io: 0.4 }");
    let mut subject = subject(None);
    subject.capabilities.lacks(Ability::StorageWeight, "the device vda knows no weights");
    let notes = wishes(&wanted, &subject).notes;
    let of = |name: &str| notes.iter().find(|note| note.starts_with(&format!("resource_weights.{name}: ")));
    assert_eq!(
        of("storage_io").unwrap(),
        "resource_weights.storage_io: 0.40 is recorded and not turned: the device vda knows no weights"
    );
    assert!(of("network").unwrap().ends_with("the driver does not report this ability"));
    // A quarter is neutral: there is nothing to say.
    assert_eq!(of("memory"), None);
}
