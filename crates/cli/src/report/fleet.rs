//! The page of all VMs: what the host has and what they take of it together, a line for each, and each by itself.

use super::axis::Measure;
use super::chart::{figure, spark};
use super::markup::{Row, escape, facts, page, table};
use super::part::BRIEF;
use super::series::{Columns, Series, series};
use super::vm::{about, state, troubles, until};
use crate::output::{moment, present};
use proteus_model::allocation::Amount;
use proteus_model::personality::UNKNOWN;
use proteus_model::telemetry::Metric;
use proteus_model::unit::{Bytes, MilliCpu, UnixMillis};
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{AllocationView, HistoryView, HostView, UsageView, VmView};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Most columns of a plot; there are three for each VM.
const COLUMNS_MAX: u64 = 180;
/// Most VMs that are shown each by itself; the page would be tens of MiB otherwise.
const SECTIONS_MAX: usize = 100;
const PRESSURES: [(Metric, &str); 3] =
    [(Metric::PressureCpu, "CPU"), (Metric::PressureMemory, "memory"), (Metric::PressureIo, "disk")];

/// What is known of all VMs.
pub(crate) struct Fleet<'a> {
    /// When it was asked for.
    pub now: UnixMillis,
    /// From when on histories were asked for.
    pub since: UnixMillis,
    /// Length of their steps, s.
    pub step_s: u64,
    /// The host.
    pub host: &'a HostView,
    /// Who has what.
    pub allocation: &'a AllocationView,
    /// Each VM.
    pub members: &'a [Member],
}

/// One of them.
pub(crate) struct Member {
    /// It.
    pub vm: VmView,
    /// What it uses now; why that is not known.
    pub usage: Result<UsageView, String>,
    /// What it used; why that is not known.
    pub history: Result<HistoryView, String>,
}

impl Member {
    /// What it uses now, where it runs.
    fn now(&self, metric: Metric) -> Option<f32> {
        let usage = self.usage.as_ref().ok().filter(|_| self.vm.power == PowerState::Running)?;
        usage.values.get(metric.name()).map(|value| value.value)
    }

