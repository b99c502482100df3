//! What a full guest holds and how it is configured, as others change it; and what its people allow to be told. Must
//! never read what only a person may tell where they did not allow it.

use crate::inside;
use crate::server::{Server, wait_for};
use serde_json::Value;
use std::time::Duration;

/// Longest wait for a round that an emulated CPU pays from its budget, times what a loaded machine takes.
const LIMIT: Duration = Duration::from_secs(300);

fn record(server: &Server, vm: &str) -> Value {
    server.ask(&["vm", "show", vm, "--personality"])["record"].clone()
}

fn state(server: &Server, vm: &str, name: &str) -> String {
    let view = server.ask(&["vm", "collectors", vm]);
    let all = view["collectors"].as_array().cloned().unwrap_or_default();
    let one = all.into_iter().find(|one| one["name"] == name);
    one.map_or_else(String::new, |one| one["state"].as_str().unwrap().to_owned())
}

/// Off and on again: a round begins at once.
fn look_again(server: &Server, vm: &str, name: &str) {
    server.cli(&["vm", "collectors", vm, "--off", name]).ok();
    wait_for("the collector off", LIMIT, || (state(server, vm, name) == "off").then_some(()));
    server.cli(&["vm", "collectors", vm, "--on", name]).ok();
}

/// What others change is told, from what it was to what it is.
fn what_others_change_is_told(server: &Server, vm: &str) {
    let shell = |script: &str| inside(server, vm, &["/bin/sh", "-ec", script]);
    wait_for("the configuration", LIMIT, || {
        (record(server, vm)["ConfigurationHistory"]["source"] == "records and guest").then_some(())
    });
    let before = shell("cat /proc/sys/net/ipv4/tcp_fin_timeout");
    shell("echo 47 > /proc/sys/net/ipv4/tcp_fin_timeout; echo by hand > /etc/by-hand");
    look_again(server, vm, "configuration");
    let seen = wait_for("what was changed by hand", LIMIT, || {
        let all = server.ask(&["vm", "configuration", vm, "--since", "1h"])["differing"].as_array()?.clone();
        let of = |aspect: &str, name: &str| {
            all.iter().find(|one| one["aspect"] == aspect && one["name"] == name).cloned()
        };
        of("sysctl", "net.ipv4.tcp_fin_timeout").zip(of("files", "/etc/by-hand"))
    });
    assert_eq!(
        (seen.0["from"].as_str(), seen.0["to"].as_str()),
        (Some(before.as_str()), Some("47")),
        "{seen:?}"
    );
    assert_eq!(seen.1["from"], Value::Null, "{seen:?}");
    assert!(!seen.1.to_string().contains("by hand"), "content left the guest: {seen:?}");
    let shown = server.cli(&["vm", "show", vm, "--personality"]).ok().stdout;
    assert!(shown.contains("sysctl net.ipv4.tcp_fin_timeout: "), "{shown}");
}

/// Nothing without the owner's wish and the people's consent; what they withdraw is gone.
fn what_people_allow_is_told_until_they_do_not(server: &Server, vm: &str) {
    let consent = |word: &str| inside(server, vm, &["/usr/sbin/proteus-guest", "consent", word]);
    let users = || record(server, vm)["UserBehaviorModel"].clone();
    assert!(users()["missing"].to_string().contains("the owner of the VM did not ask for it"), "{}", users());
    server.cli(&["vm", "collectors", vm, "--users", "true"]).ok();
    wait_for("that nobody consented", LIMIT, || (users()["value"]["consent"] == "withdrawn").then_some(()));
    assert!(consent("give").contains("Consent is given from now on"));
    assert!(consent("show").contains("Consent: given.") && consent("show").contains("epsilon = 1"));
    let given = wait_for("the consent", LIMIT, || {
        let seen = users()["value"].clone();
        (seen["consent"] == "given").then_some(seen)
    });
    assert_eq!((given["budget_spent"].as_u64(), given["budget"].as_u64()), (Some(0), Some(8)), "{given}");
    assert!(consent("withdraw").contains("Consent is withdrawn"));
    wait_for("that it is withdrawn", LIMIT, || (users()["value"]["consent"] == "withdrawn").then_some(()));
    // Given again: what its clone must not have.
    assert!(consent("give").contains("Consent is given from now on"));
}

/// All of it, of a guest that can keep something.
pub fn what_is_inside_is_known(server: &Server, vm: &str) {
    // More than usual: an emulated CPU would take half an hour for what this one waits for.
    server.cli(&["vm", "collectors", vm, "--budget", "200"]).ok();
    what_others_change_is_told(server, vm);
    what_people_allow_is_told_until_they_do_not(server, vm);
    let held = wait_for("what it holds", LIMIT, || {
        let seen = record(server, vm)["DataFootprintAnalysis"]["value"].clone();
        (seen["complete"] == true).then_some(seen)
    });
    assert!(held["files"].as_u64().unwrap() > 1000, "{held}");
    assert!(held["kinds"]["program"]["files"].as_u64().unwrap() > 100, "{held}");
}
