//! What is known, ordered, drawn and asked for.

use super::*;
use expect_test::{Expect, expect};
use proteus_model::id::MorphId;
use proteus_model::plan::Goal;
use proteus_model::unit::Bytes;
use proteus_model::vm::{Boot, VmIntent};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{from_value, json};

fn vm(bits: u128, name: &str, power: &str) -> VmView {
    let intent = VmIntent::new(name.parse().unwrap(), Boot::Firmware, Bytes::mib(256));
    from_value(json!({
        "id": VmId::from_bits(bits), "name": name, "power": power, "version": 0, "agent": null,
        "disarmed": false, "intent": intent, "managed": [], "resident": null, "profile": null,
    }))
    .unwrap()
}

fn usage(cpu: f32) -> UsageView {
    let value = |value: f32, unit: &str| json!({"value": value, "unit": unit, "of_guest": false});
    from_value(json!({
        "at": 1_790_000_400_000u64, "faults": {}, "disagreement": null,
        "values": {
            "cpu": value(cpu, "m"), "memory": value(cpu + 100.0, "MiB"), "pressure_cpu": value(12.0, "‰"),
            "pressure_io": value(341.0, "‰"), "received": value(10.0, "KiB/s"), "sent": value(2000.0, "KiB/s"),
        },
    }))
    .unwrap()
}

fn morph(bits: u128) -> Morph {
    let goal = Goal::Profile { label: "database@1.0.0".to_owned(), digest: String::new() };
    from_value(json!({
        "id": MorphId::from_bits(bits), "generation": 1, "actor": "root", "began_at": 0, "ended_at": null,
        "before": [], "baseline": null, "steps": [], "verification": null, "left_alone": [], "reason": null,
        "undo_ms": null, "state": "verifying",
        "plan": {
            "vm": VmId::from_bits(2), "vm_name": "db", "goal": goal,
            "base_version": 0, "base_generation": 0, "steps": [], "already": [], "notes": [], "unsupported": [],
            "verify": null,
        },
    }))
    .unwrap()
}

fn look(vms: Vec<VmView>, usages: Vec<(u128, Result<UsageView, String>)>) -> Look {
    let host = from_value(json!({
        "name": "host", "cpus": 4, "memory": 8u64 << 30, "memory_available": null, "accelerator": "kvm",
        "accelerator_why": "", "hypervisor": "", "namespace": null, "version": "1", "disarmed_by": null,
    }));
    let usages = usages.into_iter().map(|(bits, usage)| (VmId::from_bits(bits), usage)).collect();
    Look { lists: Ok(Lists { host: host.unwrap(), vms, morphs: Vec::new() }), usages }
}

fn some() -> Top {
    let mut db = vm(2, "db", "running");
    (db.morph, db.profile) = (Some(MorphId::from_bits(7)), Some("database@1.0.0".to_owned()));
    let vms = vec![
        vm(1, "web", "running"),
        db,
        vm(3, "silent", "running"),
        vm(4, "off", "stopped"),
        vm(5, "stuck", "hung"),
        vm(6, "new", "running"),
    ];
    let mut look = look(
        vms,
        vec![(1, Ok(usage(250.0))), (2, Ok(usage(1900.0))), (3, Err("no answer within 3 s".to_owned()))],
    );
    if let Ok(lists) = &mut look.lists {
        lists.morphs.push(morph(7));
    }
    let mut top = Top::new(Sort::Cpu);
    top.take(look);
    top
}

fn frame(top: &mut Top, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    top.fit(room(top, height));
    terminal.draw(|frame| draw(frame, top)).unwrap();
    terminal.backend().to_string()
}

fn check(top: &mut Top, size: (u16, u16), expected: Expect) {
    expected.assert_eq(&frame(top, size.0, size.1));
}

