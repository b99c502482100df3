//! Profiles that ship: another text under a name and version that somebody knows is not taken.

use crate::plan;
use crate::support::{Bench, PROFILE, bench, start_vm};
use proteus_control_plane::profile::digest;
use proteus_model::execution::State;
use proteus_model::profile::{Profile, document};
use proteus_model::unit::Millis;
use serde_json::Value;

fn parse(text: &str) -> Profile {
    document::parse("fit.yaml", text.as_bytes(), None).unwrap()
}

async fn shipped(bench: &Bench, text: &str) -> String {
    bench.control.ensure_profiles_of(&[("fit.yaml", text)]).await.unwrap();
    bench.control.profile("fit").await.unwrap().digest
}

async fn last_entry(bench: &Bench) -> Value {
    bench.control.audit_view().await.unwrap().entries.pop().unwrap()
}

async fn morph_to(bench: &Bench, label: &str) {
    let (profile, digest) = bench.control.resolved_profile(label).await.unwrap();
    let plan = bench.control.plan_profile("web", &profile, &digest).await.unwrap();
    let morph = bench.control.begin_morph(plan, "test").await.unwrap();
    assert_eq!(bench.control.run_morph(morph.id).await.unwrap().state, State::Committed);
}

#[tokio::test]
async fn what_ships_is_replaced_with_an_entry_and_only_where_no_vm_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let other = PROFILE.replace("vm.swappiness: 10", "vm.swappiness: 20");
    let (first, second) = (digest(&parse(PROFILE)), digest(&parse(&other)));
    assert_eq!(shipped(&bench, PROFILE).await, first);
    let entry = last_entry(&bench).await;
    assert_eq!((&entry["action"], &entry["subject"]), (&"profile.ship".into(), &"profile/fit@1.0.0".into()));
    assert_eq!(shipped(&bench, &other).await, second);
    let entry = last_entry(&bench).await;
    assert_eq!(entry["action"], "profile.replace");
    assert_eq!([&entry["evidence"]["digest_before"], &entry["evidence"]["digest"]], [&first, &second]);

    start_vm(&bench, dir.path(), "web").await;
    morph_to(&bench, "fit@1.0.0").await;
    let entry = last_entry(&bench).await;
    assert_eq!(shipped(&bench, PROFILE).await, second, "a VM has it");
    let back = bench.control.plan_rollback("web", 0).await.unwrap();
    let back = bench.control.begin_morph(back, "test").await.unwrap();
    assert_eq!(bench.control.run_morph(back.id).await.unwrap().state, State::Committed);
    assert_eq!(bench.control.vm("web").await.unwrap().profile, None);
    assert_eq!(shipped(&bench, PROFILE).await, second, "a VM can go back to it");
    assert_ne!(last_entry(&bench).await["action"], "profile.replace");
    assert_eq!(entry["action"], "morph.end");

    bench.control.stop_vm("web", Millis(0), "test").await.unwrap();
    bench.control.delete_vm("web", "test").await.unwrap();
    assert_eq!(shipped(&bench, PROFILE).await, first, "nobody knows it any more");
    assert!(bench.control.audit_view().await.unwrap().intact);
}

#[tokio::test]
async fn what_a_vms_profile_is_built_on_stays() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let known = shipped(&bench, PROFILE).await;
    let child = "name: mine\nversion: 1.0.0\nextends: fit@^1\n";
    bench.control.push_profile(parse(child), "root").await.unwrap();
    start_vm(&bench, dir.path(), "web").await;
    morph_to(&bench, "mine").await;
    assert_eq!(shipped(&bench, &PROFILE.replace("1500m", "1200m")).await, known);
}

#[tokio::test]
async fn what_a_morph_is_on_the_way_to_stays() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let known = shipped(&bench, PROFILE).await;
    start_vm(&bench, dir.path(), "web").await;
    bench.control.begin_morph(plan(&bench, "web").await, "test").await.unwrap();
    assert_eq!(shipped(&bench, &PROFILE.replace("1500m", "1200m")).await, known);
}

#[tokio::test]
async fn what_a_person_pushed_is_never_replaced_and_keeps_no_other_from_shipping() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench(dir.path(), None).await;
    let pushed = bench.control.push_profile(parse(PROFILE), "root").await.unwrap();
    let other = PROFILE.replace("1500m", "1200m");
    let second = PROFILE.replace("name: fit", "name: second");
    let files = [("broken.yaml", "name: ["), ("fit.yaml", other.as_str()), ("second.yaml", second.as_str())];
    bench.control.ensure_profiles_of(&files).await.expect_err("one is no profile");
    let kept = bench.control.profile("fit").await.unwrap();
    assert_eq!((kept.digest, kept.origin.as_str()), (pushed.digest, "root"));
    assert_eq!(bench.control.profile("second").await.unwrap().origin, "shipped");
}
