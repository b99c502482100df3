//! What `proteus top` knows and how it is turned: VMs with what they use, in an order, and which part of them is seen.
//! Pure: answers of the API and keys in, rows out. Must never show as known what was not answered.

mod draw;

mod row;

pub(crate) use draw::{draw, room};
pub(crate) use row::{plain, value};

use clap::ValueEnum;
use proteus_model::execution::Morph;
use proteus_model::id::VmId;
use proteus_model::vm::PowerState;
use proteus_protocol::api::v1::{HostView, UsageView, VmView};
use ratatui::crossterm::event::{KeyCode, KeyModifiers};
use row::Figures;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What Proteus said when it was asked once.
pub(crate) struct Look {
    /// The host, its VMs, and morphs that are under way, some of them; or why they are not known.
    pub lists: Result<Lists, String>,
    /// What VMs use, of those that were asked for; or why that is not known.
    pub usages: BTreeMap<VmId, Result<UsageView, String>>,
}

/// What is asked for once for all.
pub(crate) struct Lists {
    /// The host.
    pub host: HostView,
    /// Its VMs.
    pub vms: Vec<VmView>,
    /// Morphs that are under way, some of them.
    pub morphs: Vec<Morph>,
}

/// What the rows are in the order of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// By name.
    Name,
    /// Most CPU time first.
    Cpu,
    /// Most memory first.
    Memory,
    /// Highest pressure first.
    Pressure,
    /// Most disk throughput first.
    Disk,
    /// Most network throughput first.
    Traffic,
}

impl Sort {
    const ALL: [Self; 6] = [Self::Name, Self::Cpu, Self::Memory, Self::Pressure, Self::Disk, Self::Traffic];

    fn key(self) -> char {
        match self {
            Self::Name => 'n',
            Self::Cpu => 'c',
            Self::Memory => 'm',
            Self::Pressure => 'p',
            Self::Disk => 'd',
            Self::Traffic => 't',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pressure => "pressure",
            Self::Disk => "disk",
            Self::Traffic => "traffic",
        }
    }
}

/// How far a measurement may be behind the newest of all to be one of now: a look every two seconds, 16 VMs each, comes
/// round to 2400 VMs that are not on the screen.
const FRESH_MS: u64 = 300_000;

/// What becomes of it after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on.
    Stay,
    /// It ends.
    Quit,
}

/// A VM as it is shown.
struct Entry {
    vm: VmView,
    /// What it uses; `None`: it was not asked for yet, or does not run.
    usage: Option<Result<UsageView, String>>,
    figures: Figures,
}

/// What is shown.
pub(crate) struct Top {
    host: Option<HostView>,
    entries: Vec<Entry>,
    morphs: Vec<Morph>,
    /// Why the last look brought no lists.
    lost: Option<String>,
    sort: Sort,
    reversed: bool,
    /// Which VM is marked; it stays so where the order changes.
    marked: Option<VmId>,
    /// The first row that is seen, and how many are.
    first: usize,
    seen: usize,
}

impl Top {
    /// Nothing is known yet.
    pub fn new(sort: Sort) -> Self {
        Self {
            host: None,
            entries: Vec::new(),
            morphs: Vec::new(),
            lost: None,
            sort,
            reversed: false,
            marked: None,
            first: 0,
            seen: 0,
        }
    }

    /// Takes in what a look brought. What it did not ask for stays as it was known.
    pub fn take(&mut self, mut look: Look) {
        match look.lists {
            Err(why) => self.lost = Some(why),
            Ok(Lists { host, vms, morphs }) => {
                let mut before: BTreeMap<VmId, _> =
                    self.entries.drain(..).map(|entry| (entry.vm.id, entry.usage)).collect();
                self.entries = vms
                    .into_iter()
                    .map(|vm| {
                        let known = look.usages.remove(&vm.id).or_else(|| before.remove(&vm.id).flatten());
                        let usage = known.filter(|_| vm.power == PowerState::Running);
                        Entry { vm, usage, figures: Figures::default() }
                    })
                    .collect();
                self.measure();
                (self.host, self.morphs, self.lost) = (Some(host), morphs, None);
            }
        }
        self.order();
    }

