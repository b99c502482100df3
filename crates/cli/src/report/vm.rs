//! The page of one VM.

use super::change;
use super::chart::figure;
use super::markup::{escape, facts, page};
use super::part::ALL;
use super::portrait;
use super::series::Columns;
use crate::output::{moment, power_word, present};
use proteus_model::execution::{Morph, Version};
use proteus_model::personality::UNKNOWN;
use proteus_model::unit::{Millis, UnixMillis};
use proteus_protocol::api::v1::{HISTORY_MAX, HistoryView, PersonalityView, VmView};
use std::fmt::Write as _;

/// Most columns of a plot: two points of a wide screen each.
const COLUMNS_MAX: u64 = 480;

/// What is known of a VM.
pub(crate) struct Single<'a> {
    /// When it was asked for.
    pub now: UnixMillis,
    /// The host that it is on.
    pub host: &'a str,
    /// It.
    pub vm: &'a VmView,
    /// What it used, in one resolution.
    pub history: &'a HistoryView,
    /// What it is observed to be.
    pub personality: &'a PersonalityView,
    /// Its versions, oldest first.
    pub versions: &'a [Version],
    /// Its morphs, newest first.
    pub morphs: &'a [Morph],
    /// Whether there are earlier morphs of it than those.
    pub morphs_cut: bool,
}

/// Where a page of a history ends: now, or later where this machine's clock is behind the host's.
pub(super) fn until(history: &HistoryView, now: UnixMillis) -> UnixMillis {
    let last = history.buckets.last().map_or(0, |last| last.begins_at.0 + history.step_s * 1000);
    UnixMillis(now.0.max(last))
}

/// Its state, and what there is to say of it.
pub(super) fn state(vm: &VmView) -> &'static str {
    if vm.template { "template" } else { power_word(vm.power) }
}

/// What an operator has to know of a VM, as markup.
pub(super) fn troubles(vm: &VmView) -> String {
    let mut said: Vec<String> = vm.problem.iter().cloned().collect();
    said.extend(vm.halted.iter().map(|why| format!("It stands still: {why}")));
    said.extend(vm.agent_silent_since.map(|at| format!("Its agent is silent since {} UTC.", moment(at))));
    if vm.disarmed {
        said.push("It is disarmed: no morph of it goes forward.".to_owned());
    }
    said.iter().map(|what| format!("<p class=\"said\">{}</p>\n", escape(what))).collect()
}

fn or_dash(value: Option<String>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| escape(&value))
}

fn head(one: &Single<'_>) -> String {
    let vm = one.vm;
    let (vcpus, memory) = present(vm);
    let doing = if vm.morph.is_some() { ", a morph is under way" } else { "" };
    let pairs = [
        ("State", format!("{}{doing}", escape(state(vm)))),
        ("Is", escape(one.personality.label.as_deref().unwrap_or(UNKNOWN))),
        ("Profile", or_dash(vm.profile.clone())),
        ("Version", vm.version.to_string()),
        ("vCPUs", format!("{vcpus} of at most {}", vm.intent.vcpus_max)),
        ("Memory", memory.to_string()),
        ("Taken of the host", or_dash(vm.resident.map(|bytes| bytes.to_string()))),
        ("Address", or_dash(vm.address.map(|address| address.to_string()))),
        ("Agent", or_dash(vm.agent.clone())),
        ("Id", format!("<code>{}</code>", vm.id)),
    ];
    format!(
        "<header>\n<p class=\"kind\">Virtual machine on {}</p>\n<h1>{}</h1>\n<p class=\"faint\">As of {} UTC</p>\n{}{}</header>\n",
        escape(one.host),
        escape(vm.name.as_str()),
        moment(one.now),
        facts(&pairs),
        troubles(vm)
    )
}

/// What the plots of a page are, in words.
pub(super) fn about(columns: &Columns, step_s: u64, marks: bool) -> String {
    let mut text = format!(
        "<p>{}, steps of {}. A line is the mean, the band around it reaches from the least to the most; times are UTC.\n\
         <svg class=\"key\" viewBox=\"0 0 24 12\" aria-hidden=\"true\"><rect class=\"gap\" x=\"0.5\" y=\"0.5\" width=\"23\" \
         height=\"11\"/></svg>was not measured, which is not zero.",
        columns.span.words(),
        Millis(columns.each.max(step_s * 1000))
    );
    if marks {
        text.push_str(
            " A line from top to bottom is a change: solid, a new version; dotted, a morph that was undone (↩) or parked (!); \
             dash-dotted, somebody changed something inside (✎); dashed, it became something else (⇄); dotted, an anomaly (?).",
        );
    }
    text + "</p>\n"
}

