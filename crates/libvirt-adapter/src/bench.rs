//! `proteus-libvirt bench`: what a round costs, beside the plain bulk question. Must never leave anything of it.

use crate::argument::{Bench, Target};
use crate::command::unreachable;
use crate::watch::Watcher;
use proteus_cli::argument::OutputForm;
use proteus_cli::error::CommandError;
use proteus_cli::output::table;
use proteus_cli::terminal;
use serde::Serialize;
use std::time::Instant;

/// Hundredths of a second that `/proc` counts in.
const TICK_MS: f64 = 10.0;

/// What one kind of round took, the mean of all.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Which.
    pub what: &'static str,
    /// Rounds.
    pub rounds: u32,
    /// VMs that libvirt lists, and that run.
    pub vms: [usize; 2],
    /// Time that went by, ms.
    pub wall_ms: f64,
    /// CPU of this process, ms.
    pub own_cpu_ms: f64,
    /// CPU of virsh, ms; libvirt's own is not in it.
    pub virsh_cpu_ms: f64,
}

/// CPU time of this process, and of its children that ended, ms. (`/proc/self/stat`, fields 14 to 17.)
fn cpu_ms() -> Option<[f64; 2]> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in brackets, which may hold blanks.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |at: usize| Some(fields.get(at)?.parse::<f64>().ok()? * TICK_MS);
    Some([ticks(11)? + ticks(12)?, ticks(13)? + ticks(14)?])
}

struct Meter {
    began: Instant,
    cpu: Option<[f64; 2]>,
}

impl Meter {
    fn begin() -> Self {
        Self { began: Instant::now(), cpu: cpu_ms() }
    }

    fn cost(&self, what: &'static str, rounds: u32, vms: [usize; 2]) -> Cost {
        let each = |ms: f64| ms / f64::from(rounds);
        let used =
            self.cpu.zip(cpu_ms()).map_or([f64::NAN; 2], |(then, now)| [now[0] - then[0], now[1] - then[1]]);
        Cost {
            what,
            rounds,
            vms,
            wall_ms: each(self.began.elapsed().as_secs_f64() * 1000.0),
            own_cpu_ms: each(used[0]),
            virsh_cpu_ms: each(used[1]),
        }
    }
}

/// Measures both kinds of rounds, one after the other, without a pause.
pub async fn measure(target: &Target, args: &Bench) -> Result<Vec<Cost>, CommandError> {
    let virsh = target.virsh();
    let mut watcher = Watcher::new(virsh.clone(), None);
    // The first one opens what there is.
    watcher.round().await.map_err(|error| unreachable(&error))?;
    let vms = {
        let fleet = crate::api::locked(&watcher.fleet);
        [fleet.vms().count(), fleet.vms().filter(|vm| vm.domain.state.runs()).count()]
    };
    let meter = Meter::begin();
    for _ in 0..args.rounds {
        virsh.plain().await.map_err(|error| unreachable(&error))?;
    }
    let plain = meter.cost("virsh -r domstats --raw", args.rounds, vms);
    let meter = Meter::begin();
    for _ in 0..args.rounds {
        watcher.round().await.map_err(|error| unreachable(&error))?;
    }
    Ok(vec![plain, meter.cost("a round of the adapter", args.rounds, vms)])
}

/// Costs for people.
pub fn text(costs: &[Cost]) -> String {
    let row = |cost: &Cost| {
        let running = cost.vms[1].max(1) as f64;
        let each = |ms: f64| format!("{ms:.2}");
        vec![
            cost.what.to_owned(),
            cost.rounds.to_string(),
            format!("{} of {}", cost.vms[1], cost.vms[0]),
            each(cost.wall_ms),
            each(cost.wall_ms / running),
            each(cost.own_cpu_ms),
            each(cost.virsh_cpu_ms),
        ]
    };
    let heading = ["WHAT", "ROUNDS", "VMS RUN", "WALL MS", "A VM MS", "OWN CPU MS", "VIRSH CPU MS"];
    table(&heading, &costs.iter().map(row).collect::<Vec<_>>())
}

/// Measures and prints.
pub async fn run(target: &Target, args: &Bench) -> Result<(), CommandError> {
    let costs = measure(target, args).await?;
    match target.output {
        OutputForm::Json => {
            terminal::say(format_args!("{}", serde_json::to_string_pretty(&costs).unwrap_or_default()))
        }
        OutputForm::Text => terminal::write(&text(&costs)),
    }
    Ok(())
}
