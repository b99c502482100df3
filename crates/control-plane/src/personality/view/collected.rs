//! The parts of a record that the collectors inside a VM tell of. Must never show what is older than it says, nor
//! nothing as zero: a part that was not found names the collector that would find it, and why it did not.

use proteus_brain::personality::PersonalityRecord;
use proteus_model::telemetry::{
    Application, AspectObserved, Collector, CollectorState, ConnectionsObserved, EndpointObserved, Findings,
    FlowDirection, Found,
};
use proteus_model::unit::UnixMillis;
use proteus_protocol::api::v1::{
    ApplicationView, ConnectionsView, EndpointView, FootprintView, GpuView, LogView, PartView, UsersView,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most programs and machines that one depends on that are shown.
const DEPENDS_MAX: usize = 16;

/// Names of the rate of requests in what applications tell, by their kind, and how the names of its processes begin.
const REQUESTS: [(&str, &str, &str); 3] = [
    ("nginx", "nginx", "requests_per_second"),
    ("redis", "redis", "commands_per_second"),
    ("postgresql", "postgres", "transactions_per_second"),
];

/// Why a collector found nothing.
fn why_not(findings: Option<&Findings>, failed: Option<&str>, name: Collector) -> String {
    let Some(findings) = findings else {
        return failed.unwrap_or("no agent was heard").to_owned();
    };
    if let Some(why) = findings.refused.get(name.name()) {
        return format!("collector {name}: what the guest told cannot be: {why}");
    }
    match findings.collector(name) {
        Some(seen) if seen.state != CollectorState::On => {
            let state = match seen.state {
                CollectorState::Off => "off",
                CollectorState::Shed => "left out for now",
                _ => "not supported here",
            };
            format!("collector {name}: {state}: {}", seen.why)
        }
        _ => format!("collector {name}: has not come round yet"),
    }
}

/// All that was found, for the parts below.
pub(super) struct Collected<'a> {
    heard: Option<&'a (UnixMillis, Findings)>,
    failed: Option<&'a str>,
}

impl<'a> Collected<'a> {
    /// Of a record; `failed`: why nothing newer is known.
    pub(super) fn of(record: &'a PersonalityRecord, failed: Option<&'a str>) -> Self {
        Self { heard: record.findings.as_ref(), failed }
    }

    /// Why a collector found nothing.
    pub(super) fn why_not(&self, name: Collector) -> String {
        why_not(self.heard.map(|(_, findings)| findings), self.failed, name)
    }

