//! Templates: a VM's memory and devices as files, and VMs that begin from them instead of from a boot. Each clone
//! gets a copy of the memory, so that whatever is done to it later (balloon, free pages reported, a new VMM) never
//! reaches the template. Must never let a clone onto the network while it has the template's link address.
//!
//! ```text
//! template: runs ─ pauses ─ devices to a file ─ memory to a file ─┬─ ends
//!                                                                 └─ anything fails ─ runs on
//! clone:    memory copied ─ VMM takes devices in ─ link off ─ runs, dark ─ has its own address ─ link on
//! ```

use super::command_line::{Plugged, ram_path};
use super::probe::Accelerator;
use super::process::{self, Launch, UnderWay};
use super::qmp::Qmp;
use super::replace::wait_moved;
use super::snapshot::mark;
use super::{Live, QemuDriver, QemuVm, since, vm_call};
use crate::driver::{DriverError, Making, Seat};
use crate::whole;
use proteus_model::unit::Bytes;
use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

/// Longest time for the devices' state (about 200 KB) to move. It takes tens of milliseconds.
const MOVE_LIMIT: Duration = Duration::from_secs(30);
const SAVING: &str = "save the template";
const CLONING: &str = "start the clone";
/// Copied at once; a run of data in memory is often this long.
const CHUNK: usize = 1 << 20;
/// Least piece that can be a hole.
const PAGE: usize = 4096;

/// Name of the file that is written last: with it, all of a template is there.
const SAVED: &str = "template.json";

/// What a clone's VMM must be like.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    accelerator: Accelerator,
    machine: String,
    plugged: Plugged,
}

fn host<T>(what: &str, path: &Path, outcome: io::Result<T>) -> Result<T, DriverError> {
    outcome.map_err(DriverError::host(format!("{what} {}", path.display())))
}

/// Copies only what is data: holes stay holes, and pages of zeros become holes, so that a copy takes, and costs, what
/// its guest uses.
fn copy_data(from: &Path, to: &Path) -> io::Result<()> {
    make_hole(from, to)?;
    fill_hole(from, to)
}

/// An empty file of the same length.
fn make_hole(from: &Path, to: &Path) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(to)?.set_len(fs::metadata(from)?.len())
}

fn fill_hole(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::options().write(true).open(to)?);
    let length = source.metadata()?.len();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let begin = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // No data behind this.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(begin))?;
        source.seek(io::SeekFrom::Start(begin))?;
        target.seek(io::SeekFrom::Start(begin))?;
        let mut left = end - begin;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            source.read_exact(&mut buffer[..room])?;
            write_data(&mut target, &buffer[..room])?;
            left -= room as u64;
        }
        at = end;
    }
    Ok(())
}

/// Writes from the file's place on, and leaves out pages that hold only zeros: the target is a hole so far.
fn write_data(target: &mut File, data: &[u8]) -> io::Result<()> {
    let is_zero = |page: &&[u8]| page.iter().all(|byte| *byte == 0);
    let mut rest = data;
    while !rest.is_empty() {
        let zeros: usize = rest.chunks(PAGE).take_while(is_zero).map(<[u8]>::len).sum();
        target.seek_relative(i64::try_from(zeros).map_err(io::Error::other)?)?;
        rest = &rest[zeros..];
        let full: usize = rest.chunks(PAGE).take_while(|page| !is_zero(page)).map(<[u8]>::len).sum();
        target.write_all(&rest[..full])?;
        rest = &rest[full..];
    }
    Ok(())
}

async fn copy_in_background(
    from: &Path,
    to: &Path,
    copy: fn(&Path, &Path) -> io::Result<()>,
) -> Result<(), DriverError> {
    let (source, target) = (from.to_owned(), to.to_owned());
    let copied = tokio::task::spawn_blocking(move || copy(&source, &target)).await;
    host("copy memory to", to, copied.unwrap_or_else(|error| Err(io::Error::other(error))))
}

fn keep_memory_out() -> Value {
    json!({"capabilities": [{"capability": "x-ignore-shared", "state": true}]})
}

/// Refuses what cannot be saved.
pub(super) async fn check(vm: &QemuVm, live: &mut Live) -> Result<(), DriverError> {
    let plugged = super::knob::memory::plugged(vm, live).await?;
    if plugged != Bytes::ZERO {
        let why = format!("{plugged} are plugged in; take them out first (`proteus morph rollback`)");
        return Err(DriverError::NoAbility { what: SAVING, why });
    }
    Ok(())
}

