//! What the reader of profiles takes, and what it says to everything else.

use super::super::text::ProfileRef;
use super::*;
use expect_test::{Expect, expect};

const FULL: &str = include_str!("../../../fuzz/corpus/profile/full.yaml");
const HEAD: &str = "name: x\nversion: 1.0.0\n";

fn problems(file: &str, text: &[u8]) -> String {
    match parse(file, text, None) {
        Ok(_) => "taken\n".to_owned(),
        Err(list) => {
            assert!(!list.is_empty(), "an error without a problem");
            list.iter().map(|problem| format!("{problem}\n")).collect()
        }
    }
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&problems("p.yaml", text.as_bytes()));
}

fn check_body(body: &str, expected: Expect) {
    check(&format!("{HEAD}{body}"), expected);
}

#[test]
fn the_full_document_is_taken_and_written_back_the_same() {
    let profile = parse("full.yaml", FULL.as_bytes(), None).unwrap();
    let json = profile.canonical_json();
    assert_eq!(parse("x.json", json.as_bytes(), None).unwrap(), profile);
    assert_eq!(parse("x.yaml", json.as_bytes(), None).unwrap(), profile);
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    assert_eq!(serde_json::from_str::<Profile>(&serde_json::to_string(&profile).unwrap()).unwrap(), profile);
    for field in Profile::FIELDS {
        assert!(json.contains(&format!("\"{field}\":")), "{field} is not in the full document");
    }
}

#[test]
fn every_field_of_the_schema_is_in_the_full_document() {
    fn walk(schema: &serde_json::Value, document: &serde_json::Value, path: &str, missing: &mut Vec<String>) {
        if let Some(fields) = schema["properties"].as_object() {
            for (name, below) in fields {
                match document.get(name) {
                    Some(part) => walk(below, part, &format!("{path}.{name}"), missing),
                    None => missing.push(format!("{path}.{name}")),
                }
            }
        }
        if let (Some(items), Some(list)) = (schema.get("items"), document.as_array()) {
            let kinds = items["oneOf"].as_array().map_or(vec![items], |kinds| kinds.iter().collect());
            for kind in kinds {
                // A field is covered if one of the items has it.
                let per_item: Vec<Vec<String>> = list
                    .iter()
                    .map(|item| {
                        let mut missing = Vec::new();
                        walk(kind, item, path, &mut missing);
                        missing
                    })
                    .collect();
                if let Some(first) = per_item.first() {
                    missing.extend(first.iter().filter(|m| per_item.iter().all(|i| i.contains(m))).cloned());
                }
            }
        }
    }
    let profile = parse("full.yaml", FULL.as_bytes(), None).unwrap();
    let mut missing = Vec::new();
    walk(&Profile::json_schema(), &serde_json::to_value(&profile).unwrap(), "", &mut missing);
    missing.retain(|m| m != ".cost.leave.blackout" && m != ".cost.leave.settling");
    missing.retain(|m| !m.starts_with(".sla.ceiling."));
    let allowed = [".resources.network.from_guest.min", ".resources.network.from_guest.max"];
    missing.retain(|m| !allowed.contains(&m.as_str()));
    missing.retain(|m| !m.starts_with(".network_policy"));
    assert!(missing.is_empty(), "not in full.yaml: {missing:?}");
}

#[test]
fn the_same_profile_in_three_formats_is_the_same() {
    let toml = parse("small.toml", include_bytes!("../../../fuzz/corpus/profile/small.toml"), None).unwrap();
    let mut json =
        parse("small.json", include_bytes!("../../../fuzz/corpus/profile/small.json"), None).unwrap();
    assert_eq!(json.summary.as_ref().unwrap().as_str(), "Grüße 😀 a/b");
    json.summary = None;
    assert_eq!(toml, json);
    let sniffed = parse("-", json.canonical_json().as_bytes(), None).unwrap();
    assert_eq!(sniffed, json);
}

