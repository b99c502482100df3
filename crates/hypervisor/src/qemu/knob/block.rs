//! What the VMM counts of a VM's disks: operations, bytes, the time that they took, and how many took how long. QEMU counts
//! the last only where it was told by which bounds, which is forgotten with a device or its process; so each answer tells
//! which devices do not count it yet, and they are told. Must never tell of some disks as if it were all.

use super::super::{Live, QemuVm, vm_call};
use crate::driver::DriverError;
use proteus_model::telemetry::{DiskLatencies, LATENCY_BOUNDS_US, Latencies};
use proteus_model::vm::VmCounters;
use serde_json::{Value, json};

/// The bounds as QEMU has them, ns.
fn bounds_ns() -> Vec<u64> {
    LATENCY_BOUNDS_US.iter().map(|us| us * 1000).collect()
}

/// What one disk counts of one kind of operation; `None`: it does not, or by other bounds.
fn latencies(block: &Value, histogram: &str) -> Option<Latencies> {
    let histogram = &block["stats"][histogram];
    let numbers = |field: &str| -> Option<Vec<u64>> {
        histogram[field].as_array()?.iter().map(Value::as_u64).collect()
    };
    let bins = (numbers("boundaries")? == bounds_ns()).then(|| numbers("bins"))??;
    bins.try_into().ok().map(Latencies)
}

fn latencies_of(block: &Value) -> Option<DiskLatencies> {
    Some(DiskLatencies {
        reads: latencies(block, "rd_latency_histogram")?,
        writes: latencies(block, "wr_latency_histogram")?,
        flushes: latencies(block, "flush_latency_histogram")?,
    })
}

/// The disks of an answer, in all of which a device is plugged: a medium without one does nothing.
fn plugged(answer: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let blocks = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.iter().filter_map(|block| Some((block["qdev"].as_str().filter(|id| !id.is_empty())?, block)))
}

/// Those of all disks together; `None`: one of them does not count it yet, or there are none.
fn sum(answer: &Value) -> Option<DiskLatencies> {
    let mut all: Option<DiskLatencies> = None;
    for (_, block) in plugged(answer) {
        let one = latencies_of(block)?;
        let sum = all.get_or_insert_default();
        sum.reads.add(&one.reads);
        sum.writes.add(&one.writes);
        sum.flushes.add(&one.flushes);
    }
    all
}

/// Reads them, and tells disks that do not count latencies yet to do so.
pub(super) async fn count(vm: &QemuVm, live: &Live, counters: &mut VmCounters) -> Result<(), DriverError> {
    let answer =
        vm_call(vm.seat.id, &live.qmp, "read disk counters", "query-blockstats", Value::Null).await?;
    let blocks = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let total = |field: &str| blocks.iter().map(|b| b["stats"][field].as_u64()).sum::<Option<u64>>();
    (counters.disk_read, counters.disk_written) = (total("rd_bytes"), total("wr_bytes"));
    (counters.disk_reads, counters.disk_writes) = (total("rd_operations"), total("wr_operations"));
    counters.disk_flushes = total("flush_operations");
    let took = ["rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns"].map(total);
    counters.disk_took_ns = took.into_iter().sum();
    counters.disk_latencies = sum(&answer);
    for (device, _) in plugged(&answer).filter(|(_, block)| latencies_of(block).is_none()) {
        let bounds = json!({ "id": device, "boundaries": bounds_ns() });
        let doing = "count the latencies of a disk";
        if let Err(error) = vm_call(vm.seat.id, &live.qmp, doing, "block-latency-histogram-set", bounds).await
        {
            // One that is unplugged just now; they are missing until it is gone.
            tracing::debug!(vm = %vm.seat.intent.name, device, %error, "its latencies are not counted");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(device: &str, bins: Option<u64>) -> Value {
        let histogram =
            |each: u64| json!({"boundaries": bounds_ns(), "bins": vec![each; LATENCY_BOUNDS_US.len() + 1]});
        let mut stats = json!({"rd_bytes": 1});
        if let Some(each) = bins {
            for kind in ["rd", "wr", "flush"] {
                stats[format!("{kind}_latency_histogram")] = histogram(each);
            }
        }
        json!({"qdev": device, "stats": stats})
    }

    #[test]
    fn latencies_are_those_of_all_disks_or_of_none() {
        let both = json!([block("/machine/peripheral/disk-a", Some(2)), block("disk-b", Some(3))]);
        let all = sum(&both).unwrap();
        assert_eq!((all.reads.0[0], all.flushes.0[17], all.writes.count()), (5, 5, 5 * 18));
        // Plugged a moment ago.
        assert_eq!(sum(&json!([block("disk-a", Some(2)), block("disk-c", None)])), None);
        // A medium that no device has says nothing of them.
        assert_eq!(
            sum(&json!([block("disk-a", Some(2)), block("", None)])).map(|all| all.reads.0[0]),
            Some(2)
        );
        assert_eq!(sum(&json!([])), None);
        // Of bounds that another Proteus set nothing is known, and they are set anew.
        let mut other = block("disk-a", Some(2));
        other["stats"]["rd_latency_histogram"]["boundaries"][3] = json!(7);
        assert_eq!(latencies_of(&other), None);
    }
}