/// Saves the VM, which stands still then; on error it runs again.
pub(super) async fn save(
    driver: &QemuDriver,
    vm: &QemuVm,
    live: &mut Live,
    to: &Path,
) -> Result<(), DriverError> {
    let id = vm.seat.id;
    check(vm, live).await?;
    host("make", to, fs::create_dir_all(to))?;
    host("close", to, fs::set_permissions(to, Permissions::from_mode(0o700)))?;
    mark(&vm.seat, &mut live.run, Some(UnderWay::Template(to.to_owned())))?;
    let outcome = match vm_call(id, &live.qmp, SAVING, "stop", Value::Null).await {
        Ok(_) => write_files(driver, vm, live, to).await,
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        let marked = go_on(vm, live, to).await;
        return outcome.and(marked);
    }
    outcome
}

/// It is no template: lets the guest go on, and leaves nothing of what was written.
async fn go_on(vm: &QemuVm, live: &mut Live, to: &Path) -> Result<(), DriverError> {
    // Refused where the state is out already; then the second goes on from there.
    let _ = live.qmp.call("migrate_cancel", Value::Null).await;
    let _ = live.qmp.call("cont", Value::Null).await;
    let _ = fs::remove_dir_all(to);
    mark(&vm.seat, &mut live.run, None)
}

/// After a crash: a VM that was being saved goes on, unless all of it was saved. `true`: it was, and its VMM ended.
pub(super) async fn end_cut_short(vm: &QemuVm, live: &mut Live) -> Result<bool, DriverError> {
    let Some(UnderWay::Template(to)) = live.run.under_way.clone() else { return Ok(false) };
    if to.join(SAVED).exists() {
        process::kill(&live.run).await;
        return Ok(true);
    }
    tracing::warn!(vm = %vm.seat.intent.name, "saving it as a template was cut short; it goes on");
    go_on(vm, live, &to).await?;
    Ok(false)
}

async fn write_files(driver: &QemuDriver, vm: &QemuVm, live: &Live, to: &Path) -> Result<(), DriverError> {
    let id = vm.seat.id;
    vm_call(id, &live.qmp, SAVING, "migrate-set-capabilities", keep_memory_out()).await?;
    let socket = vm.seat.run_dir().join("save");
    // Left by one that was cut short.
    let _ = fs::remove_file(&socket);
    let listener = host("listen at", &socket, UnixListener::bind(&socket))?;
    host("hand over", &socket, chown(&socket, Some(vm.seat.uid()), Some(vm.seat.uid())))?;
    let uri = json!({"uri": format!("unix:{}", socket.display())});
    let state = to.join("state");
    let receive = async {
        let (mut stream, _) = listener.accept().await?;
        let mut file = tokio::fs::File::create(&state).await?;
        tokio::io::copy(&mut stream, &mut file).await?;
        file.sync_all().await
    };
    let send = async {
        vm_call(id, &live.qmp, SAVING, "migrate", uri).await?;
        wait_moved(id, &live.qmp, SAVING).await
    };
    let both = async { tokio::try_join!(async { host("write", &state, receive.await) }, send) };
    let moved = tokio::time::timeout(MOVE_LIMIT, both).await;
    let _ = fs::remove_file(&socket);
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not come within 30 s");
    host("write", &state, moved.map_err(late))??;
    // Only now: devices write to the guest's memory until their state is out.
    copy_in_background(&ram_path(&driver.ram_dir, &vm.seat, "ram"), &to.join("ram"), copy_data).await?;
    let (accelerator, machine) = (live.run.accelerator, live.run.machine.clone());
    let saved = Saved { accelerator, machine, plugged: live.run.plugged.clone() };
    let path = to.join(SAVED);
    let text = serde_json::to_vec_pretty(&saved).map_err(io::Error::other);
    host("write", &path, text.and_then(|text| whole::write(&path, &text)))
}