fn plots(one: &Single<'_>) -> String {
    let mut text = String::from("<h2>Over time</h2>\n");
    let Some(first) = one.history.buckets.first() else {
        return text
            + &format!(
                "<p>Nothing is known of it in steps of {} yet.</p>\n",
                Millis(one.history.step_s * 1000)
            );
    };
    let until = until(one.history, one.now);
    let columns = Columns::new(one.history.step_s, first.begins_at, until, COLUMNS_MAX);
    let mut marks = change::marks(one.versions, one.morphs);
    marks.extend(change::marks_inside(one.personality));
    marks.extend(portrait::marks(one.personality));
    marks.sort_by_key(|mark| (mark.at, mark.what));
    let shown = marks.iter().any(|mark| columns.span.place(mark.at).is_some());
    text.push_str(&about(&columns, one.history.step_s, shown));
    for part in ALL {
        text.push_str(&figure(&part.chart(one.history, &columns), &columns, &marks));
    }
    if one.history.damaged > 0 {
        text.push_str(&format!(
            "<p class=\"said\">{} parts of its history are damaged and left out.</p>\n",
            one.history.damaged
        ));
    }
    text
}

fn changes(one: &Single<'_>) -> String {
    let mut text = String::from("<h2>Configuration</h2>\n");
    if let Some(earlier) = one.versions.first().map(|version| version.number).filter(|number| *number > 0) {
        text.push_str(&format!("<p class=\"faint\">{earlier} earlier versions are not shown.</p>\n"));
    }
    text.push_str(&match one.versions.is_empty() {
        true => "<p>No version of it is known.</p>\n".to_owned(),
        false => change::versions(one.versions),
    });
    text.push_str("<h3>Changes inside</h3>\n");
    text.push_str(&change::changes_inside(one.personality));
    text.push_str("<h2>Morphs</h2>\n");
    text.push_str(&match one.morphs.is_empty() {
        true => "<p>None is known.</p>\n".to_owned(),
        false => change::morphs(one.morphs),
    });
    if one.morphs_cut {
        let _ = writeln!(text, "<p class=\"faint\">Those before the last {HISTORY_MAX} are not shown.</p>");
    }
    text
}

