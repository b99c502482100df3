//! What `virsh list` and `virsh domstats --raw` print, as domains with their counters. Pure. Names and paths in it are
//! words of others: must never panic, never take what is missing for zero, and never give one domain what is another's.
//!
//! ```text
//! UUID NAME            one line for each domain
//! MARK
//! Domain: 'NAME'       one section for each; nothing in it is quoted
//!   key=value
//! ```
//! A name or a path may hold a line end, so a section can be forged by whoever may define a domain. Of two sections of one
//! name, and of two values of one key, none is believed.

use proteus_model::id::VmId;
use proteus_model::unit::Bytes;
use proteus_model::vm::VmCounters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most domains that are taken in.
pub const DOMAINS_MAX: usize = 10_000;
/// Most devices of a kind, and vCPUs, that one domain may have.
const PARTS_MAX: u64 = 4096;
/// A counter beyond it is none: libvirt writes −1 for what it does not know.
const COUNTER_MAX: u64 = i64::MAX as u64;
/// Bytes in the KiB that memory is told in.
const KIB: u64 = 1024;
/// Characters of a UUID.
const UUID_CHARS: usize = 36;

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It was cut, or is of another program.
    #[error("it does not have the line between its two parts")]
    NoMark,
    /// Too many to watch.
    #[error("it lists more than {DOMAINS_MAX} domains")]
    TooMany,
}

/// How a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs.
    Running,
    /// It has a process and stands still.
    Paused,
    /// It is on its way out, and runs yet.
    Ending,
    /// It does not run.
    Stopped,
    /// It ended by a fault.
    Crashed,
    /// Its guest put it to sleep.
    Asleep,
    /// Libvirt did not say.
    Unknown,
}

impl State {
    /// By the number of `virDomainState`.
    fn of(number: Option<u64>) -> Self {
        match number {
            // 2 is "blocked on a resource", which runs as far as it can.
            Some(1 | 2) => Self::Running,
            Some(3) => Self::Paused,
            Some(4) => Self::Ending,
            Some(5) => Self::Stopped,
            Some(6) => Self::Crashed,
            Some(7) => Self::Asleep,
            _ => Self::Unknown,
        }
    }

    /// Whether what is counted of it is of now: of one that is stopped libvirt prints numbers of nothing.
    pub fn runs(self) -> bool {
        matches!(self, Self::Running | Self::Ending)
    }

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ending => "ending",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Asleep => "asleep",
            Self::Unknown => "unknown",
        }
    }
}

/// Which parts a sum is of. Another set is another sum: no rate is told from one to the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Numbers of the vCPUs.
    pub vcpus: Option<Vec<u64>>,
    /// Names of the links.
    pub links: Option<Vec<String>>,
    /// Names of the disks.
    pub disks: Option<Vec<String>>,
}

impl Shape {
    /// Whether sums of `self` go on where those of `before` ended, where both are known.
    pub fn goes_on(&self, before: &Self) -> bool {
        fn same<T: PartialEq>(now: &Option<T>, before: &Option<T>) -> bool {
            now.as_ref().zip(before.as_ref()).is_none_or(|(now, before)| now == before)
        }
        same(&self.vcpus, &before.vcpus)
            && same(&self.links, &before.links)
            && same(&self.disks, &before.disks)
    }

    /// Takes from what was known before what is not known now.
    pub fn fill(&mut self, before: Self) {
        self.vcpus = self.vcpus.take().or(before.vcpus);
        self.links = self.links.take().or(before.links);
        self.disks = self.disks.take().or(before.disks);
    }
}

/// One domain of libvirt.
#[derive(Debug, Clone, PartialEq)]
pub struct Domain {
    /// Its UUID, which stays when it is renamed.
    pub id: VmId,
    /// Any text.
    pub name: String,
    /// How it is.
    pub state: State,
    /// Its vCPUs now, and at most.
    pub vcpus: [Option<u32>; 2],
    /// Its memory now, and at most.
    pub memory: [Option<Bytes>; 2],
    /// What was counted; nothing where it does not run.
    pub counters: VmCounters,
    /// What the sums are of.
    pub shape: Shape,
}