#[test]
fn canonical_text_is_stable() {
    let text = "name: x\nversion: 1.0.0\nresources: {memory: {max: 1048576KiB, min: 64MiB}}\nlabels: {b: '1', a: '2'}\n";
    expect![[r#"{"labels":{"a":"2","b":"1"},"name":"x","resources":{"memory":{"max":"1GiB","min":"64MiB"}},"version":"1.0.0"}"#]]
        .assert_eq(&parse("x.yaml", text.as_bytes(), None).unwrap().canonical_json());
}

#[test]
fn unknown_fields_get_a_suggestion() {
    check_body(
        "resorces: {}\nresources:\n  memroy: {min: 64MiB}\n  vcpus: {mim: 1}\nzzz: 1\n",
        expect![[r#"
            p.yaml:3:1: resorces: expected one of name, version, summary, labels, extends, traits, resources, resource_weights, application_priorities, behavioral_rules, network_policy, components, tuning, sla, security, verify, cost, found an unknown field (did you mean resources?)
            p.yaml:5:3: resources.memroy: expected one of vcpus, memory, disk, network, found an unknown field (did you mean memory?)
            p.yaml:6:11: resources.vcpus.mim: expected one of min, preferred, max, found an unknown field (did you mean min?)
            p.yaml:7:1: zzz: expected one of name, version, summary, labels, extends, traits, resources, resource_weights, application_priorities, behavioral_rules, network_policy, components, tuning, sla, security, verify, cost, found an unknown field
        "#]],
    );
}

#[test]
fn what_must_be_stated() {
    check(
        "summary: hello\n",
        expect![[r#"
        p.yaml:1:1: name: expected this field, found nothing
        p.yaml:1:1: version: expected this field, found nothing
    "#]],
    );
    check_body(
        "resource_weights: {cpu: 0.5, memory: 0.5}\nverify: {health: [tcp: {}]}\n",
        expect![[r#"
        p.yaml:3:19: resource_weights.network: expected this field, found nothing
        p.yaml:3:19: resource_weights.storage_io: expected this field, found nothing
        p.yaml:4:24: verify.health[0].tcp.port: expected this field, found nothing
    "#]],
    );
    check_body(
        "extends:\nresources:\n",
        expect![[r#"
        taken
    "#]],
    );
}

#[test]
fn names_and_versions_with_tricks() {
    check(
        "name: ../../etc/passwd\nversion: 1.0\n",
        expect![[r#"
        p.yaml:1:7: name: expected a name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit, found "../../etc/passwd"
        p.yaml:2:10: version: expected a semantic version, as in 1.0.0, found the number 1.0 (text; put it in quotes)
    "#]],
    );
    check(
        "name: A\nversion: '1.0'\nextends: x@y\n",
        expect![[r#"
        p.yaml:1:7: name: expected a name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit, found "A"
        p.yaml:2:10: version: expected a semantic version, as in 1.0.0, found "1.0"
        p.yaml:3:10: extends: expected a profile's name, with or without a version requirement, as in database@^1.0, found "x@y"
    "#]],
    );
    check(
        "name: \"a\\0b\"\nversion: v1.0.0\nsummary: \"\\e[2Jgone\"\n",
        expect![[r#"
        p.yaml:1:7: name: expected a name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter or digit, found "a\u{0}b"
        p.yaml:2:10: version: expected a semantic version, as in 1.0.0, found "v1.0.0"
        p.yaml:3:10: summary: expected one line of printable text, at most 400 bytes, found "\u{1b}[2Jgone"
    "#]],
    );
    check_body(
        "extends: x\n",
        expect![[r#"
        p.yaml:3:10: extends: expected another profile, found the profile itself
    "#]],
    );
}

#[test]
fn weights() {
    check_body(
        "resource_weights: {cpu: 0.5, memory: 0.5, network: 0.25, storage_io: 0.25}\n",
        expect![[r#"
        p.yaml:3:19: resource_weights: expected weights that sum to 1.0, found a sum of 1.5 (take away 0.5)
    "#]],
    );
    check_body(
        "resource_weights: {cpu: .nan, memory: .inf, network: -1, storage_io: 1.5}\n",
        expect![[r#"
        p.yaml:3:25: resource_weights.cpu: expected a number from 0.0 to 1.0, found the number .nan
        p.yaml:3:39: resource_weights.memory: expected a number from 0.0 to 1.0, found the number .inf
        p.yaml:3:54: resource_weights.network: expected a number from 0.0 to 1.0, found the number -1
        p.yaml:3:70: resource_weights.storage_io: expected a number from 0.0 to 1.0, found the number 1.5
    "#]],
    );
    check_body(
        "resource_weights: {cpu: 0.1, memory: 0.2, network: 0.3, storage_io: '0.4'}\n",
        expect![[r#"
        p.yaml:3:69: resource_weights.storage_io: expected a number from 0.0 to 1.0, found "0.4"
    "#]],
    );
    assert!(problems("p.yaml", format!("{HEAD}resource_weights: {{cpu: 0.3333333, memory: 0.3333333, network: 0.3333333, storage_io: 0}}\n").as_bytes()).contains("taken"));
}

#[test]
fn impossible_resources() {
    check_body(
        "resources: {memory: {min: 2GiB, preferred: 1GiB, max: 512MiB}}\n",
        expect![[r#"
        p.yaml:3:44: resources.memory.preferred: expected at least min, which is 2GiB, found 1GiB
    "#]],
    );
    check_body(
        "resources: {memory: {min: 1MiB, max: 99999999TiB}, vcpus: {min: 0, max: 2000}}\n",
        expect![[r#"
        p.yaml:3:27: resources.memory.min: expected at least 32MiB, found 1MiB
        p.yaml:3:38: resources.memory.max: expected an amount of bytes up to 1024TiB, as in 256MiB or 4GiB, found "99999999TiB"
        p.yaml:3:65: resources.vcpus.min: expected at least 10m, found 0
        p.yaml:3:73: resources.vcpus.max: expected a number of CPUs up to 1024, as in 2 or 1.5, or thousandths as in 1500m, found the number 2000
    "#]],
    );
    check_body(
        "resources: {memory: {min: 512 potatoes}, vcpus: {min: -1, max: many}}\n",
        expect![[r#"
        p.yaml:3:27: resources.memory.min: expected an amount of bytes up to 1024TiB, as in 256MiB or 4GiB, found "512 potatoes"
        p.yaml:3:55: resources.vcpus.min: expected a number of CPUs up to 1024, as in 2 or 1.5, or thousandths as in 1500m, found the number -1
        p.yaml:3:64: resources.vcpus.max: expected a number of CPUs up to 1024, as in 2 or 1.5, or thousandths as in 1500m, found "many"
    "#]],
    );
    check_body(
        "resources: {disk: {iops: {min: 0.5}, bandwidth: {max: 100}}, network: {to_guest: {max: 10MiB}}}\n",
        expect![[r#"
        p.yaml:3:32: resources.disk.iops.min: expected a whole number per second up to 1000000000, as in 500, found the number 0.5
        p.yaml:3:55: resources.disk.bandwidth.max: expected a data rate up to 1024TiB/s, as in 10MiB/s or 100Mbit/s, found the number 100 (a number alone has no unit)
        p.yaml:3:88: resources.network.to_guest.max: expected a data rate up to 1024TiB/s, as in 10MiB/s or 100Mbit/s, found "10MiB"
    "#]],
    );
}

#[test]
fn promises_that_cannot_be_kept() {
    check_body(
        "resources: {memory: {min: 64MiB, max: 2GiB}}\nsla: {floor: {memory: 1GiB, vcpus: 4}, ceiling: {memory: 512MiB, vcpus: 2}}\n",
        expect![[r#"
            p.yaml:4:23: sla.floor.memory: expected at most the ceiling, 512MiB, found 1GiB
            p.yaml:4:23: sla.floor.memory: expected at most the least that resources ask for, 64MiB, found 1GiB
            p.yaml:4:36: sla.floor.vcpus: expected at most the ceiling, 2, found 4
            p.yaml:4:58: sla.ceiling.memory: expected at least the most that resources ask for, 2GiB, found 512MiB
        "#]],
    );
    check_body(
        "sla: {objectives: [latency: {percentile: 0, max: 5}, latency: {}, speed: {}, 7]}\n",
        expect![[r#"
        p.yaml:3:42: sla.objectives[0].latency.percentile: expected a whole number from 1 to 100, found the number 0
        p.yaml:3:50: sla.objectives[0].latency.max: expected a duration up to 8760h with its unit, as in 250ms, 30s or 5m, found the number 5 (a number alone has no unit)
        p.yaml:3:63: sla.objectives[1].latency.percentile: expected this field, found nothing
        p.yaml:3:63: sla.objectives[1].latency.max: expected this field, found nothing
        p.yaml:3:67: sla.objectives[2]: expected one of latency, throughput, with its fields below it, found "speed"
        p.yaml:3:78: sla.objectives[3]: expected one of latency, throughput, with its fields below it, found the number 7
    "#]],
    );
}

#[test]
fn network_rules() {
    check_body(
        "network_policy:\n  ingress:\n    default: deny\n    rules:\n      - {ports: [80], action: accept}\n      - {proto: tcp, ports: [0, 70000, 9-8], action: allow}\n      - {proto: tcp, cidr: 10.0.0.0/33}\n      - 'drop everything'\n",
        expect![[r#"
            p.yaml:5:14: network_policy.ingress.default: expected one of accept, drop, found "deny"
            p.yaml:7:17: network_policy.ingress.rules[0].ports: expected ports only with tcp or udp, found 1 ports (state proto: tcp or udp beside ports)
            p.yaml:8:30: network_policy.ingress.rules[1].ports[0]: expected a port from 1 to 65535, or a range of them as in 8000-8100, found the number 0
            p.yaml:8:33: network_policy.ingress.rules[1].ports[1]: expected a port from 1 to 65535, or a range of them as in 8000-8100, found the number 70000
            p.yaml:8:40: network_policy.ingress.rules[1].ports[2]: expected a port from 1 to 65535, or a range of them as in 8000-8100, found "9-8"
            p.yaml:8:54: network_policy.ingress.rules[1].action: expected one of accept, drop, found "allow"
            p.yaml:9:9: network_policy.ingress.rules[2].action: expected this field, found nothing
            p.yaml:9:28: network_policy.ingress.rules[2].cidr: expected a block of addresses, as in 10.0.0.0/8, found "10.0.0.0/33"
            p.yaml:10:9: network_policy.ingress.rules[3]: expected a group of fields: proto, ports, cidr, action, found "drop everything"
        "#]],
    );
}

#[test]
fn applications_and_priorities() {
    check_body(
        "application_priorities:\n  nginx: highest\n  process:nginx: low\n  cgroup:../../etc: low\n  a-very-long-process-name: low\n  unit:nginx: low\n",
        expect![[r#"
            p.yaml:4:10: application_priorities.nginx: expected one of realtime, high, normal, low, idle, found "highest"
            p.yaml:6:3: application_priorities.cgroup:../../etc: expected an application: a process name (at most 15 bytes), service:NAME, unit:NAME.service or cgroup:PATH, found "cgroup:../../etc"
            p.yaml:7:3: application_priorities.a-very-long-process-name: expected an application: a process name (at most 15 bytes), service:NAME, unit:NAME.service or cgroup:PATH, found "a-very-long-process-name"
            p.yaml:8:3: application_priorities.unit:nginx: expected an application: a process name (at most 15 bytes), service:NAME, unit:NAME.service or cgroup:PATH, found "unit:nginx"
        "#]],
    );
}

#[test]
fn tuning() {
    check_body(
        "tuning:\n  sysctl:\n    kernel.core_pattern: '|/bin/sh'\n    vm.swappiness: [10]\n    net.core.somaxconn: '1; rm -rf /'\n    kernel.sched_autogroup_enabled: 1\n  scheduler: {autogroup: false, round_robin_slice_ms: 0}\n  thp: sometimes\n  io_scheduler: deadline\n",
        expect![[r#"
            p.yaml:5:5: tuning.sysctl.kernel.core_pattern: expected a kernel parameter under vm., net., fs. or kernel.sched_, as in vm.swappiness, found "kernel.core_pattern"
            p.yaml:6:20: tuning.sysctl.vm.swappiness: expected a whole number, or text of numbers and words, as in 4096 or "4096 87380 6291456", found a list of 1
            p.yaml:7:25: tuning.sysctl.net.core.somaxconn: expected a whole number, or text of numbers and words, as in 4096 or "4096 87380 6291456", found "1; rm -rf /"
            p.yaml:8:37: tuning.sysctl.kernel.sched_autogroup_enabled: expected each parameter once, found it under scheduler too
            p.yaml:9:55: tuning.scheduler.round_robin_slice_ms: expected a whole number from 1 to 1000, found the number 0
            p.yaml:10:8: tuning.thp: expected one of always, madvise, never, found "sometimes"
            p.yaml:11:17: tuning.io_scheduler: expected one of none, mq-deadline, kyber, bfq, found "deadline"
        "#]],
    );
}

#[test]
fn checks_and_windows() {
    check_body(
        "verify:\n  health:\n    - htp: {port: 80}\n    - http: {port: 80, path: health, status: 999}\n    - {tcp: {port: 1}, redis: {}}\n    - process: {name: this-is-longer-than-15}\n    - unit: {name: nginx}\n  performance: {psi_cpu: 50, psi_io: 120%, probe_latency: 1}\n  window: {before: 0s, after: 2h}\n",
        expect![[r#"
            p.yaml:5:7: verify.health[0]: expected one of tcp, http, redis, postgresql, process, unit, with its fields below it, found "htp" (did you mean http?)
            p.yaml:6:30: verify.health[1].http.path: expected a path that begins with '/', without spaces, at most 1024 bytes, as in /health, found "health"
            p.yaml:6:46: verify.health[1].http.status: expected a whole number from 100 to 599, found the number 999
            p.yaml:7:7: verify.health[2]: expected one of tcp, http, redis, postgresql, process, unit, with its fields below it, found 2 fields
            p.yaml:8:23: verify.health[3].process.name: expected a process name of 1 to 15 letters, digits and '._-+:@/' (the kernel keeps no more), found "this-is-longer-than-15"
            p.yaml:9:20: verify.health[4].unit.name: expected a systemd unit with its type, as in nginx.service, found "nginx"
            p.yaml:10:26: verify.performance.psi_cpu: expected a share from 0% to 100%, as in 12.5%, found the number 50 (a number alone has no unit)
            p.yaml:10:38: verify.performance.psi_io: expected a share from 0% to 100%, as in 12.5%, found "120%"
            p.yaml:10:59: verify.performance.probe_latency: expected a duration up to 8760h with its unit, as in 250ms, 30s or 5m, found the number 1 (a number alone has no unit)
            p.yaml:11:20: verify.window.before: expected from 1s to 1h, found 0ms
            p.yaml:11:31: verify.window.after: expected from 1s to 1h, found 2h
        "#]],
    );
    check_body(
        "verify: {performance: {psi_cpu: 50%}}\n",
        expect![[r#"
        p.yaml:3:9: verify: expected a window beside performance, found none (add window: { before: 5s, after: 5s })
    "#]],
    );
}

#[test]
fn components_and_rules() {
    check_body(
        "components:\n  - {kind: servce, name: a, version: x}\nsecurity: {required_components: [a]}\n",
        expect![[r#"
            p.yaml:4:12: components[0].kind: expected one of kernel, library_tree, service, nic, device, network_policy, kernel_tuning, found "servce" (did you mean service?)
        "#]],
    );
    check_body(
        "components:\n  - {kind: service, name: b, version: ^1, conflicts: [{name: c}]}\n  - {kind: service, name: c, version: ^1}\n  - {kind: service, name: b, version: ^2}\nsecurity: {posture_score: 101, required_components: [c, d]}\n",
        expect![[r#"
            p.yaml:4:55: components[0].conflicts[0]: expected a component that is not in this profile, found c
            p.yaml:6:27: components[2].name: expected each name once, found "b" again
            p.yaml:7:27: security.posture_score: expected a whole number from 0 to 100, found the number 101
            p.yaml:7:57: security.required_components[1]: expected one of the profile's components, found d (list it under components with its version)
        "#]],
    );
    check_body(
        "behavioral_rules:\n  - {name: r, events: [tock], capabilities: [root], script: ''}\n",
        expect![[r#"
            p.yaml:4:24: behavioral_rules[0].events[0]: expected one of profile_entered, profile_left, application_started, application_stopped, pressure_cpu, pressure_memory, pressure_io, user_request, tick, found "tock" (did you mean tick?)
            p.yaml:4:46: behavioral_rules[0].capabilities[0]: expected one of read_telemetry, set_priority, set_weights, borrow, lend, request_profile, notify, found "root"
            p.yaml:4:61: behavioral_rules[0].script: expected the text of a Luau script, at most 64 KiB, found ""
        "#]],
    );
}

#[test]
fn wrong_kinds() {
    check(
        "- a\n- b\n",
        expect![[r#"
        p.yaml:1:1: document: expected a group of fields: name, version, summary, labels, extends, traits, resources, resource_weights, application_priorities, behavioral_rules, network_policy, components, tuning, sla, security, verify, cost, found a list of 2
    "#]],
    );
    check(
        "hello\n",
        expect![[r#"
        p.yaml:1:1: document: expected a group of fields: name, version, summary, labels, extends, traits, resources, resource_weights, application_priorities, behavioral_rules, network_policy, components, tuning, sla, security, verify, cost, found "hello"
    "#]],
    );
    check(
        "",
        expect![[r#"
        p.yaml:1:1: document: expected a profile, found an empty text
    "#]],
    );
    check(
        "# nothing\n",
        expect![[r#"
        p.yaml:1:1: document: expected a profile, found an empty document
    "#]],
    );
    check_body(
        "summary: 5\nlabels: [a]\nresources: yes\ncomponents: {}\ntuning: {thp: true}\n",
        expect![[r#"
        p.yaml:3:10: summary: expected one line of printable text, at most 400 bytes, found the number 5 (text; put it in quotes)
        p.yaml:4:9: labels: expected a group of fields, found a list of 1
        p.yaml:5:12: resources: expected a group of fields: vcpus, memory, disk, network, found "yes"
        p.yaml:6:13: components: expected a list, found a group of fields
        p.yaml:7:15: tuning.thp: expected one of always, madvise, never, found true
    "#]],
    );
}

#[test]
fn yaml_that_is_not_read() {
    check_body(
        "labels: &a {x: y}\n",
        expect![[r#"
        p.yaml:3:9: document: expected a value, found an anchor (remove the &name; anchors are not read, and text that begins with & needs quotes)
    "#]],
    );
    check_body(
        "labels: *a\n",
        expect![[r#"
        p.yaml:3:9: document: expected YAML, found while parsing node, found unknown anchor
    "#]],
    );
    check_body(
        "summary: !!python/object:os.system 'x'\n",
        expect![[r#"
        p.yaml:3:10: document: expected a value, found a tag (remove the !name; tags are not read, and text that begins with ! needs quotes)
    "#]],
    );
    check_body(
        "name: y\n",
        expect![[r#"
        p.yaml:3:1: document: expected each key once, found "name" again
    "#]],
    );
    check_body(
        "labels:\n\tx: y\n",
        expect![[r#"
        p.yaml:4:2: document: expected YAML, found tabs disallowed within this context (block indentation) (indent with spaces)
    "#]],
    );
    check_body(
        "labels: {x: y\n",
        expect![[r#"
        p.yaml:4:1: document: expected YAML, found while parsing a flow mapping, did not find expected ',' or '}'
    "#]],
    );
    check_body(
        "---\nname: z\n",
        expect![[r#"
        p.yaml:3:1: document: expected one document, found a second one after ---
    "#]],
    );
    check_body(
        "? [a]\n: b\n",
        expect![[r#"
        p.yaml:3:3: document: expected text before ':', found a list of 1
    "#]],
    );
}

#[test]
fn json_that_is_not_read() {
    let json = |text: &str, expected: Expect| expected.assert_eq(&problems("p.json", text.as_bytes()));
    json(
        "{\"name\": \"x\",}",
        expect![[r#"
        p.json:1:14: document: expected an item after ',', found "}" (JSON allows no comma before the end)
    "#]],
    );
    json(
        "{'name': 1}",
        expect![[r#"
        p.json:1:2: document: expected a key in double quotes, found "'"
    "#]],
    );
    json(
        "{\"name\": 01}",
        expect![[r#"
        p.json:1:10: document: expected a number, found "01"
    "#]],
    );
    json(
        "{\"name\": NaN}",
        expect![[r#"
        p.json:1:10: document: expected a value, found "N" (JSON text stands in double quotes)
    "#]],
    );
    json(
        "{\"a\": 1, \"a\": 2}",
        expect![[r#"
        p.json:1:10: document: expected each key once, found "a" again
    "#]],
    );
    json(
        "{\"a\": 1e999}",
        expect![[r#"
        p.json:1:7: document: expected a finite number, found "1e999"
    "#]],
    );
    json(
        "{\"a\": \"\\ud800x\"}",
        expect![[r#"
        p.json:1:8: document: expected an escape of JSON, as in \n or \u00e9, found another
    "#]],
    );
    json(
        "{\"a\": \"x",
        expect![[r#"
        p.json:1:9: document: expected '"' at the end of a text, found the end of the document
    "#]],
    );
    json(
        "{} {}",
        expect![[r#"
        p.json:1:4: document: expected the end of the document, found "{"
    "#]],
    );
    json(
        "// c\n{}",
        expect![[r#"
        p.json:1:1: document: expected a value, found "/" (JSON has no comments; YAML has)
    "#]],
    );
}

#[test]
fn toml_that_is_not_read() {
    let toml = |text: &str, expected: Expect| expected.assert_eq(&problems("p.toml", text.as_bytes()));
    toml(
        "name = \"x\"\nname = \"y\"\n",
        expect![[r#"
        p.toml:2:1: document: expected TOML, found duplicate key
    "#]],
    );
    toml(
        "name = \n",
        expect![[r#"
        p.toml:1:8: document: expected TOML, found string values must be quoted, expected literal string
    "#]],
    );
    toml(
        "name = 'x'\nversion = 1.0\n[resource_weights]\ncpu = nan\n",
        expect![[r#"
        p.toml:2:11: version: expected a semantic version, as in 1.0.0, found the number 1.0 (text; put it in quotes)
        p.toml:3:1: resource_weights.memory: expected this field, found nothing
        p.toml:3:1: resource_weights.network: expected this field, found nothing
        p.toml:3:1: resource_weights.storage_io: expected this field, found nothing
        p.toml:4:7: resource_weights.cpu: expected a number from 0.0 to 1.0, found the number nan
    "#]],
    );
    toml(
        "name = 1979-05-27\nversion = '1.0.0'\n[resorces]\n",
        expect![[r#"
        p.toml:3:2: resorces: expected one of name, version, summary, labels, extends, traits, resources, resource_weights, application_priorities, behavioral_rules, network_policy, components, tuning, sla, security, verify, cost, found an unknown field (did you mean resources?)
    "#]],
    );
}

#[test]
fn hostile_sizes_and_depths_are_refused_at_once() {
    // Not even text: had it been looked at, that would be the complaint.
    expect![[r#"
        p.yaml:1:1: document: expected at most 1 MiB, found 67108864 bytes
    "#]]
    .assert_eq(&problems("p.yaml", &vec![0xff; 64 << 20]));
    for (file, text) in [
        ("p.yaml", "[".repeat(1 << 20)),
        ("p.yaml", "- ".repeat(1 << 19)),
        ("p.yaml", format!("a: {}", "{a: ".repeat(40))),
        ("p.json", "[".repeat(1 << 20)),
        ("p.json", "{\"a\":".repeat(1 << 17)),
        ("p.toml", format!("a = {}", "[".repeat(1 << 19))),
        ("p.toml", format!("{}a = 1", "a.".repeat(1 << 18))),
        ("p.toml", format!("[{}a]", "a.".repeat(40))),
    ] {
        let said = problems(file, text.as_bytes());
        assert!(said.contains("nesting") || said.contains("recurs"), "{file}: {said}");
    }
    let bomb: String = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(b'b'..=b'i').map(|c| {
            let (this, last) = (c as char, (c - 1) as char);
            format!("{this}: &{this} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n")
        }).collect::<String>();
    expect![[r#"
        p.yaml:1:4: document: expected a value, found an anchor (remove the &name; anchors are not read, and text that begins with & needs quotes)
    "#]].assert_eq(&problems("p.yaml", bomb.as_bytes()));
    let many = format!("[{}1]", "1,".repeat(400_000));
    for file in ["p.yaml", "p.json"] {
        assert!(problems(file, many.as_bytes()).contains("values"), "{file}");
    }
    let unknown: String = (0..5000).map(|n| format!("k{n}: 1\n")).collect();
    assert_eq!(problems("p.yaml", unknown.as_bytes()).lines().count(), PROBLEMS_MAX + 1);
}

#[test]
fn text_that_is_not_utf8_and_text_with_a_mark() {
    expect![[r#"
        p.yaml:2:10: document: expected text in UTF-8, found the byte 0xff
    "#]]
    .assert_eq(&problems("p.yaml", b"name: x\nversion: \xff\n"));
    assert!(parse("p.yaml", b"\xef\xbb\xbfname: x\r\nversion: 1.0.0\r\n", None).is_ok());
}

fn profile(text: &str) -> Profile {
    parse("p.yaml", text.as_bytes(), None).unwrap()
}

fn family(name: &ProfileName, version: Option<&VersionReq>) -> Option<Profile> {
    let text = match name.as_str() {
        "base" => "name: base\nversion: 1.2.0\nlabels: {a: base, b: base}\nresources: {memory: {min: 256MiB, max: 1GiB}, vcpus: {max: 2}}\nresource_weights: {cpu: 0.4, memory: 0.2, network: 0.2, storage_io: 0.2}\nverify: {health: [tcp: {port: 1}, tcp: {port: 2}], window: {before: 5s, after: 5s}}\n".to_owned(),
        "middle" => "name: middle\nversion: 1.0.0\nextends: base@^1\nlabels: {b: middle}\n".to_owned(),
        "loop-a" => "name: loop-a\nversion: 1.0.0\nextends: loop-b\n".to_owned(),
        "loop-b" => "name: loop-b\nversion: 1.0.0\nextends: loop-a\n".to_owned(),
        other => {
            let n: u32 = other.strip_prefix("deep-")?.parse().ok()?;
            format!("name: deep-{n}\nversion: 1.0.0\nextends: deep-{}\n", n + 1)
        }
    };
    let found = profile(&text);
    version.is_none_or(|version| version.matches(&found.version)).then_some(found)
}

#[test]
fn a_child_is_laid_over_its_parents_field_by_field() {
    let child = profile(
        "name: child\nversion: 3.0.0\nextends: middle\nresources: {memory: {max: 2GiB}}\nresource_weights: {cpu: 0.25, memory: 0.25, network: 0.25, storage_io: 0.25}\nverify: {health: [redis: {}]}\n",
    );
    let complete = resolve(child, &family).unwrap();
    expect![[r#"{"labels":{"a":"base","b":"middle"},"name":"child","resource_weights":{"cpu":0.25,"memory":0.25,"network":0.25,"storage_io":0.25},"resources":{"memory":{"max":"2GiB","min":"256MiB"},"vcpus":{"max":"2"}},"verify":{"health":[{"redis":{"port":6379}}],"window":{"after":"5s","before":"5s"}},"version":"3.0.0"}"#]].assert_eq(&complete.canonical_json());
    assert_eq!(resolve(complete.clone(), &family).unwrap(), complete);
}

#[test]
fn chains_that_do_not_end_well() {
    let say = |extends: &str, more: &str| {
        let child = profile(&format!("name: child\nversion: 1.0.0\nextends: {extends}\n{more}"));
        resolve(child, &family).unwrap_err().to_string()
    };
    expect!["profile child@1.0.0 extends nobody, which is not known"].assert_eq(&say("nobody", ""));
    expect!["profile child@1.0.0 extends base, which is not known in a version ^2"]
        .assert_eq(&say("base@^2", ""));
    expect!["profiles extend each other in a circle: child -> loop-a -> loop-b -> loop-a"]
        .assert_eq(&say("loop-a", ""));
    expect!["more than 8 profiles extend each other: child -> deep-1 -> deep-2 -> deep-3 -> deep-4 -> deep-5 -> deep-6 -> deep-7 -> deep-8"].assert_eq(&say("deep-1", ""));
    expect!["profile child@1.0.0, completed from what it extends, is not sound: resources.memory.max: expected at least min, which is 2GiB, found 1GiB"].assert_eq(&say("base", "resources: {memory: {min: 2GiB}}\n"));
    let liar = |_: &ProfileName, _: Option<&VersionReq>| Some(profile("name: other\nversion: 1.0.0\n"));
    let child = profile("name: child\nversion: 1.0.0\nextends: base\n");
    expect!["asked for profile base, was given other@1.0.0"]
        .assert_eq(&resolve(child, &liar).unwrap_err().to_string());
    assert!("base@^2".parse::<ProfileRef>().is_ok());
}
