//! Texts as people see them.

use super::*;
use proteus_model::allocation::{Amount, Bounds, Reservation};
use proteus_model::capability::Ability;
use proteus_model::execution::{State, Version};
use proteus_model::id::{Generation, MorphId, VmId};
use proteus_model::plan::{Goal, Plan};
use proteus_model::setting::{KnobKind, Weight};
use proteus_model::unit::{Bytes, MilliCpu, Millis, Permille};
use proteus_model::verification::Comparison;
use proteus_model::vm::{Boot, VmIntent};

/// A VM that runs, of 256 MiB and a vCPU at its beginning.
fn view(more: serde_json::Value) -> VmView {
    let intent = VmIntent::new("web".parse().unwrap(), Boot::Firmware, Bytes::mib(256));
    let mut whole = serde_json::json!({
        "id": VmId::from_bits(1), "name": "web", "power": "running", "version": 0, "disarmed": false,
        "intent": intent, "managed": [],
    });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[test]
fn a_vm_is_as_large_as_it_is_now() {
    let row = |managed: &[Setting]| vms(&[view(serde_json::json!({ "managed": managed }))]);
    assert!(row(&[]).contains("running  1/1    256 MiB  "), "{}", row(&[]));
    let smaller = Setting::Memory { target: Bytes::mib(192) };
    assert!(row(std::slice::from_ref(&smaller)).contains("  192 MiB  "));
    let larger = [smaller, Setting::HotMemory { plugged: Bytes::mib(1024) }, Setting::Vcpus { online: 3 }];
    assert!(row(&larger).contains("  3/1    1.2 GiB  "), "{}", row(&larger));
}

#[test]
fn a_vm_that_is_disarmed_is_shown_to_be() {
    let said = "\nweb is disarmed: no morph of it goes forward; `proteus arm --vm web` arms it again\n";
    let disarmed = view(serde_json::json!({ "disarmed": true }));
    assert!(vms(std::slice::from_ref(&disarmed)).contains(said));
    assert!(vm(&disarmed, None, &[], &[]).contains(said));
    assert!(!vms(&[view(serde_json::json!({}))]).contains("disarmed"));
}

#[test]
fn what_somebody_else_changed_is_shown_of_a_vm() {
    let weight = |weight| Setting::CpuWeight { weight: Weight(weight) };
    let view = view(serde_json::json!({ "managed": [weight(200)] }));
    let (recorded, found) = (weight(200), weight(777));
    let one = DifferenceView { knob: recorded.knob(), recorded, found };
    let told = vm(&view, None, &[], std::slice::from_ref(&one));
    let line = "\n1 setting is not as Proteus left it: cpu weight; `proteus vm differences web` shows how\n";
    assert!(told.ends_with(line), "{told}");
    assert!(!vm(&view, None, &[], &[]).contains("Proteus left it"));
    assert_eq!(
        differences("web", &[one]),
        "SETTING     AS PROTEUS LEFT IT  AS IT IS\ncpu weight  200                 777\n"
    );
    assert_eq!(differences("web", &[]), "web is as Proteus left it\n");
}

#[test]
fn output_that_was_cut_is_said_to_be() {
    let view = |truncated| ExecView {
        exit_code: Some(0),
        signal: None,
        timed_out: false,
        stdout: String::new(),
        stderr: String::new(),
        truncated,
    };
    assert_eq!(cut(&view(false)), None);
    assert!(cut(&view(true)).unwrap().contains("only the first 64 KiB each"));
}

#[test]
fn moments_are_civil_dates() {
    assert_eq!(moment(UnixMillis(0)), "1970-01-01 00:00:00");
    assert_eq!(moment(UnixMillis(951_782_400_000)), "2000-02-29 00:00:00");
    assert_eq!(moment(UnixMillis(1_795_269_785_000)), "2026-11-21 14:03:05");
}

#[test]
fn an_agent_that_does_not_answer_is_not_shown_as_if_it_did() {
    let view = |agent: serde_json::Value, silent: serde_json::Value| {
        view(serde_json::json!({ "agent": agent, "agent_silent_since": silent }))
    };
    let told = |agent, silent| vm(&view(agent, silent), None, &[], &[]);
    assert!(told("0.1.0".into(), ().into()).ends_with("  0.1.0\n"));
    let silent = told(().into(), 1_795_269_785_000_u64.into());
    let said = "  silent\n\nits agent does not answer; it was heard last at 2026-11-21 14:03:05 UTC\n";
    assert!(silent.ends_with(said), "{silent}");
    assert!(told(().into(), ().into()).contains("no agent answers"));
}

#[test]
fn what_cannot_be_done_is_not_under_what_can() {
    let mut report =
        CapabilityReport { driver: "qemu".into(), accelerator: "kvm".into(), ..CapabilityReport::default() };
    report.lacks(Ability::Knob(KnobKind::Thp), "the guest's agent does not answer");
    report.supports(Ability::Knob(KnobKind::Memory), "virtio-balloon", Millis(0));
    report.supports(Ability::ReplaceVmm, "shared memory file", Millis(500));
    let told = vm(&view(serde_json::json!({})), Some(&report), &[], &[]);
    let end = "\ncan be done live (qemu, kvm)\n  memory: virtio-balloon\n  replace_vmm: shared memory file, \
               pause up to 500 ms\n\ncannot be done, here and now\n  thp: the guest's agent does not answer\n";
    assert!(told.ends_with(end), "{told}");
}

#[test]
fn who_has_what_is_a_table() {
    let mut view = AllocationView { table: Default::default(), free: [].into(), names: [].into() };
    assert_eq!(allocation(&view), "no VM has a share; it gets one when it starts\n");
    let (host, vm): (HostName, _) = ("box".parse().unwrap(), VmId::from_bits(1));
    let amount = |cpu, mib| Amount::new(MilliCpu(cpu), Bytes::mib(mib));
    let capacity = Capacity { cpu: MilliCpu(2000), cpu_overcommit: Permille(4000), memory: Bytes::mib(2048) };
    view.table.set_host(host.clone(), capacity).unwrap();
    view.table.admit(vm, host.clone(), amount(1000, 256), Bounds::NONE).unwrap();
    let after = [(host.clone(), amount(1500, 384))].into();
    let morph = MorphId::from_bits(2);
    view.table.reserve(morph, Reservation { vm, generation: Generation(1), after }).unwrap();
    view.names = [(vm, "web".parse().unwrap())].into();
    view.free = [(host.clone(), view.table.free(&host).unwrap())].into();
    assert_eq!(
        allocation(&view),
        format!(
            "HOST  CPU TO SHARE  FREE      MEMORY TO SHARE  FREE\n\
             box   8 CPU         6.50 CPU  2 GiB            1.6 GiB\n\n\
             VM   HOST  CPU    MEMORY   RESERVED\n\
             web  box   1 CPU  256 MiB  1.50 CPU, 384 MiB by {morph}\n"
        )
    );
}

#[test]
fn a_plan_says_what_becomes_of_what_is_not_supported() {
    let shown: Plan = serde_json::from_value(serde_json::json!({
        "vm": VmId::from_bits(1), "vm_name": "web", "goal": Goal::Version { number: 0, profile: None }, "base_version": 0,
        "base_generation": 0, "steps": [], "already": [], "notes": [], "verify": null,
        "unsupported": [{"field": "knobs.thp", "why": "no such file"}],
    }))
    .unwrap();
    let refused = plan(&shown, false);
    assert!(refused.contains("`morph apply` refuses this; `--skip-unsupported` leaves it out"), "{refused}");
    let skipped = plan(&shown, true);
    assert!(skipped.contains("and left out:\n  knobs.thp: no such file\n"), "{skipped}");
    assert!(!skipped.contains("refuses"), "{skipped}");
}

/// A morph of a VM at version 3, and what is known of it besides.
fn ended(verify: serde_json::Value, more: serde_json::Value) -> String {
    let mut whole = serde_json::json!({
        "id": MorphId::from_bits(2), "generation": 1, "actor": "root", "began_at": 0, "ended_at": 1, "before": [],
        "baseline": null, "steps": [], "verification": null, "left_alone": [], "reason": null, "undo_ms": null,
        "plan": {
            "vm": VmId::from_bits(1), "vm_name": "web", "goal": Goal::Version { number: 1, profile: None },
            "base_version": 3, "base_generation": 0, "steps": [], "already": [], "notes": [], "unsupported": [],
            "verify": verify,
        },
    });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    morph(&serde_json::from_value(whole).unwrap())
}

#[test]
fn a_parked_morph_says_what_can_be_done_next() {
    let of = |state: State| ended(().into(), serde_json::to_value(state).unwrap());
    let (parked, id) = (of(State::Parked), MorphId::from_bits(2));
    assert!(parked.contains(&format!("`proteus morph status {id}`")), "{parked}");
    assert!(parked.contains("`proteus morph rollback web --to 3`"), "{parked}");
    assert!(!of(State::Committed).contains("rollback"));
}

#[test]
fn what_nothing_was_judged_by_is_not_called_verified() {
    let of = |verify, passed, unhealthy: &[&str]| {
        let mut more = serde_json::to_value(State::Committed).unwrap();
        more["verification"] =
            serde_json::json!({ "passed": passed, "unhealthy": unhealthy, "comparisons": [] });
        ended(verify, more)
    };
    let bare = of(().into(), true, &[]);
    assert!(bare.contains("nothing to verify") && !bare.contains("passed"), "{bare}");
    let check: proteus_model::profile::promise::Verify =
        serde_json::from_value(serde_json::json!({ "health": [{ "tcp": { "port": 80 } }] })).unwrap();
    let check = serde_json::to_value(check).unwrap();
    assert!(of(check.clone(), true, &[]).contains("verification passed"));
    assert!(of(check, false, &["tcp 80"]).contains("verification failed"));
}

#[test]
fn what_is_compared_has_units() {
    let told = |measure: &str, before, after, limit| {
        let why = "within the limit".to_owned();
        let (measure, noise, limit) = (measure.to_owned(), None, Some(limit));
        comparison(&Comparison { measure, before, noise, after, limit, harm: false, why })
    };
    assert_eq!(
        told("throttled", None, Some(123.4), 600.0),
        "throttled: - before, 12.3 % after, limit 60.0 %: within the limit"
    );
    assert_eq!(
        told("probe_latency", Some(1_500.0), Some(20_049.0), 500_000.0),
        "probe_latency: 1.5 ms before, 20.0 ms after, limit 500.0 ms: within the limit"
    );
}

#[test]
fn a_history_says_how_much_of_it_is_not_shown() {
    let version = |number| Version {
        number,
        goal: None,
        morph: None,
        at: UnixMillis(0),
        profile: None,
        settings: Vec::new(),
    };
    let all = versions("web", &[version(0), version(1)]);
    assert!(!all.contains("not shown"), "{all}");
    let end = versions("web", &[version(7), version(8)]);
    let said = "\n7 earlier versions are not shown; `proteus morph history web --before 7` goes on with them, \
                --limit takes up to 1000 at once\n";
    assert!(end.ends_with(said), "{end}");
}

#[test]
fn an_audit_entry_has_its_evidence_in_a_line() {
    let entry = |seq: u64, evidence: serde_json::Value| {
        serde_json::json!({ "seq": seq, "at": 0, "actor": "root", "action": "vm.exec", "subject": "vm/web",
            "why": "asked for", "hash": "ab", "evidence": evidence })
    };
    let of = |evidence| {
        let entries = vec![entry(1, ().into()), entry(2, evidence)];
        audit(&AuditView { entries, earlier: 0, intact: true, broken: None })
    };
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let plain = lines(&of(serde_json::json!({})));
    assert_eq!(plain.len(), 5, "{plain:?}");
    let some =
        of(serde_json::json!({ "argv": ["/bin/sh", "a\nb\u{1b}"], "service": null, "timeout_ms": 60000 }));
    let some = lines(&some);
    assert_eq!(some[..3], plain[..3]);
    assert_eq!(some[3], r#"     argv=["/bin/sh","a\nb\u001b"] timeout_ms=60000"#);
    let long = lines(&of(serde_json::json!({ "argv": ["ü".repeat(500)] })));
    assert!(long[3].ends_with('…') && long[3].chars().count() == 5 + EVIDENCE_SHOWN + 1, "{}", long[3]);
}

#[test]
fn tables_are_as_wide_as_they_must_be() {
    let rows = vec![vec!["a".to_owned(), "bcd".to_owned()]];
    assert_eq!(table(&["LONG", "X"], &rows), "LONG  X\na     bcd\n");
}

#[test]
fn a_stop_says_how_long_was_waited_and_why() {
    let told = |by_itself, answered, waited| {
        stopped("web", &StopView { by_itself, answered, waited_ms: Millis(waited) })
    };
    assert_eq!(told(true, true, 900), "web stopped\n");
    assert_eq!(told(false, true, 2012), "web did not go within 2 s and was ended\n");
    assert_eq!(told(false, false, 60_030), "web was ended after 1 min: its VMM did not answer\n");
    assert_eq!(told(false, true, 3), "web was ended at once\n");
    assert_eq!(told(false, false, 0), "web was ended at once: its VMM did not answer\n");
}