/// What an answer has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// In the order of their ids.
    pub domains: Vec<Domain>,
    /// Lines and sections that are not understood or not believed.
    pub strange: u64,
}

/// Values of one section, by key; `None`: it was there twice.
type Fields<'a> = BTreeMap<&'a str, Option<&'a str>>;

/// The id of a line `UUID NAME`, and the name.
fn listed(line: &str) -> Option<(VmId, &str)> {
    let (uuid, name) = line.split_at_checked(UUID_CHARS)?;
    let name = name.strip_prefix(' ').filter(|name| !name.is_empty())?;
    let dashes = uuid.char_indices().filter(|(_, c)| *c == '-').map(|(at, _)| at);
    if !dashes.eq([8, 13, 18, 23]) {
        return None;
    }
    Some((uuid.replace('-', "").to_ascii_lowercase().parse().ok()?, name))
}

/// Sections by name; `None`: there were two of it.
fn sections<'a>(text: &'a str, strange: &mut u64) -> BTreeMap<&'a str, Option<Fields<'a>>> {
    let mut all: BTreeMap<&str, Option<Fields<'_>>> = BTreeMap::new();
    let mut open: Option<&str> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Domain: '").and_then(|rest| rest.strip_suffix('\'')) {
            let twice = all.contains_key(name);
            *strange += u64::from(twice);
            all.insert(name, (!twice).then(Fields::new));
            open = Some(name);
            continue;
        }
        let field = line.strip_prefix("  ").and_then(|field| field.split_once('='));
        match (field, open.and_then(|name| all.get_mut(name))) {
            (Some((key, value)), Some(Some(fields))) => {
                let twice = fields.contains_key(key);
                *strange += u64::from(twice);
                fields.insert(key, (!twice).then_some(value));
            }
            (Some(_), Some(None)) => {}
            _ => *strange += u64::from(!line.is_empty()),
        }
    }
    all
}

/// Reads an answer: what `list` printed, the line `mark`, what `domstats` printed.
pub fn parse(text: &str, mark: &str) -> Result<Listing, AnswerError> {
    let mut strange = 0;
    let mut ids: BTreeMap<VmId, Option<&str>> = BTreeMap::new();
    let mut names: BTreeMap<&str, u64> = BTreeMap::new();
    let mut rest = text;
    loop {
        let (line, after) = rest.split_once('\n').ok_or(AnswerError::NoMark)?;
        rest = after;
        if line == mark {
            break;
        }
        let Some((id, name)) = listed(line) else {
            strange += u64::from(!line.is_empty());
            continue;
        };
        if ids.len() >= DOMAINS_MAX {
            return Err(AnswerError::TooMany);
        }
        let twice = ids.contains_key(&id);
        strange += u64::from(twice);
        ids.insert(id, (!twice).then_some(name));
        *names.entry(name).or_default() += 1;
    }
    let sections = sections(rest, &mut strange);
    let none = Fields::new();
    let domain = |(id, name): (VmId, Option<&str>)| {
        let name = name?;
        let own = sections.get(name).and_then(Option::as_ref).filter(|_| names.get(name) == Some(&1));
        Some(domain(id, name, own.unwrap_or(&none)))
    };
    let domains = ids.into_iter().filter_map(domain).collect();
    Ok(Listing { domains, strange })
}

/// The number of a key; `None`: it is not there, or is none.
fn number(fields: &Fields<'_>, key: &str) -> Option<u64> {
    let text = (*fields.get(key)?)?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|number| *number <= COUNTER_MAX)
}

/// Sum of a key over parts; `None`: one of them does not have it.
fn sum(fields: &Fields<'_>, kind: &str, parts: &[u64], key: &str) -> Option<u64> {
    parts.iter().try_fold(0u64, |sum, part| sum.checked_add(number(fields, &format!("{kind}.{part}.{key}"))?))
}

