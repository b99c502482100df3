//! Snapshots of disks and RAM together, inside the VM's own qcow2 disks. Must never leave a writable disk out, and
//! never count as taken what QEMU did not finish.
//!
//! ```text
//! save:    guest stands still ─ QEMU writes RAM and disks ─ memory given back as it was ─ guest goes on
//! restore: all is checked ─ old VMM ends ─ new one, built as then, loads disks and RAM ─ guest goes on
//! ```
//!
//! A restore takes a new VMM because the old one may hold images and vCPUs that the snapshot does not know: QEMU
//! would find that out half-way, with the disks already back.
//!
//! That it is under way is written down before the old VMM ends: from then on a crash of Proteus only delays it.

mod book;

mod job;

#[cfg(test)]
mod tests;

use super::command_line::{Sockets, ram_path};
use super::process::{self, Launch, RunState, UnderWay};
use super::qmp::Qmp;
use super::{Live, QemuDriver, QemuVm, since, vm_call};
use crate::driver::{Applied, DriverError, Seat};
use crate::sparse;
use book::{Book, Kept};
use proteus_model::id::{DiskName, SnapshotName};
use proteus_model::setting::{Knob, Setting};
use proteus_model::snapshot::Snapshot;
use proteus_model::unit::{Bytes, Millis, UnixMillis};
use proteus_model::vm::{DiskFormat, DiskIntent, PowerState};
use serde_json::{Value, json};
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DOING: &str = "save a snapshot";
const RESTORING: &str = "restore a snapshot";
/// Longest time for an old VMM to end by itself: it writes its disks' tables.
pub(super) const QUIT_LIMIT: Duration = Duration::from_secs(10);
/// What a snapshot takes beside the RAM: state of the devices (under 1 MiB) and tables of the disks.
const BESIDE: Bytes = Bytes::mib(16);
/// Pause to be told beforehand: this much, and the time in which a slow, busy disk takes the RAM in use, 10 MiB a
/// second. Measured on one machine: 0.3 to 1.3 s for 93 MiB, and 9.2 s for 99 MiB beside a compiler on that disk.
const PAUSE_BASE: Millis = Millis(500);
/// See [`PAUSE_BASE`].
const PAUSE_PER_MIB: u64 = 100;

/// The disks that the VM writes to, as its VMM opens them: of an overlay the VM's own file, never its owner's.
fn writable(seat: &Seat) -> impl Iterator<Item = DiskIntent> {
    seat.disks().into_iter().filter(|disk| !disk.read_only)
}

/// Why this VM keeps no snapshots, if so.
pub(super) fn why_not(seat: &Seat) -> Option<String> {
    if let Some(raw) = writable(seat).find(|disk| disk.format == DiskFormat::Raw) {
        return Some(format!(
            "the disk {} is raw, which keeps none, and would be left out; with the VM stopped, `qemu-img convert -O \
             qcow2` makes it a qcow2",
            raw.name
        ));
    }
    writable(seat).next().is_none().then(|| {
        "the VM has no writable disk, and its RAM is kept in one; create it with `--disk data=FILE.qcow2` \
         (`qemu-img create -f qcow2 FILE.qcow2 1G` makes an empty one)"
            .to_owned()
    })
}

/// Longest pause to be expected now.
pub(super) fn pause_max(driver: &QemuDriver, vm: &QemuVm) -> Millis {
    let resident = process::resident(&driver.ram_dir, &vm.seat).unwrap_or(vm.seat.intent.memory_max.0);
    Millis(PAUSE_BASE.0 + (resident >> 20) * PAUSE_PER_MIB)
}

fn node(disk: &DiskIntent) -> String {
    format!("d-{}", disk.name)
}

fn nodes(seat: &Seat) -> Vec<String> {
    writable(seat).map(|disk| node(&disk)).collect()
}

/// The VM's snapshots, oldest first.
pub(super) fn list(seat: &Seat) -> Result<Vec<Snapshot>, DriverError> {
    Ok(Book::load(seat)?.kept.into_iter().map(|kept| kept.snapshot).collect())
}

fn refuse<T>(why: String) -> Result<T, DriverError> {
    Err(DriverError::NoAbility { what: "snapshot is not supported here", why })
}