    /// What each uses, as far as that is of now: no clock but the host's own is asked.
    fn measure(&mut self) {
        let measured = |entry: &Entry| entry.usage.as_ref()?.as_ref().ok()?.at;
        let newest = self.entries.iter().filter_map(measured).max().unwrap_or_default();
        for entry in &mut self.entries {
            let fresh = measured(entry).is_some_and(|at| at.0.saturating_add(FRESH_MS) >= newest.0);
            let usage = entry.usage.as_ref().and_then(|usage| usage.as_ref().ok()).filter(|_| fresh);
            entry.figures = Figures::of(&entry.vm, usage);
        }
    }

    /// A key was pressed.
    pub fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Turn {
        let page = self.seen.max(1) as isize;
        match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Turn::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Turn::Quit,
            KeyCode::Char('j') | KeyCode::Down => self.go(1),
            KeyCode::Char('k') | KeyCode::Up => self.go(-1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(page),
            KeyCode::PageUp => self.go(-page),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX),
            KeyCode::Char('r') => {
                self.reversed = !self.reversed;
                self.order();
            }
            KeyCode::Char(c) => {
                if let Some(sort) = Sort::ALL.into_iter().find(|sort| sort.key() == c) {
                    (self.sort, self.reversed) = (sort, false);
                    self.order();
                }
            }
            _ => {}
        }
        Turn::Stay
    }

    /// How many rows there is room for; brings the marked one into sight.
    pub fn fit(&mut self, rows: usize) {
        self.seen = rows;
        let (at, rows) = (self.place(), rows.max(1));
        if at < self.first {
            self.first = at;
        }
        if at >= self.first + rows {
            self.first = at + 1 - rows;
        }
        self.first = self.first.min(self.entries.len().saturating_sub(rows));
    }

    /// VMs that are on the screen, in its order.
    pub fn wanted(&self) -> Vec<VmId> {
        self.visible().iter().map(|entry| entry.vm.id).collect()
    }

    fn visible(&self) -> &[Entry] {
        let end = (self.first + self.seen).min(self.entries.len());
        self.entries.get(self.first..end).unwrap_or_default()
    }

    /// Where the marked VM is; where it is gone, the row that has its place.
    fn place(&self) -> usize {
        let at = self.marked.and_then(|id| self.entries.iter().position(|entry| entry.vm.id == id));
        at.unwrap_or(self.first).min(self.entries.len().saturating_sub(1))
    }

    fn go(&mut self, rows: isize) {
        let at = self.place().saturating_add_signed(rows).min(self.entries.len().saturating_sub(1));
        self.marked = self.entries.get(at).map(|entry| entry.vm.id);
        self.fit(self.seen);
    }

    fn order(&mut self) {
        // Nothing is marked until somebody moves: then what is first stays in sight.
        let (sort, reversed) = (self.sort, self.reversed);
        self.entries.sort_by(|a, b| {
            let names = (a.vm.name.as_str(), a.vm.id).cmp(&(b.vm.name.as_str(), b.vm.id));
            let figure = |entry: &Entry| entry.figures.by(sort);
            let order = match (figure(a), figure(b)) {
                _ if sort == Sort::Name => names,
                // What is not known is last, whichever way.
                (None, None) => return names,
                (None, Some(_)) => return Ordering::Greater,
                (Some(_), None) => return Ordering::Less,
                (Some(a), Some(b)) => b.total_cmp(&a),
            };
            let order = if reversed { order.reverse() } else { order };
            order.then(names)
        });
        self.fit(self.seen);
    }
}

/// Most VMs on the screen that are asked for in one look.
const SEEN_MAX: usize = 64;
/// Others that are asked for beside them: 200 VMs are known after some look more than ten.
const OTHERS_MAX: usize = 16;

/// Which VMs are asked for next: those that are seen, and of the others some in turn, after `last`; and which of those was
/// the last. Only what runs has a use to ask for.
pub(crate) fn choose(vms: &[VmView], seen: &[VmId], last: Option<VmId>) -> (Vec<VmId>, Option<VmId>) {
    let mut running: Vec<VmId> =
        vms.iter().filter(|vm| vm.power == PowerState::Running).map(|vm| vm.id).collect();
    running.sort();
    let runs = |id: &&VmId| running.binary_search(id).is_ok();
    let mut chosen: Vec<VmId> = seen.iter().filter(runs).copied().take(SEEN_MAX).collect();
    let after = running.partition_point(|id| Some(*id) <= last);
    let turn = running[after..].iter().chain(&running[..after]).filter(|id| !chosen.contains(id));
    let others: Vec<VmId> = turn.copied().take(OTHERS_MAX).collect();
    let last = others.last().copied().or(last);
    chosen.extend(others);
    (chosen, last)
}

#[cfg(test)]
mod tests;
