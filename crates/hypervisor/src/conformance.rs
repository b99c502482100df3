//! What every driver must do alike, as one function to run against a running VM of it: every reported knob is
//! read, turned, read back, turned again, turned back, and reads as before. Must never be weakened for a driver.

use crate::driver::{Driver, DriverError, Seat};
use proteus_model::capability::Ability;
use proteus_model::id::{SnapshotName, VmId};
use proteus_model::policy::{Direction, PacketPolicy, PacketRule, Protocol, Verdict};
use proteus_model::setting::{DiskLimit, Knob, KnobKind, NicRate, Setting, Weight};
use proteus_model::unit::{Bytes, BytesPerSec, MilliCpu};
use proteus_model::vm::{PowerState, VmIntent};

/// What the suite found wrong.
#[derive(Debug, thiserror::Error)]
pub enum Nonconformance {
    /// The driver reports a knob and then does not turn it.
    #[error("{knob}: {doing}")]
    Refused {
        /// The knob.
        knob: Knob,
        /// What was tried.
        doing: &'static str,
        /// What the driver said.
        #[source]
        source: DriverError,
    },
    /// A value that was set does not read back.
    #[error("{knob}: set to {set}, read back as {read} ({doing})")]
    ReadsOtherwise {
        /// The knob.
        knob: Knob,
        /// What was set.
        set: String,
        /// What came back.
        read: String,
        /// When.
        doing: &'static str,
    },
    /// A contract of the driver as a whole is broken.
    #[error("{0}")]
    Broken(String),
}

fn a_policy() -> PacketPolicy {
    let rule = |direction, protocol, port: u16| PacketRule {
        direction,
        protocol: Some(protocol),
        ports: Some((port, port)),
        peer: None,
        verdict: Verdict::Accept,
    };
    PacketPolicy {
        rules: vec![rule(Direction::Ingress, Protocol::Tcp, 80), rule(Direction::Egress, Protocol::Udp, 53)],
        ingress_default: Verdict::Drop,
        egress_default: Verdict::Accept,
    }
}

/// A value to try, other than the one at the start.
fn try_value(kind: KnobKind, intent: &VmIntent) -> Option<Setting> {
    let hot = intent.memory_max.saturating_sub(intent.memory);
    match kind {
        KnobKind::CpuCap => Some(Setting::CpuCap { limit: Some(MilliCpu(500)) }),
        KnobKind::CpuWeight => Some(Setting::CpuWeight { weight: Weight(300) }),
        KnobKind::Memory => {
            let target = Bytes(intent.memory.0 / 4 * 3).round_down(Bytes::mib(2));
            Some(Setting::Memory { target })
        }
        KnobKind::HotMemory => {
            (hot >= Bytes::mib(64)).then_some(Setting::HotMemory { plugged: Bytes::mib(64) })
        }
        KnobKind::DiskLimit => intent.disks.first().map(|disk| Setting::DiskLimit {
            disk: disk.name.clone(),
            limit: DiskLimit { iops: Some(200), bandwidth: Some(BytesPerSec(2 << 20)) },
        }),
        KnobKind::NicRate => {
            let rate =
                NicRate { to_guest: Some(BytesPerSec(1_000_000)), from_guest: Some(BytesPerSec(2 << 20)) };
            Some(Setting::NicRate { rate })
        }
        KnobKind::NetworkPolicy => Some(Setting::NetworkPolicy { policy: Some(a_policy()) }),
        KnobKind::Image => {
            intent.images.first().map(|image| Setting::Image { image: image.name.clone(), digest: None })
        }
        // Turned by the guest's agent; its own suite covers them.
        KnobKind::Vcpus
        | KnobKind::Sysctl
        | KnobKind::Thp
        | KnobKind::IoScheduler
        | KnobKind::Priority
        | KnobKind::AppPolicy => None,
    }
}

async fn expect(
    driver: &dyn Driver,
    vm: VmId,
    want: &Setting,
    doing: &'static str,
) -> Result<(), Nonconformance> {
    let knob = want.knob();
    let refused = |source| Nonconformance::Refused { knob: knob.clone(), doing, source };
    let read = driver.read(vm, &knob).await.map_err(refused)?;
    if want.holds_in(&read) {
        return Ok(());
    }
    Err(Nonconformance::ReadsOtherwise { set: want.to_string(), read: read.to_string(), doing, knob })
}

async fn turn(
    driver: &dyn Driver,
    vm: VmId,
    setting: &Setting,
    doing: &'static str,
) -> Result<(), Nonconformance> {
    let refused = |source| Nonconformance::Refused { knob: setting.knob(), doing, source };
    driver.apply(vm, setting).await.map_err(refused)?;
    expect(driver, vm, setting, doing).await
}