/// The RAM must fit beside the disk that keeps it: a full disk would stop the guest.
fn check_space(driver: &QemuDriver, seat: &Seat) -> Result<(), DriverError> {
    let Some(disk) = writable(seat).next() else { return Ok(()) };
    let needed = Bytes(process::resident(&driver.ram_dir, seat).unwrap_or(seat.intent.memory_max.0))
        .saturating_add(BESIDE);
    let space = rustix::fs::statvfs(&disk.path)
        .map_err(|e| DriverError::host(format!("look at {}", disk.path.display()))(e.into()))?;
    let free = Bytes(space.f_bavail.saturating_mul(space.f_frsize));
    if free >= needed {
        return Ok(());
    }
    refuse(format!("it takes up to {needed} beside {}, where {free} are free", disk.path.display()))
}

/// Marks what is under way, durably.
pub(super) fn mark(seat: &Seat, run: &mut RunState, under_way: Option<UnderWay>) -> Result<(), DriverError> {
    run.under_way = under_way;
    process::save_run_state(seat, run)
}

fn memory_files(ram_dir: &Path, seat: &Seat) -> Result<Vec<File>, DriverError> {
    let open = |part| {
        let path = ram_path(ram_dir, seat, part);
        let opened = File::options().read(true).write(true).open(&path);
        opened.map_err(DriverError::host(format!("open {}", path.display())))
    };
    ["ram", "hot"].into_iter().map(open).collect()
}

/// Saves a snapshot. What fails leaves nothing of it, and the guest as it was.
pub(super) async fn save(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    name: &SnapshotName,
) -> Result<Applied, DriverError> {
    let (start, seat) = (Instant::now(), &vm.seat);
    if let Some(why) = why_not(seat) {
        return refuse(why);
    }
    let mut book = Book::load(seat)?;
    if book.find(name).is_some() {
        return Err(DriverError::SnapshotExists { name: name.clone() });
    }
    check_space(driver, seat)?;
    let files = memory_files(&driver.ram_dir, seat)?;
    let ran =
        vm_call(seat.id, &live.qmp, DOING, "query-status", Value::Null).await?["running"] == json!(true);
    mark(seat, &mut live.run, Some(UnderWay::Saving(name.clone())))?;
    let paused_at = Instant::now();
    let saved = save_paused(vm, live, name, &files).await;
    let resumed = match ran {
        true => {
            let cont = vm_call(seat.id, &live.qmp, DOING, "cont", Value::Null).await;
            vm.keep_seen(PowerState::Running, &live.run);
            cont.map(|_| ())
        }
        false => Ok(()),
    };
    let blackout_ms = if ran { since(paused_at) } else { Millis(0) };
    if saved.is_err() {
        // What is there of it is no snapshot. Refused where nothing is.
        let _ = job::delete(vm, live, name, nodes(seat)).await;
    }
    let ram = match saved {
        Ok(()) => kept_size(vm, live, name).await?,
        Err(error) => {
            mark(seat, &mut live.run, None)?;
            return Err(error);
        }
    };
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = UnixMillis(u64::try_from(at.as_millis()).unwrap_or(0));
    let snapshot = Snapshot { name: name.clone(), at, ram };
    let (machine, plugged) = (live.run.machine.clone(), live.run.plugged.clone());
    book.kept.push(Kept { snapshot, machine, plugged });
    book.save(seat)?;
    mark(seat, &mut live.run, None)?;
    resumed?;
    Ok(Applied { took_ms: since(start), blackout_ms })
}

/// The part of saving during which the guest stands still.
async fn save_paused(
    vm: &QemuVm,
    live: &Live,
    name: &SnapshotName,
    files: &[File],
) -> Result<(), DriverError> {
    let id = vm.seat.id;
    vm_call(id, &live.qmp, DOING, "stop", Value::Null).await?;
    vm.keep_seen(PowerState::Paused, &live.run);
    // A VMM that came by a replacement leaves shared memory out of what it writes, and all of it is shared.
    let whole = json!({"capabilities": [{"capability": "x-ignore-shared", "state": false}]});
    vm_call(id, &live.qmp, DOING, "migrate-set-capabilities", whole).await?;
    let looked: std::io::Result<Vec<Vec<Range<u64>>>> = files.iter().map(sparse::holes).collect();
    let holes = looked.map_err(DriverError::host(format!("look at the memory of {id}")))?;
    job::save(vm, live, name, nodes(&vm.seat)).await?;
    // QEMU read all of it, and so filled what the guest had given back.
    for (file, holes) in files.iter().zip(&holes) {
        let given = holes.iter().try_for_each(|hole| sparse::punch(file, hole));
        given.map_err(DriverError::host(format!("give memory of {id} back")))?;
    }
    Ok(())
}