#[test]
fn a_wide_and_a_narrow_terminal_show_what_is_known_and_no_more() {
    check(
        &mut some(),
        (110, 13),
        expect![[r#"
            "host · 4 CPUs · 8 GiB · kvm                                                                                   "
            "4 of 6 VMs run, 2 not well · 4 vCPUs use 2.15 of 4 CPUs as far as known · memory 2.3 GiB                      "
            "morph db → database@1.0.0: verifying                                                                          "
            "                                                                                                              "
            "NAME            STATE             CPU      MEMORY    PRESSURE  LABEL            PROFILE                 DISK/S"
            "db              verifying        1.90     2.0 GiB   io 34.1 %  -                database@1.0.0               -"
            "web             running          0.25     350 MiB   io 34.1 %  -                -                            -"
            "new             running             -           -           -  -                -                            -"
            "off             stopped             -           -           -  -                -                            -"
            "silent          no answer           -           -           -  -                -                            -"
            "stuck           hung                -           -           -  -                -                            -"
            "                                                                                                              "
            "q quit · r reverse · n name · c cpu · m memory · p pressure · d disk · t traffic               cpu ↓  1–6 of 6"
        "#]],
    );
    check(
        &mut some(),
        (60, 13),
        expect![[r#"
            "host · 4 CPUs · 8 GiB · kvm                                 "
            "4 of 6 VMs run, 2 not well · 4 vCPUs use 2.15 of 4 CPUs as f"
            "morph db → database@1.0.0: verifying                        "
            "                                                            "
            "NAME           STATE             CPU      MEMORY    PRESSURE"
            "db             verifying        1.90     2.0 GiB   io 34.1 %"
            "web            running          0.25     350 MiB   io 34.1 %"
            "new            running             -           -           -"
            "off            stopped             -           -           -"
            "silent         no answer           -           -           -"
            "stuck          hung                -           -           -"
            "                                                            "
            "q quit · r reverse · n name · c cpu · m me…  cpu ↓  1–6 of 6"
        "#]],
    );
}

#[test]
fn before_the_first_answer_and_without_one_that_is_said() {
    let mut top = Top::new(Sort::Name);
    check(
        &mut top,
        (60, 6),
        expect![[r#"
            "asking Proteus …                                            "
            "                                                            "
            "                                                            "
            "NAME           STATE             CPU      MEMORY    PRESSURE"
            "                                                            "
            "q quit · r reverse · n name · c cpu · m m…  name ↑  0–0 of 0"
        "#]],
    );
    let mut top = some();
    top.take(Look { lists: Err("Proteus does not answer at /run/x".to_owned()), usages: BTreeMap::new() });
    assert!(
        frame(&mut top, 100, 14)
            .contains("Proteus does not answer at /run/x; what was known before is shown")
    );
    assert!(frame(&mut top, 100, 14).contains("database@1.0.0"));
    top.take(look(Vec::new(), Vec::new()));
    let empty = frame(&mut top, 100, 14);
    assert!(empty.contains("no VMs yet") && !empty.contains("does not answer"), "{empty}");
}

#[test]
fn no_size_of_a_terminal_is_too_small() {
    for width in [1, 2, 5, 20, 300] {
        for height in [1, 2, 3, 8, 100] {
            let _ = frame(&mut some(), width, height);
        }
    }
}

#[test]
fn the_same_once_is_a_table() {
    expect![[r#"
        host · 4 CPUs · 8 GiB · kvm
        4 of 6 VMs run, 2 not well · 4 vCPUs use 2.15 of 4 CPUs as far as known · memory 2.3 GiB
        morph db → database@1.0.0: verifying

        NAME    STATE      CPU   MEMORY   PRESSURE   LABEL  PROFILE         DISK/S  NETWORK/S
        db      verifying  1.90  2.0 GiB  io 34.1 %  -      database@1.0.0  -       2.0 MiB
        web     running    0.25  350 MiB  io 34.1 %  -      -               -       2.0 MiB
        new     running    -     -        -          -      -               -       -
        off     stopped    -     -        -          -      -               -       -
        silent  no answer  -     -        -          -      -               -       -
        stuck   hung       -     -        -          -      -               -       -

        silent: no answer within 3 s
    "#]]
    .assert_eq(&plain(&some()));
}

fn names(top: &Top) -> String {
    top.entries.iter().map(|entry| entry.vm.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn keys_order_and_what_is_not_known_is_last_either_way() {
    let mut top = some();
    let mut press = |key: char| {
        assert_eq!(top.press(KeyCode::Char(key), KeyModifiers::NONE), Turn::Stay);
        names(&top)
    };
    assert_eq!(press('c'), "db web new off silent stuck");
    assert_eq!(press('r'), "web db new off silent stuck");
    assert_eq!(press('n'), "db new off silent stuck web");
    assert_eq!(press('r'), "web stuck silent off new db");
    assert_eq!(press('d'), "db new off silent stuck web");
    for (key, modifiers) in
        [(KeyCode::Char('q'), KeyModifiers::NONE), (KeyCode::Char('c'), KeyModifiers::CONTROL)]
    {
        assert_eq!(top.press(key, modifiers), Turn::Quit);
    }
}

#[test]
fn two_hundred_vms_are_paged_and_the_mark_stays_on_its_vm() {
    let mut top = Top::new(Sort::Cpu);
    let vms = || (1..=200).map(|bits| vm(bits, &format!("vm-{bits:03}"), "running")).collect::<Vec<_>>();
    let used = |turn: fn(u128) -> f32| (1..=200).map(|bits| (bits, Ok(usage(turn(bits))))).collect();
    top.take(look(vms(), used(|bits| bits as f32)));
    assert!(frame(&mut top, 80, 24).contains("cpu ↓  1–19 of 200"), "{}", frame(&mut top, 80, 24));
    top.press(KeyCode::Down, KeyModifiers::NONE);
    assert_eq!(top.marked, Some(VmId::from_bits(199)));
    top.press(KeyCode::PageDown, KeyModifiers::NONE);
    assert!(frame(&mut top, 80, 24).contains("3–21 of 200"), "{}", frame(&mut top, 80, 24));
    // All the other way round: the mark is on the same VM, and in sight.
    let marked = top.marked;
    top.take(look(vms(), used(|bits| 1000.0 - bits as f32)));
    assert_eq!(top.marked, marked);
    assert!(top.wanted().contains(&marked.unwrap()));
    top.press(KeyCode::End, KeyModifiers::NONE);
    assert!(frame(&mut top, 80, 24).contains("182–200 of 200"));
    // Fewer than before: what is seen is still there.
    top.take(look(vec![vm(1, "one", "running")], Vec::new()));
    assert!(frame(&mut top, 80, 24).contains("1–1 of 1"));
}

#[test]
fn a_look_asks_for_what_is_seen_and_for_the_others_in_turn() {
    let mut vms: Vec<VmView> = (1..=100).map(|bits| vm(bits, &format!("vm-{bits}"), "running")).collect();
    vms.push(vm(101, "off", "stopped"));
    let seen = [VmId::from_bits(50), VmId::from_bits(101)];
    let (mut last, mut asked) = (None, std::collections::BTreeSet::new());
    for _ in 0..7 {
        let (chosen, after) = choose(&vms, &seen, last);
        assert_eq!((chosen.len(), chosen[0]), (17, VmId::from_bits(50)));
        last = after;
        asked.extend(chosen);
    }
    assert_eq!(asked.len(), 100);
    // A screen that has them all leaves none for a turn.
    let all: Vec<VmId> = (1..=40).map(VmId::from_bits).collect();
    assert_eq!(choose(&vms[..40], &all, last), (all, last));
    assert!(choose(&[], &seen, last).0.is_empty());
}

#[test]
fn what_was_measured_long_ago_is_not_what_is_used_now() {
    let mut old = usage(900.0);
    old.at = old.at.map(|at| proteus_model::unit::UnixMillis(at.0 - FRESH_MS - 1));
    let mut top = Top::new(Sort::Cpu);
    let vms = vec![vm(1, "old", "running"), vm(2, "new", "running")];
    top.take(look(vms, vec![(1, Ok(old)), (2, Ok(usage(100.0)))]));
    assert_eq!(names(&top), "new old");
    assert_eq!(top.entries[1].figures.cpu, None);
    assert_eq!(top.entries[0].figures.cpu, Some(100.0));
}