/// Runs the suite on a VM that runs. The knobs that were turned, on success.
pub async fn check(driver: &dyn Driver, seat: &Seat) -> Result<Vec<KnobKind>, Nonconformance> {
    let (vm, intent) = (seat.id, &seat.intent);
    let broken = |what: &str| Nonconformance::Broken(what.to_owned());
    if driver.power(vm).await != PowerState::Running {
        return Err(broken("the VM under test does not run"));
    }
    let report = driver.capabilities(vm).await.map_err(|e| broken(&e.to_string()))?;
    let mut turned = Vec::new();
    for kind in KnobKind::ALL {
        let Some(value) = try_value(kind, intent) else { continue };
        if !driver.turns(&value.knob()) || report.look_up(Ability::Knob(kind)).is_err() {
            continue;
        }
        let knob = value.knob();
        let refused = |source| Nonconformance::Refused { knob: knob.clone(), doing: "first read", source };
        let before = driver.read(vm, &knob).await.map_err(refused)?;
        turn(driver, vm, &value, "set").await?;
        turn(driver, vm, &value, "set again").await?;
        turn(driver, vm, &before, "set back").await?;
        turn(driver, vm, &before, "set back again").await?;
        turned.push(kind);
    }
    let too_much = Setting::Memory { target: Bytes(intent.memory.0 * 2) };
    if driver.apply(vm, &too_much).await.is_ok() {
        return Err(broken("a balloon above the VM's memory was accepted"));
    }
    let nobody = VmId::from_bits(1);
    if !matches!(driver.read(nobody, &Knob::CpuCap).await, Err(DriverError::NotRunning { .. })) {
        return Err(broken("a VM that does not run was read"));
    }
    if driver.power(nobody).await != PowerState::Stopped {
        return Err(broken("a VM that is not there has power"));
    }
    check_snapshots(driver, seat, report.look_up(Ability::Snapshot).is_ok()).await?;
    Ok(turned)
}

/// A snapshot is there once, brings back what was, survives that, and is forgotten; or it is refused.
async fn check_snapshots(driver: &dyn Driver, seat: &Seat, reported: bool) -> Result<(), Nonconformance> {
    let broken = |what: &str| Nonconformance::Broken(what.to_owned());
    let failed =
        |doing: &'static str| move |e: DriverError| Nonconformance::Broken(format!("{doing}: {e:?}"));
    let name: SnapshotName = "conformance".parse().map_err(|_| broken("a name"))?;
    if !reported {
        return match driver.create_snapshot(seat.id, &name).await {
            Err(DriverError::NoAbility { .. }) => Ok(()),
            other => Err(Nonconformance::Broken(format!("a snapshot that is not supported: {other:?}"))),
        };
    }
    let names = async || -> Result<Vec<SnapshotName>, Nonconformance> {
        let all = driver.snapshots(seat).await.map_err(failed("list snapshots"))?;
        Ok(all.into_iter().map(|snapshot| snapshot.name).collect())
    };
    let before = names().await?;
    driver.create_snapshot(seat.id, &name).await.map_err(failed("create a snapshot"))?;
    if !matches!(driver.create_snapshot(seat.id, &name).await, Err(DriverError::SnapshotExists { .. })) {
        return Err(broken("a snapshot was taken twice under one name"));
    }
    for _ in 0..2 {
        driver.restore_snapshot(seat.id, &name).await.map_err(failed("restore a snapshot"))?;
        if driver.power(seat.id).await != PowerState::Running {
            return Err(broken("a restored VM does not run"));
        }
    }
    if names().await? != [before.as_slice(), std::slice::from_ref(&name)].concat() {
        return Err(broken("a snapshot that was restored is not listed"));
    }
    driver.delete_snapshot(seat, &name).await.map_err(failed("delete a snapshot"))?;
    if names().await? != before {
        return Err(broken("a snapshot that was deleted is listed"));
    }
    let gone = driver.restore_snapshot(seat.id, &name).await;
    if !matches!(gone, Err(DriverError::UnknownSnapshot { .. })) {
        return Err(Nonconformance::Broken(format!("a snapshot that is gone was restored: {gone:?}")));
    }
    match driver.delete_snapshot(seat, &name).await {
        Err(DriverError::UnknownSnapshot { .. }) => Ok(()),
        other => Err(Nonconformance::Broken(format!("a snapshot that is gone was deleted: {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDriver;
    use proteus_model::unit::Millis;
    use proteus_model::vm::{Boot, ImageIntent};

    #[tokio::test]
    async fn the_simulated_driver_conforms() {
        let dir = tempfile::tempdir().unwrap();
        let driver = SimDriver::open(dir.path()).unwrap();
        let image = ImageIntent { name: "nginx".parse().unwrap(), path: "/x".into(), digest: "d".into() };
        let intent = VmIntent {
            vcpus_max: 2,
            memory_max: Bytes::mib(512),
            images: vec![image],
            ..VmIntent::new("a".parse().unwrap(), Boot::Firmware, Bytes::mib(256))
        };
        let seat = Seat {
            id: VmId::from_bits(7),
            slot: 0,
            dir: dir.path().into(),
            intent,
            attached: vec![],
            furnished: true,
            newborn: false,
            user: None,
        };
        driver.start(&seat).await.unwrap();
        let turned = check(&driver, &seat).await.unwrap();
        assert_eq!(turned.len(), 7);
        assert!(driver.stop(seat.id, Millis(0)).await.unwrap().by_itself);
    }
}