/// What the block layer says of each of the VM's writable disks: its snapshots.
async fn in_disks(
    vm: &QemuVm,
    live: &Live,
    doing: &'static str,
) -> Result<Vec<(DiskName, Vec<Value>)>, DriverError> {
    let flat = json!({"flat": true});
    let all = vm_call(vm.seat.id, &live.qmp, doing, "query-named-block-nodes", flat).await?;
    let all = all.as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |disk: DiskIntent| {
        let found = all.iter().find(|n| n["node-name"] == node(&disk).as_str());
        let list = found.and_then(|n| n["image"]["snapshots"].as_array()).cloned().unwrap_or_default();
        (disk.name, list)
    };
    Ok(writable(&vm.seat).map(of).collect())
}

async fn kept_size(vm: &QemuVm, live: &Live, name: &SnapshotName) -> Result<Bytes, DriverError> {
    let disks = in_disks(vm, live, DOING).await?;
    let all = disks.iter().flat_map(|(_, list)| list).filter(|s| s["name"] == name.as_str());
    Ok(Bytes(all.filter_map(|s| s["vm-state-size"].as_u64()).sum()))
}

/// Everything that can be known to stand in the way, before anything is lost.
async fn check_restorable(
    vm: &QemuVm,
    live: &Live,
    name: &SnapshotName,
    kept: &Kept,
) -> Result<(), DriverError> {
    for (disk, list) in in_disks(vm, live, RESTORING).await? {
        if list.iter().all(|snapshot| snapshot["name"] != name.as_str()) {
            return refuse(format!("the disk {disk} does not hold {name} any more"));
        }
    }
    let gone = kept.plugged.images.iter().find(|plugged| !plugged.image.path.is_file());
    if let Some(gone) = gone {
        let (image, path) = (&gone.image.name, gone.image.path.display());
        return refuse(format!("the image {image} that the VM had then is not at {path} any more"));
    }
    Ok(())
}

/// Puts the VM back. An error that comes once the old VMM has ended leaves the VM to be swept by the caller.
pub(super) async fn restore(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    name: &SnapshotName,
) -> Result<Applied, DriverError> {
    let (start, seat) = (Instant::now(), &vm.seat);
    let kept = Book::load(seat)?.find(name).cloned();
    let kept = kept.ok_or_else(|| DriverError::UnknownSnapshot { name: name.clone() })?;
    check_restorable(vm, live, name, &kept).await?;
    let tap =
        process::borrow_tap(&live.run).map_err(DriverError::host("take over the tap of the old VMM"))?;
    let mut limits = Vec::new();
    for disk in &seat.intent.disks {
        limits.push(super::knob::read(driver, vm, live, &Knob::DiskLimit(disk.name.clone())).await?);
    }
    mark(seat, &mut live.run, Some(UnderWay::Restoring(name.clone())))?;
    let old = live.run.clone();
    end(live).await;
    let (run, qmp) = launch(driver, seat, &old, kept, tap).await?;
    super::reboot::count(&qmp, &vm.reboots);
    (live.qmp, live.run) = (Arc::new(qmp), run);
    load(driver, vm, live, name, &limits).await?;
    Ok(Applied { took_ms: since(start), blackout_ms: since(start) })
}

/// Starts the VMM that is to be filled: built as the VM was then.
async fn launch(
    driver: &QemuDriver,
    seat: &Seat,
    old: &RunState,
    kept: Kept,
    tap: OwnedFd,
) -> Result<(RunState, Qmp), DriverError> {
    let around = Launch {
        accelerator: old.accelerator,
        machine: kept.machine,
        ram_dir: driver.ram_dir.clone(),
        incoming: false,
        paused: true,
        incarnation: old.incarnation + 1,
        plugged: kept.plugged,
        filter: old.filter.clone(),
        under_way: Some(UnderWay::Restoring(kept.snapshot.name)),
    };
    let launched = process::launch(seat, &around, tap).await?;
    let sockets = Sockets::of(seat, old.incarnation);
    for socket in [sockets.qmp, sockets.agent, sockets.console] {
        // The next incarnation's sockets have other names: one left behind is only untidy.
        let _ = std::fs::remove_file(socket);
    }
    Ok(launched)
}