/// The page of one VM.
pub(crate) fn single(one: &Single<'_>) -> String {
    let title = format!("{} – Proteus", one.vm.name);
    // Of a history that is not known yet in these steps the labels tell the begin.
    let since = one.personality.labels.first().map_or(one.now, |label| label.since);
    let first = one.history.buckets.first().map_or(since, |first| first.begins_at);
    let portrait = portrait::section(one.personality, first, until(one.history, one.now));
    page(&title, &(head(one) + &portrait + &plots(one) + &changes(one)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Fleet, Member, fleet};
    use proteus_model::allocation::AllocationTable;
    use proteus_model::execution::State;
    use proteus_model::id::{MorphId, VmId};
    use proteus_model::plan::Goal;
    use proteus_model::unit::Bytes;
    use proteus_model::vm::{Boot, VmIntent};
    use proteus_protocol::api::v1::{AllocationView, HostView};
    use serde_json::{Value, from_value, json, to_value};

    const HOSTILE: &str = "</td><script>alert('1')</script>\u{202e}";
    const BEGIN: u64 = 1_790_000_400_000;

    fn vm() -> VmView {
        let intent = VmIntent::new("web".parse().unwrap(), Boot::Firmware, Bytes::mib(256));
        from_value(json!({
            "id": VmId::from_bits(1), "name": "web", "power": "running", "version": 2, "agent": HOSTILE,
            "profile": HOSTILE, "disarmed": true, "intent": intent, "managed": [], "problem": HOSTILE,
        }))
        .unwrap()
    }

    fn history() -> HistoryView {
        let bucket = |step: u64| {
            let cpu = json!({"min": 1.0, "p50": 2.0, "p95": 3.0, "max": 4.0, "mean": 2.0});
            json!({"begins_at": BEGIN + step * 60_000, "readings": 60, "values": {"cpu": cpu, "other": cpu}})
        };
        let buckets = [bucket(0), bucket(1), bucket(9)];
        from_value(json!({"step_s": 60, "damaged": 2, "units": {"cpu": "m"}, "buckets": buckets})).unwrap()
    }

    fn version(number: u64) -> Version {
        let settings: Value = match number {
            0 => json!([]),
            other => json!([proteus_model::setting::Setting::Vcpus { online: other as u32 }]),
        };
        let goal = (number > 0).then(|| Goal::Profile { label: HOSTILE.to_owned(), digest: String::new() });
        from_value(json!({
            "number": number, "goal": goal, "morph": null, "at": BEGIN + number * 60_000, "profile": HOSTILE,
            "settings": settings,
        }))
        .unwrap()
    }

    fn morph(bits: u128, state: State) -> Morph {
        let mut whole = json!({
            "id": MorphId::from_bits(bits), "generation": 1, "actor": HOSTILE, "began_at": BEGIN + 120_000,
            "ended_at": BEGIN + 150_000, "before": [], "baseline": null,
            "steps": [{"step": 0, "took_ms": 3, "blackout_ms": 12}], "left_alone": [], "reason": HOSTILE,
            "undo_ms": null, "verification": {"passed": false, "unhealthy": [HOSTILE], "comparisons": []},
            "plan": {
                "vm": VmId::from_bits(1), "vm_name": "web", "goal": Goal::FreshVmm, "base_version": 1,
                "base_generation": 0, "steps": [], "already": [], "notes": [], "unsupported": [], "verify": null,
            },
        });
        whole.as_object_mut().unwrap().extend(to_value(state).unwrap().as_object().unwrap().clone());
        from_value(whole).unwrap()
    }

    /// Of a VM of which all is known, or nothing.
    fn personality(known: bool) -> PersonalityView {
        let unknown = || json!({"source": "host", "at": null, "coverage": 0.0, "value": null, "missing": []});
        let mut record: serde_json::Map<String, Value> = [
            "BaseImageID",
            "ConfigurationHistory",
            "ApplicationUsageStats",
            "DataFootprintAnalysis",
            "ApplicationMetrics",
            "ApiCallFrequency",
            "LogActivity",
            "GraphicsProcessors",
            "NetworkTrafficProfile",
            "UserBehaviorModel",
            "PerformanceMetrics",
            "WeightedTraitVector",
        ]
        .map(|part| (part.to_owned(), unknown()))
        .into_iter()
        .collect();
        record.insert("VMID".into(), json!("vm-1"));
        if known {
            let one = |name: &str, deviation: f32| {
                json!({"name": name, "meaning": HOSTILE, "value": 1.0, "deviation": deviation, "weight": 0.5,
                    "of_guest": false})
            };
            record["WeightedTraitVector"]["value"] =
                json!([one("cpu_use", 9.0), one(HOSTILE, -1.0), one("answers", 0.5)]);
            let inside = |at: u64, changed: &str| {
                json!({"at": BEGIN + at, "version": 1, "profile": null, "morph": null, "changed": [changed],
                    "by": null, "after": BEGIN})
            };
            record["ConfigurationHistory"] = json!({"source": HOSTILE, "at": BEGIN, "coverage": 1.0,
                "missing": [HOSTILE], "value": [inside(60_000, HOSTILE), inside(60_000, "units nginx: off → on"),
                    inside(90_000, "etc hosts: a → b")]});
        }
        let seen = json!({"trait": null, "seen": HOSTILE, "weight": -1.0});
        let judgement = json!({"label": null, "confidence": 0.5, "candidates": [], "evidence": [seen],
            "why_not": HOSTILE, "with_guest": true});
        let judgement = known.then_some(judgement);
        let labels = json!([{"since": BEGIN, "label": HOSTILE}, {"since": BEGIN + 60_000, "label": null}]);
        let change = |kind: &str| {
            json!({"kind": kind, "began_at": BEGIN + 60_000, "told_at": BEGIN + 90_000, "from": HOSTILE, "to": null,
                "evidence": [seen]})
        };
        from_value(json!({
            "vm": "web", "at": null, "label": known.then_some(HOSTILE), "judgement": judgement, "host_only": judgement,
            "labels": if known { labels } else { json!([]) }, "departed": false, "inherited_from": null, "record": record,
            "changes": if known { json!([change("shift"), change("anomaly")]) } else { json!([]) },
        }))
        .unwrap()
    }

    fn page_of(history: &HistoryView) -> String {
        single(&Single {
            personality: &personality(!history.buckets.is_empty()),
            now: UnixMillis(BEGIN + 600_000),
            host: HOSTILE,
            vm: &vm(),
            history,
            versions: &[version(0), version(1), version(2)],
            morphs: &[morph(3, State::Parked), morph(2, State::RolledBack), morph(1, State::Committed)],
            morphs_cut: true,
        })
    }

    fn page_of_all(members: &[Member]) -> String {
        let host: HostView = from_value(json!({
            "name": HOSTILE, "cpus": 2, "memory": 1 << 30, "memory_available": null, "accelerator": "kvm",
            "accelerator_why": "", "hypervisor": HOSTILE, "namespace": null, "version": "1", "disarmed_by": HOSTILE,
        }))
        .unwrap();
        let allocation = AllocationView { table: AllocationTable::new(), free: [].into(), names: [].into() };
        let (now, since) = (UnixMillis(BEGIN + 600_000), UnixMillis(BEGIN));
        fleet(&Fleet { now, since, step_s: 60, host: &host, allocation: &allocation, members })
    }

    /// Everything that there is to say of a page whatever is on it.
    fn check(page: &str) {
        assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains("NaN"), "{page}");
        for link in page.split("href=\"#").skip(1) {
            let id = link.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{id}\"")), "{id} leads nowhere");
        }
        for tag in ["div", "figure", "section", "svg", "table", "tr", "td", "ul", "span", "header"] {
            let open = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(open, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn a_page_of_a_vm_is_whole_and_says_what_was_undone() {
        let page = page_of(&history());
        check(&page);
        assert_eq!(page, page_of(&history()));
        // One plot for the one metric that was measured; the others are named.
        assert_eq!(page.matches("<figure").count(), 1);
        assert!(page.contains("<b>Memory</b>: not measured"));
        for said in [
            "↩ rolled back",
            "⇄ shift",
            "? anomaly",
            "<polygon class=\"area\"",
            "! parked",
            "✓ committed",
            "vcpus online: 1 → 2",
            "units nginx: off → on",
            "Not known: &lt;/td&gt;",
            "✎",
            "2 parts of its history",
        ] {
            assert!(page.contains(said), "{said}");
        }
    }

    #[test]
    fn a_page_of_a_vm_of_which_nothing_is_known_says_so() {
        let page = page_of(&HistoryView { buckets: Vec::new(), ..history() });
        check(&page);
        assert!(page.contains("Nothing is known of it in steps of 1 min yet."));
        assert!(
            page.contains("It bore no label yet.") && page.contains("Too little was measured for a picture")
        );
    }

    #[test]
    fn a_page_of_all_vms_shows_one_that_does_not_answer() {
        let busy = || {
            let usage = from_value(json!({
                "at": BEGIN, "faults": {}, "disagreement": null,
                "values": {"cpu": {"value": 512.4, "unit": "m", "of_guest": false}},
            }));
            Member { vm: vm(), usage: Ok(usage.unwrap()), history: Ok(history()) }
        };
        let no = || Err(HOSTILE.to_owned());
        let mut silent = Member { vm: vm(), usage: Err(HOSTILE.to_owned()), history: no() };
        silent.vm.id = VmId::from_bits(2);
        let page = page_of_all(&[busy(), silent]);
        check(&page);
        assert!(page.contains("now 0.51\u{a0}CPUs · most 0.0040\u{a0}CPUs"), "{page}");
        assert!(page.contains("0.51 of 2 CPUs") && page.contains("1 that run were not measured"));
        assert!(page.contains("Its history is not known: &lt;/td&gt;"));
        // Many are rows; by themselves come those that do most, and no link leads to what is not there.
        let many: Vec<Member> = (0..130)
            .map(|number| {
                let mut member = Member { vm: vm(), usage: Err(String::new()), history: no() };
                member.vm.id = VmId::from_bits(number + 10);
                member
            })
            .chain([busy()])
            .collect();
        let page = page_of_all(&many);
        check(&page);
        assert_eq!((page.matches("<tr>").count(), page.matches("<section").count()), (132, 100));
        assert!(
            page.contains(&format!("id=\"vm-{}\"", busy().vm.id)),
            "the one that is measured is among them"
        );
        let nobody = page_of_all(&[]);
        check(&nobody);
        assert!(nobody.contains("0.00 of 2 CPUs") && !nobody.contains("-0.00"), "{nobody}");
    }
}