/// Starts a clone, dark.
pub(super) async fn start(
    driver: &QemuDriver,
    seat: &Seat,
    from: &Path,
    disks: Making<'_>,
) -> Result<(), DriverError> {
    let begun = Instant::now();
    let path = from.join(SAVED);
    let saved: Saved = host(
        "read",
        &path,
        fs::read(&path).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other)),
    )?;
    if saved.accelerator != driver.probe.accelerator {
        let (was, is) = (saved.accelerator.word(), driver.probe.accelerator.word());
        let why = format!("the template was saved on {was}, and this host runs guests on {is}");
        return Err(DriverError::NoAbility { what: CLONING, why });
    }
    let (kept, ram) = (from.join("ram"), ram_path(&driver.ram_dir, seat, "ram"));
    host("make", &ram, make_hole(&kept, &ram))?;
    let hot = ram_path(&driver.ram_dir, seat, "hot");
    host("make", &hot, File::create(&hot))?;
    let tap = driver.network.open_dark_tap(seat.slot).await?;
    driver.network.offer_address(seat)?;
    let around = Launch {
        accelerator: saved.accelerator,
        machine: saved.machine,
        ram_dir: driver.ram_dir.clone(),
        incoming: true,
        paused: false,
        incarnation: 0,
        plugged: saved.plugged,
        filter: None,
        under_way: None,
    };
    // All at once: a VMM that waits for its devices' state neither reads nor writes the guest's memory.
    let copied = copy_in_background(&kept, &ram, fill_hole);
    let launched = async {
        disks.await?;
        let (run, qmp) = process::launch(seat, &around, tap).await?;
        vm_call(seat.id, &qmp, CLONING, "migrate-set-capabilities", keep_memory_out()).await?;
        Ok::<_, DriverError>((run, qmp))
    };
    let (copied, launched) = tokio::join!(copied, launched);
    let (run, qmp) = launched?;
    copied?;
    tracing::debug!(vm = %seat.intent.name, took_ms = %since(begun), "a clone's VMM waits for its state");
    let qmp = Arc::new(qmp);
    let taken_in = async {
        take_in(seat, &qmp, &from.join("state")).await?;
        // Off before the guest moves: its system then asks for an address anew when it comes on.
        set_link(seat, &qmp, false).await
    };
    // Its threads are there, though they stand still.
    tokio::try_join!(taken_in, driver.take_up(seat, run, qmp.clone()))?;
    let vm = driver.vm(seat.id)?;
    let live = vm.live.lock().await;
    vm_call(seat.id, &live.qmp, CLONING, "cont", Value::Null).await?;
    Ok(())
}

async fn take_in(seat: &Seat, qmp: &Qmp, state: &Path) -> Result<(), DriverError> {
    let id = seat.id;
    let socket = seat.run_dir().join("restore");
    let uri = json!({"uri": format!("unix:{}", socket.display())});
    vm_call(id, qmp, CLONING, "migrate-incoming", uri).await?;
    let send = async {
        let state = tokio::fs::read(state).await?;
        let mut stream = UnixStream::connect(&socket).await?;
        stream.write_all(&state).await
    };
    host("read", state, send.await)?;
    let moved = tokio::time::timeout(MOVE_LIMIT, wait_moved(id, qmp, CLONING)).await;
    let _ = fs::remove_file(&socket);
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the VMM did not take it in within 30 s");
    host("read", state, moved.map_err(late))?
}

async fn set_link(seat: &Seat, qmp: &Qmp, up: bool) -> Result<(), DriverError> {
    vm_call(seat.id, qmp, CLONING, "set_link", json!({"name": "nic0", "up": up})).await.map(|_| ())
}

/// Lets the clone onto the network, once the host sees its own link address on it.
pub(super) async fn light(driver: &QemuDriver, vm: &QemuVm, live: &Live) -> Result<(), DriverError> {
    let ask = json!({"name": "nic0"});
    let filters = vm_call(vm.seat.id, &live.qmp, CLONING, "query-rx-filter", ask).await?;
    let found = filters[0]["main-mac"].as_str().unwrap_or("none");
    if found != vm.seat.mac() {
        let why = format!("its link has the address {found}, not its own, {}", vm.seat.mac());
        return Err(DriverError::NoAbility { what: CLONING, why });
    }
    driver.network.light_tap(vm.seat.slot).await?;
    set_link(&vm.seat, &live.qmp, true).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_has_the_data_and_the_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0u64, 5 << 20, (64 << 20) - 3] {
            file.seek(io::SeekFrom::Start(at)).unwrap();
            file.write_all(b"abc").unwrap();
        }
        // Zeros that were written, and data between them.
        file.seek(io::SeekFrom::Start(8 << 20)).unwrap();
        file.write_all(&[0; 4 << 20]).unwrap();
        for at in [(9 << 20) + 4095, (10 << 20) + 4095, (10 << 20) + 8192] {
            file.seek(io::SeekFrom::Start(at)).unwrap();
            file.write_all(b"data over two pages").unwrap();
        }
        copy_data(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20, "holes were filled");
        // What has no data at all.
        file.set_len(0).unwrap();
        file.set_len(1 << 20).unwrap();
        copy_data(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().blocks(), 0);
    }
}