    /// When something was found, and what.
    pub(super) fn found<T>(
        &self,
        part: impl Fn(&'a Findings) -> Option<&'a Found<T>>,
    ) -> Option<(UnixMillis, &'a T)> {
        let (heard_at, findings) = self.heard?;
        let found = part(findings)?;
        Some((findings.found_at(found, *heard_at), &found.value))
    }

    /// A part that is what one collector found.
    pub(super) fn part<T, V>(
        &self,
        name: Collector,
        part: impl Fn(&'a Findings) -> Option<&'a Found<T>>,
        view: impl FnOnce(&'a T) -> V,
    ) -> PartView<V>
    where
        T: 'a,
    {
        match self.found(part) {
            None => PartView::unknown("guest", &self.why_not(name)),
            Some((at, value)) => PartView {
                source: "guest".to_owned(),
                at: Some(at),
                coverage: 1.0,
                value: Some(view(value)),
                missing: self.failed.iter().map(|why| format!("anything newer: {why}")).collect(),
            },
        }
    }

    pub(super) fn connections(&self) -> Option<(UnixMillis, &'a ConnectionsObserved)> {
        self.found(|findings| findings.connections.as_ref())
    }

    pub(super) fn connections_view(&self) -> Option<ConnectionsView> {
        self.connections().map(|(at, seen)| ConnectionsView::new(at, seen))
    }

    /// System calls by class, and calls of libraries by library and class.
    pub(super) fn calls(&self) -> PartView<BTreeMap<String, f64>> {
        let per_second = |window: u64, calls: u64| calls as f64 * 1e3 / window.max(1) as f64;
        let mut view: PartView<BTreeMap<String, f64>> = self.part(
            Collector::Calls,
            |findings| findings.calls.as_ref(),
            |seen| {
                seen.classes
                    .iter()
                    .map(|(name, calls)| (name.clone(), per_second(seen.window.0, *calls)))
                    .collect()
            },
        );
        let Some((at, seen)) = self.found(|findings| findings.libraries.as_ref()) else {
            if self.heard.is_some() {
                view.missing.push(format!("calls of libraries: {}", self.why_not(Collector::Libraries)));
            }
            return view;
        };
        view.at = view.at.max(Some(at));
        if view.value.is_none() {
            // What is missing says that of system calls nothing is known.
            (view.source, view.coverage) = ("guest".to_owned(), 0.5);
        }
        view.value.get_or_insert_default().extend(seen.per_second());
        let left_out = seen.left_out().into_iter();
        view.missing.extend(left_out.map(|(name, functions)| {
            format!("{name}: {functions} of its functions, called too often to be counted all the time")
        }));
        if seen.unread > 0 {
            view.missing.push(format!("calls of {} files that could not be counted", seen.unread));
        }
        view
    }

    pub(super) fn logs(&self) -> PartView<Vec<LogView>> {
        let part = |findings: &'a Findings| findings.logs.as_ref();
        let mut view: PartView<Vec<LogView>> =
            self.part(Collector::Logs, part, |seen| seen.iter().map(LogView::from).collect());
        let logs = view.value.iter().flatten();
        let unread: Vec<&str> =
            logs.filter(|log| log.errors.is_none()).map(|log| log.service.as_str()).collect();
        if !unread.is_empty() {
            view.missing.push(format!("errors of {}: not all that it wrote was read", unread.join(", ")));
        }
        view
    }

    pub(super) fn gpus(&self) -> PartView<Vec<GpuView>> {
        let part = |findings: &'a Findings| findings.gpus.as_ref();
        self.part(Collector::Gpus, part, |seen| seen.iter().map(GpuView::from).collect())
    }

    pub(super) fn endpoints(&self) -> PartView<Vec<EndpointView>> {
        let part = |findings: &'a Findings| findings.endpoints.as_ref();
        self.part(Collector::Endpoints, part, |seen| seen.iter().map(EndpointView::from).collect())
    }

    pub(super) fn files(&self) -> PartView<FootprintView> {
        let part = |findings: &'a Findings| findings.files.as_ref();
        let mut view = self.part(Collector::Files, part, FootprintView::from);
        let Some((_, seen)) = self.found(|findings| findings.files.as_ref()) else { return view };
        view.coverage = seen.sampled_share().map_or(1.0, |share| share.0 as f32 / 1000.0);
        if !seen.complete {
            view.missing.push("what is beyond the bound of one round".to_owned());
        }
        if seen.folders_unread > 0 {
            view.missing.push(format!("{} folders that could not be read", seen.folders_unread));
        }
        if seen.without_read_time > 0 {
            view.missing.push(format!(
                "when {} files were read: their file system keeps no time",
                seen.without_read_time
            ));
        }
        if seen.growth_per_day.is_none() {
            view.missing.push("growth: it takes two whole rounds, six hours apart".to_owned());
        }
        view
    }

    pub(super) fn users(&self) -> PartView<UsersView> {
        let part = |findings: &'a Findings| findings.users.as_ref();
        let mut view = self.part(Collector::Users, part, UsersView::from);
        if view.value.as_ref().is_some_and(|value| value.consent != "given") {
            view.missing
                .push("no consent is given inside the guest: `proteus-guest consent give`".to_owned());
        }
        view
    }

    /// When the configuration inside was looked at last.
    pub(super) fn configuration_at(&self) -> Option<UnixMillis> {
        self.found(|findings| findings.configuration.as_ref()).map(|(at, _)| at)
    }

    /// Since when it is looked at, by the host's clock.
    pub(super) fn configuration_began_at(&self) -> Option<UnixMillis> {
        let (heard_at, findings) = self.heard?;
        let began_at = findings.configuration.as_ref()?.value.began_at;
        Some(UnixMillis(heard_at.0.saturating_sub(findings.now.0.saturating_sub(began_at.0))))
    }

    /// What is not known of the configuration inside.
    pub(super) fn configuration_missing(&self, lost: u64) -> Vec<String> {
        let Some((_, seen)) = self.found(|findings| findings.configuration.as_ref()) else {
            return vec![format!("changes inside, by others: {}", self.why_not(Collector::Configuration))];
        };
        let aspect = |one: &AspectObserved| one.missing.as_ref().map(|why| format!("{}: {why}", one.aspect));
        let mut missing: Vec<String> = seen.aspects.iter().filter_map(aspect).collect();
        if lost > 0 {
            missing.push(format!("{lost} changes inside that came too fast"));
        }
        if !seen.kept {
            missing.push(
                "what changes inside while its agent does not run: it has no disk to remember on".to_owned(),
            );
        }
        missing
    }

    /// A program as it was at `at`, with what its connections and its own word tell of it.
    pub(super) fn application(&self, app: &Application, at: UnixMillis) -> ApplicationView {
        let endpoints = self.found(|findings| findings.endpoints.as_ref()).map(|(_, all)| all.as_slice());
        let connections = self.connections().map(|(_, seen)| seen);
        ApplicationView {
            sessions: connections.and_then(|seen| sessions(seen, &app.name)),
            depends_on: connections.map(|seen| depends_on(seen, &app.name)).unwrap_or_default(),
            requests: endpoints.and_then(|all| requests(all, &app.name)),
            starts_per_hour: app.starts_per_hour(at),
            ..ApplicationView::from(app.clone())
        }
    }
}

/// Connections that a program serves, from outside and from inside; `None`: not known, as of a program whose sockets are
/// nobody's or in another network namespace.
fn sessions(seen: &ConnectionsObserved, name: &str) -> Option<u32> {
    seen.served.as_ref()?.get(name).copied()
}

/// Programs and machines that a program is connected to.
fn depends_on(seen: &ConnectionsObserved, name: &str) -> Vec<String> {
    let own = seen.flows.iter().filter(|flow| flow.application.as_deref() == Some(name));
    let target =
        |flow: &proteus_model::telemetry::FlowObserved| match (flow.direction, &flow.peer_application) {
            (FlowDirection::Inbound, _) => None,
            (FlowDirection::Local, Some(program)) => Some(format!("{program}:{}", flow.port)),
            (_, _) => Some(format!("{}:{}", flow.peer, flow.port)),
        };
    let targets: BTreeSet<String> = own.filter_map(target).collect();
    targets.into_iter().take(DEPENDS_MAX).collect()
}

/// Requests per second by the word of the applications of its kind, all together.
fn requests(all: &[EndpointObserved], name: &str) -> Option<f64> {
    let (kind, _, metric) = REQUESTS.into_iter().find(|(_, begin, _)| name.starts_with(begin))?;
    let told = all.iter().filter(|one| one.kind == kind).filter_map(|one| one.metrics.get(metric));
    told.copied().reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proteus_model::telemetry::{CollectorObserved, FlowObserved, LogObserved};
    use proteus_model::unit::{Bytes, Millis};

    fn flow(direction: FlowDirection, port: u16, own: &str, other: Option<&str>) -> FlowObserved {
        FlowObserved {
            direction,
            port,
            peer: [10, 0, 0, 9].into(),
            application: Some(own.to_owned()),
            peer_application: other.map(str::to_owned),
            connections: 3,
            sent: Bytes(1),
            received: Bytes(1),
            rtt_us: None,
        }
    }

    #[test]
    fn of_what_was_not_all_read_errors_are_said_to_be_missing() {
        let log = |service: &str, errors| LogObserved {
            service: service.to_owned(),
            window: Millis(60_000),
            lines: 6,
            errors,
        };
        let value = vec![log("nginx.service", Some(3)), log("journal", None)];
        let findings = Findings { logs: Some(Found { at: UnixMillis(5), value }), ..Findings::default() };
        let heard = (UnixMillis(9), findings);
        let view = Collected { heard: Some(&heard), failed: None }.logs();
        assert_eq!(view.missing, ["errors of journal: not all that it wrote was read"]);
        let rows: Vec<_> = view.value.into_iter().flatten().map(|log| (log.service, log.errors)).collect();
        assert_eq!(rows, [("nginx.service".to_owned(), Some(0.05)), ("journal".to_owned(), None)]);
    }

    #[test]
    fn a_program_serves_some_and_depends_on_others() {
        let flows = vec![
            flow(FlowDirection::Inbound, 80, "nginx", None),
            flow(FlowDirection::Local, 6379, "php", Some("redis-server")),
            flow(FlowDirection::Outbound, 443, "php", None),
        ];
        let served = Some(BTreeMap::from([("nginx".to_owned(), 3)]));
        let seen = ConnectionsObserved { flows, served, ..ConnectionsObserved::default() };
        assert_eq!([sessions(&seen, "nginx"), sessions(&seen, "php")], [Some(3), None]);
        assert_eq!(sessions(&ConnectionsObserved::default(), "nginx"), None);
        assert_eq!(depends_on(&seen, "php"), ["10.0.0.9:443", "redis-server:6379"]);
        assert!(depends_on(&seen, "nginx").is_empty());
    }

    #[test]
    fn requests_are_those_of_its_kind() {
        let told = |kind: &str, name: &str, value: f64| EndpointObserved {
            kind: kind.to_owned(),
            address: String::new(),
            missing: None,
            metrics: BTreeMap::from([(name.to_owned(), value)]),
        };
        let all = [
            told("redis", "commands_per_second", 5.0),
            told("redis", "commands_per_second", 2.0),
            told("nginx", "connections", 9.0),
        ];
        assert_eq!(requests(&all, "redis-server"), Some(7.0));
        assert_eq!((requests(&all, "nginx"), requests(&all, "cc1")), (None, None));
    }

    #[test]
    fn a_part_that_was_not_found_says_why() {
        let record = PersonalityRecord::new(UnixMillis(0));
        let none = Collected::of(&record, Some("its agent is of before"));
        assert_eq!(none.calls().missing, ["its agent is of before"]);
        assert_eq!(Collected::of(&record, None).gpus().missing, ["no agent was heard"]);
        let seen = CollectorObserved {
            name: Collector::Gpus,
            state: CollectorState::Unsupported,
            why: "none is passed through".to_owned(),
            cpu_us: 0,
            runs: 0,
        };
        let findings = Findings { collectors: vec![seen], ..Findings::default() };
        let record = PersonalityRecord { findings: Some((UnixMillis(9), findings)), ..record };
        let some = Collected::of(&record, None);
        assert_eq!(some.gpus().missing, ["collector gpus: not supported here: none is passed through"]);
        assert_eq!(some.logs().missing, ["collector logs: has not come round yet"]);
        let mut lied = record.clone();
        let refused = BTreeMap::from([("logs".to_owned(), "log.window_ms is 0, expected more".to_owned())]);
        lied.findings.as_mut().unwrap().1.refused = refused;
        let why = "collector logs: what the guest told cannot be: log.window_ms is 0, expected more";
        assert_eq!(Collected::of(&lied, None).logs().missing, [why]);
        assert_eq!(
            some.calls().missing,
            [
                "collector calls: has not come round yet",
                "calls of libraries: collector libraries: has not come round yet"
            ]
        );
    }

    #[test]
    fn calls_of_libraries_are_beside_those_of_the_system_and_what_is_left_out_is_said() {
        use proteus_model::telemetry::{CallsObserved, LibrariesObserved, LibraryClassObserved};
        use proteus_model::unit::Millis;
        let row = |calls: Option<u64>, left_out: u32| LibraryClassObserved {
            library: "libz".to_owned(),
            class: if calls.is_some() { "compression" } else { "other" }.to_owned(),
            window: Millis(500),
            calls,
            left_out,
        };
        let value = LibrariesObserved { classes: vec![row(Some(21), 0), row(None, 2)], unread: 1 };
        let libraries = Some(Found { at: UnixMillis(7), value });
        let classes = BTreeMap::from([("all".to_owned(), 50)]);
        let calls = Found { at: UnixMillis(5), value: CallsObserved { window: Millis(1000), classes } };
        let mut findings =
            Findings { now: UnixMillis(9), calls: Some(calls), libraries, ..Findings::default() };
        let shown = |findings: &Findings| {
            let record = PersonalityRecord::new(UnixMillis(0));
            Collected::of(
                &PersonalityRecord { findings: Some((UnixMillis(9), findings.clone())), ..record },
                None,
            )
            .calls()
        };
        let both = shown(&findings);
        let rates = both.value.unwrap();
        assert_eq!((rates.get("all"), rates.get("libz/compression")), (Some(&50.0), Some(&42.0)));
        assert!(!rates.contains_key("libz/other"), "what is left out is no zero");
        assert_eq!(
            both.missing,
            [
                "libz/other: 2 of its functions, called too often to be counted all the time",
                "calls of 1 files that could not be counted"
            ]
        );
        findings.calls = None;
        let one = shown(&findings);
        assert_eq!(one.value.unwrap().len(), 1);
        assert_eq!((one.missing.len(), one.at), (3, Some(UnixMillis(7))));
    }
}