fn count(fields: &Fields<'_>, key: &str) -> Option<u64> {
    number(fields, key).filter(|count| *count <= PARTS_MAX)
}

fn names(fields: &Fields<'_>, kind: &str, parts: &[u64]) -> Option<Vec<String>> {
    let name = |part: &u64| Some((*fields.get(format!("{kind}.{part}.name").as_str())?)?.to_owned());
    parts.iter().map(name).collect()
}

fn domain(id: VmId, name: &str, fields: &Fields<'_>) -> Domain {
    let state = State::of(number(fields, "state.state"));
    let small = |key| number(fields, key).and_then(|number| u32::try_from(number).ok());
    let kib = |key| number(fields, key).and_then(|kib| kib.checked_mul(KIB)).map(Bytes);
    let mut domain = Domain {
        id,
        name: name.to_owned(),
        state,
        vcpus: [small("vcpu.current"), small("vcpu.maximum")],
        memory: [kib("balloon.current"), kib("balloon.maximum")],
        counters: VmCounters::default(),
        shape: Shape::default(),
    };
    if state.runs() {
        domain.counters.vmm_run_ns = number(fields, "cpu.time");
        domain.counters.resident = kib("balloon.rss");
        count_vcpus(fields, &mut domain);
        count_links(fields, &mut domain);
        count_disks(fields, &mut domain);
    }
    domain
}

fn count_vcpus(fields: &Fields<'_>, domain: &mut Domain) {
    // vCPUs that are off are counted in `maximum` alone, and have no lines.
    let most = count(fields, "vcpu.maximum").unwrap_or(0);
    let parts: Vec<u64> =
        (0..most).filter(|part| fields.contains_key(format!("vcpu.{part}.state").as_str())).collect();
    if parts.is_empty() || count(fields, "vcpu.current") != Some(parts.len() as u64) {
        return;
    }
    domain.counters.vcpu_run_ns = sum(fields, "vcpu", &parts, "time");
    domain.counters.vcpu_wait_ns = sum(fields, "vcpu", &parts, "delay");
    domain.shape.vcpus = domain.counters.vcpu_run_ns.map(|_| parts);
}

fn count_links(fields: &Fields<'_>, domain: &mut Domain) {
    let Some(parts) = count(fields, "net.count").map(|count| (0..count).collect::<Vec<_>>()) else { return };
    let of = |key| sum(fields, "net", &parts, key);
    // As the guest sees it: libvirt turns a tap's counters round.
    domain.counters.net_to_guest = of("rx.bytes");
    domain.counters.net_from_guest = of("tx.bytes");
    domain.counters.packets_to_guest = of("rx.pkts");
    domain.counters.packets_from_guest = of("tx.pkts");
    domain.shape.links = domain.counters.net_to_guest.and_then(|_| names(fields, "net", &parts));
}

fn count_disks(fields: &Fields<'_>, domain: &mut Domain) {
    let Some(count) = count(fields, "block.count") else { return };
    let has = |part: &u64, key: &str| fields.contains_key(format!("block.{part}.{key}").as_str());
    // A drive without a medium has neither a path nor figures.
    let is_empty = |part: &u64| has(part, "name") && !has(part, "path") && !has(part, "rd.reqs");
    let parts: Vec<u64> = (0..count).filter(|part| !is_empty(part)).collect();
    let of = |key| sum(fields, "block", &parts, key);
    domain.counters.disk_read = of("rd.bytes");
    domain.counters.disk_written = of("wr.bytes");
    domain.counters.disk_reads = of("rd.reqs");
    domain.counters.disk_writes = of("wr.reqs");
    domain.counters.disk_flushes = of("fl.reqs");
    let took = [of("rd.times"), of("wr.times"), of("fl.times")];
    domain.counters.disk_took_ns = took.into_iter().try_fold(0u64, |sum, took| sum.checked_add(took?));
    domain.shape.disks = domain.counters.disk_read.and_then(|_| names(fields, "block", &parts));
}

#[cfg(test)]
mod tests;