/// The snapshot that is being restored, if so.
pub(super) fn restoring(run: &RunState) -> Option<SnapshotName> {
    match &run.under_way {
        Some(UnderWay::Restoring(name)) => Some(name.clone()),
        None | Some(UnderWay::Saving(_) | UnderWay::Template(_)) => None,
    }
}

/// Carries through a restore whose `old` VMM has ended, and that a crash of Proteus cut short before there was another.
/// The disks' limits went with the old one: whoever set them sets them again, as after a start. An error leaves the
/// VM to be swept by the caller.
pub(super) async fn carry_through(
    driver: &QemuDriver,
    seat: &Seat,
    old: &RunState,
    name: &SnapshotName,
) -> Result<(), DriverError> {
    tracing::warn!(vm = %seat.intent.name, snapshot = %name, "a restore was cut short; it is carried through");
    let kept = Book::load(seat)?.find(name).cloned();
    let kept = kept.ok_or_else(|| DriverError::UnknownSnapshot { name: name.clone() })?;
    let tap = driver.network.open_tap(seat.slot).await?;
    driver.network.offer_address(seat)?;
    let (run, qmp) = launch(driver, seat, old, kept, tap).await?;
    driver.take_up(seat, run, qmp).await?;
    let vm = driver.vm(seat.id)?;
    load(driver, &vm, &mut *vm.live.lock().await, name, &[]).await
}

/// Ends the old VMM: asked first, so that it writes the tables of its disks.
async fn end(live: &Live) {
    // It closes its socket instead of answering.
    let _ = live.qmp.call("quit", Value::Null).await;
    if !process::wait_end(&live.run, QUIT_LIMIT).await {
        process::kill(&live.run).await;
    }
}

/// Fills the new VMM and lets its guest go on.
async fn load(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    name: &SnapshotName,
    limits: &[Setting],
) -> Result<(), DriverError> {
    for limit in limits {
        super::knob::apply(driver, vm, live, limit).await?;
    }
    job::load(vm, live, name, nodes(&vm.seat)).await?;
    for file in memory_files(&driver.ram_dir, &vm.seat)? {
        sparse::punch_zeros(&file)
            .map_err(DriverError::host(format!("give memory of {} back", vm.seat.id)))?;
    }
    QemuDriver::gather_threads(vm, live).await?;
    vm_call(vm.seat.id, &live.qmp, RESTORING, "cont", Value::Null).await?;
    mark(&vm.seat, &mut live.run, None)
}

/// Forgets a snapshot of a VM; `live`: where it runs.
pub(super) async fn delete(
    seat: &Seat,
    running: Option<(&QemuVm, &Live)>,
    name: &SnapshotName,
) -> Result<(), DriverError> {
    let mut book = Book::load(seat)?;
    if book.find(name).is_none() {
        return Err(DriverError::UnknownSnapshot { name: name.clone() });
    }
    match running {
        Some((vm, live)) => job::delete(vm, live, name, nodes(seat)).await?,
        None => {
            for disk in writable(seat).filter(|disk| disk.path.is_file()) {
                let path = disk.path.display().to_string();
                match crate::tool::run("qemu-img", &["snapshot", "-d", name.as_str(), &path], None).await {
                    // A disk that was put back by other means knows nothing of it.
                    Err(crate::tool::ToolError::Failed { said, .. }) if said.contains("not found") => {}
                    other => drop(other?),
                }
            }
        }
    }
    book.kept.retain(|kept| kept.snapshot.name != *name);
    book.save(seat)
}

/// Ends what a crash of Proteus cut short, on a VMM that was found again.
pub(super) async fn end_cut_short(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
) -> Result<(), DriverError> {
    match live.run.under_way.clone() {
        // A template's end is its own.
        None | Some(UnderWay::Template(_)) => Ok(()),
        Some(UnderWay::Saving(name)) => {
            job::wait_quiet(vm, live).await?;
            tracing::warn!(vm = %vm.seat.intent.name, snapshot = %name, "a snapshot was cut short; it is forgotten");
            if Book::load(&vm.seat)?.find(&name).is_none() {
                job::delete(vm, live, &name, nodes(&vm.seat)).await?;
            }
            vm_call(vm.seat.id, &live.qmp, DOING, "cont", Value::Null).await?;
            mark(&vm.seat, &mut live.run, None)
        }
        Some(UnderWay::Restoring(name)) => {
            tracing::warn!(vm = %vm.seat.intent.name, snapshot = %name, "a restore was cut short; it is done again");
            restore(driver, vm, live, &name).await.map(|_| ())
        }
    }
}