    /// For what its tasks wait most, and in which share of time, ‰.
    fn pressure(&self) -> Option<(&'static str, f32)> {
        let known = PRESSURES.iter().filter_map(|(metric, word)| Some((*word, self.now(*metric)?)));
        known.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn series(&self, metric: Metric, columns: &Columns) -> Series {
        let none = Series { runs: Vec::new(), overall: None };
        self.history.as_ref().map_or(none, |history| series(history, metric.name(), columns))
    }

    fn anchor(&self) -> String {
        format!("vm-{}", self.vm.id)
    }
}

/// A share of a whole, drawn: what is held, and what of it is used.
fn meter(used: f64, held: f64) -> String {
    let width = |share: f64| format!("{:.1}", share.clamp(0.0, 1.0) * 100.0);
    format!(
        "<svg class=\"meter\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"all\" \
         width=\"100\" height=\"4\"/><rect class=\"held\" width=\"{}\" height=\"4\"/><rect class=\"used\" width=\"{}\" \
         height=\"4\"/></svg>",
        width(held),
        width(used)
    )
}

fn tile(title: &str, value: &str, meter: &str, more: &str) -> String {
    format!(
        "<div class=\"tile\"><span class=\"faint\">{}</span><b>{}</b>{meter}<span class=\"faint\">{}</span></div>\n",
        escape(title),
        escape(value),
        escape(more)
    )
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn totals(all: &Fleet<'_>) -> String {
    let running = all.members.iter().filter(|member| member.vm.power == PowerState::Running).count();
    let morphs = all.members.iter().filter(|member| member.vm.morph.is_some()).count();
    let held = all
        .allocation
        .table
        .hosts()
        .keys()
        .fold(Amount::ZERO, |sum, host| sum.plus(all.allocation.table.held(host)));
    let known: Vec<f32> = all.members.iter().filter_map(|member| member.now(Metric::Cpu)).collect();
    // The sum of nothing is -0.
    let cpu = known.iter().sum::<f32>().abs();
    let cpus = f64::from(all.host.cpus) * 1000.0;
    let unmeasured = match running.saturating_sub(known.len()) {
        0 => String::new(),
        count => format!("; {count} that run were not measured"),
    };
    let resident = all.members.iter().filter_map(|member| member.vm.resident);
    let resident = resident.fold(Bytes::ZERO, Bytes::saturating_add);
    let memory = all.host.memory;
    let mut text = String::from("<div class=\"tiles\">\n");
    text.push_str(&tile(
        "VMs",
        &format!("{running} of {} run", all.members.len()),
        "",
        &format!("morphs under way: {morphs}"),
    ));
    text.push_str(&tile(
        "CPU now",
        &format!("{:.2} of {} CPUs", f64::from(cpu) / 1000.0, all.host.cpus),
        &meter(ratio(f64::from(cpu), cpus), ratio(f64::from(held.cpu.0), cpus)),
        &format!("promised: {}{unmeasured}", MilliCpu(held.cpu.0)),
    ));
    text.push_str(&tile(
        "Memory now",
        &format!("{resident} of {memory}"),
        &meter(ratio(resident.0 as f64, memory.0 as f64), ratio(held.memory.0 as f64, memory.0 as f64)),
        &format!("promised: {}", held.memory),
    ));
    let worst = all
        .members
        .iter()
        .filter_map(|member| member.pressure().map(|(word, value)| (member, word, value)))
        .max_by(|a, b| a.2.total_cmp(&b.2));
    let (value, more) = match worst {
        Some((member, word, value)) => {
            (format!("{:.1} %", value / 10.0), format!("{}: tasks wait for {word}", member.vm.name))
        }
        None => ("–".to_owned(), "no guest tells of any".to_owned()),
    };
    text.push_str(&tile("Highest pressure now", &value, "", &more));
    text + "</div>\n"
}

fn cell(series: &Series, columns: &Columns, unit: &str, now: Option<f32>) -> String {
    let most = series.overall.map(|(_, _, most)| most);
    let measure = Measure::of(unit, most.or(now).unwrap_or(0.0));
    let mut said: Vec<String> = now.map(|now| format!("now {}", measure.told(now))).into_iter().collect();
    said.extend(most.map(|most| format!("most {}", measure.told(most))));
    let words = said.join(" · ");
    format!("<div>{}<span class=\"note\">{}</span></div>", spark(series, columns, &words), escape(&words))
}

/// The pressure that was the highest at any time.
fn worst(member: &Member, columns: &Columns) -> (Series, Option<f32>) {
    let known = PRESSURES.iter().map(|(metric, _)| (member.series(*metric, columns), member.now(*metric)));
    let most = |series: &Series| series.overall.map_or(-1.0, |(_, _, most)| most);
    let none = (Series { runs: Vec::new(), overall: None }, None);
    known.max_by(|a, b| most(&a.0).total_cmp(&most(&b.0))).unwrap_or(none)
}

fn row(member: &Member, columns: &Columns, by_itself: bool) -> Row {
    let vm = &member.vm;
    let (pressure, pressure_now) = worst(member, columns);
    let problem = match (&member.usage, &member.history) {
        (Err(why), _) | (Ok(_), Err(why)) => format!("<br><span class=\"bad\">{}</span>", escape(why)),
        (Ok(_), Ok(_)) => String::new(),
    };
    let unwell = matches!(vm.power, PowerState::Hung | PowerState::Unknown);
    let class = if unwell { "bad" } else { "" };
    let metric =
        |metric: Metric| cell(&member.series(metric, columns), columns, metric.unit(), member.now(metric));
    Row {
        id: None,
        cells: vec![
            if by_itself {
                format!("<a href=\"#{}\">{}</a>", member.anchor(), escape(vm.name.as_str()))
            } else {
                escape(vm.name.as_str())
            },
            format!("<span class=\"{class}\">{}</span>{problem}", escape(state(vm))),
            escape(vm.label.as_deref().unwrap_or(UNKNOWN)),
            vm.profile.as_deref().map_or("–".to_owned(), escape),
            metric(Metric::Cpu),
            metric(Metric::Memory),
            cell(&pressure, columns, Metric::PressureCpu.unit(), pressure_now),
        ],
    }
}

/// Places of those that are shown each by itself: all, or those whose tasks wait most, then those that do most.
fn busiest(members: &[Member]) -> BTreeSet<usize> {
    let key = |at: &usize| {
        let now = |metric| members[*at].now(metric).unwrap_or(-1.0);
        (members[*at].pressure().map_or(-1.0, |(_, value)| value), now(Metric::Cpu))
    };
    let mut places: Vec<usize> = (0..members.len()).collect();
    places.sort_by(|a, b| {
        let (a, b) = (key(a), key(b));
        b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    places.truncate(SECTIONS_MAX);
    places.into_iter().collect()
}

fn section(member: &Member, columns: &Columns) -> String {
    let vm = &member.vm;
    let (vcpus, memory) = present(vm);
    let dash = || "–".to_owned();
    let pairs = [
        ("State", escape(state(vm))),
        ("Is", escape(vm.label.as_deref().unwrap_or(UNKNOWN))),
        ("Profile", vm.profile.as_deref().map_or_else(dash, escape)),
        ("Version", vm.version.to_string()),
        ("vCPUs", format!("{vcpus} of at most {}", vm.intent.vcpus_max)),
        ("Memory", memory.to_string()),
        ("Address", vm.address.map_or_else(dash, |address| address.to_string())),
    ];
    let mut text = format!(
        "<section class=\"vm small\" id=\"{}\">\n<h3>{}</h3>\n{}{}",
        member.anchor(),
        escape(vm.name.as_str()),
        facts(&pairs),
        troubles(vm)
    );
    // Writing into a String cannot fail.
    match &member.history {
        Err(why) => {
            let _ = writeln!(text, "<p class=\"said\">Its history is not known: {}</p>", escape(why));
        }
        Ok(history) if history.buckets.is_empty() => {
            text.push_str("<p class=\"note\">Nothing was measured of it in this time.</p>\n");
        }
        Ok(history) => {
            for part in BRIEF {
                text.push_str(&figure(&part.chart(history, columns), columns, &[]));
            }
        }
    }
    text + "<p class=\"back\"><a href=\"#vms\">↑ all VMs</a></p>\n</section>\n"
}

fn head(all: &Fleet<'_>) -> String {
    let host = all.host;
    let pairs = [
        ("CPUs", host.cpus.to_string()),
        ("Memory", host.memory.to_string()),
        ("Could be handed out", host.memory_available.map_or("–".to_owned(), |bytes| bytes.to_string())),
        ("Guests run on", escape(&host.accelerator)),
        ("Hypervisor", escape(&host.hypervisor)),
        ("Proteus", escape(&host.version)),
    ];
    let disarmed = host
        .disarmed_by
        .as_ref()
        .map(|who| format!("<p class=\"said\">Disarmed by {}: no morph goes forward.</p>\n", escape(who)));
    format!(
        "<header>\n<p class=\"kind\">All virtual machines of</p>\n<h1>{}</h1>\n<p class=\"faint\">As of {} UTC</p>\n{}{}</header>\n",
        escape(&host.name),
        moment(all.now),
        facts(&pairs),
        disarmed.unwrap_or_default()
    )
}

/// The page of all VMs.
pub(crate) fn fleet(all: &Fleet<'_>) -> String {
    let known = all.members.iter().filter_map(|member| member.history.as_ref().ok());
    let first = known.clone().filter_map(|history| history.buckets.first()).map(|first| first.begins_at);
    let until = known.map(|history| until(history, all.now)).max().unwrap_or(all.now);
    let first = first.min().unwrap_or(all.since);
    let columns = Columns::new(all.step_s, first, until, COLUMNS_MAX);
    let mut body = head(all);
    body.push_str(&totals(all));
    body.push_str("<h2 id=\"vms\">VMs</h2>\n");
    if all.members.is_empty() {
        body.push_str("<p>There are none.</p>\n");
    } else {
        body.push_str(&about(&columns, all.step_s, false));
        body.push_str(
            "<p class=\"note\">Each small plot is drawn against its own most; of pressures it shows the one that was \
             highest.</p>\n",
        );
        let chosen = busiest(all.members);
        let members = || all.members.iter().enumerate();
        let rows: Vec<Row> = members().map(|(at, vm)| row(vm, &columns, chosen.contains(&at))).collect();
        let heading = ["Name", "State", "Label", "Profile", "CPU", "Memory", "Pressure"];
        body.push_str(&table("vms", &heading, &rows));
        body.push_str("<h2>Each by itself</h2>\n");
        if chosen.len() < all.members.len() {
            // Writing into a String cannot fail.
            let _ = writeln!(
                body,
                "<p class=\"note\">The {} with the most pressure and CPU time now; `proteus report VM` shows any.</p>",
                chosen.len()
            );
        }
        let shown = members().filter(|(at, _)| chosen.contains(at));
        body.extend(shown.map(|(_, member)| section(member, &columns)));
    }
    page(&format!("{} – Proteus", all.host.name), &body)
}
