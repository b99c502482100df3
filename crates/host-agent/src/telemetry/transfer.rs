//! Histories that come and go as files: with a VM that moves, or from another monitoring. Must never take in part of
//! what is refused: all of it is read before a byte is written.

use super::history::{self, Found, History, HistoryError};
use super::{history_error, history_path, task_error};
use crate::clock::now;
use crate::node::HostAgent;
use proteus_brain::telemetry::{Series, csv};
use proteus_model::id::VmId;
use proteus_protocol::node::v1::{ImportObserved, NodeError, NodeErrorCode};
use std::collections::BTreeMap;
use std::path::Path;

fn refused(message: String, hint: &str) -> NodeError {
    NodeError { hint: Some(hint.to_owned()), ..NodeError::new(NodeErrorCode::File, message) }
}

/// Buckets of the lines of a CSV.
fn from_csv(text: &str) -> Result<(Found, BTreeMap<String, u64>), NodeError> {
    let hint =
        "the first line names `time` and metrics, as in `time,cpu,memory`; an empty field was not measured";
    let refused = |error: csv::CsvError| refused(error.to_string(), hint);
    let (mut series, mut found, now) = (Series::default(), Found::default(), now());
    for reading in csv::parse(text).map_err(refused)? {
        let (at, reading) = reading.map_err(refused)?;
        series.place(at, now, &reading).into_iter().for_each(|closed| found.push_latest(closed));
    }
    series.flush().into_iter().for_each(|closed| found.push_latest(closed));
    found.keep_latest();
    let faults = series.faults().counted().map(|(fault, times)| (fault.name().to_owned(), times)).collect();
    Ok((found, faults))
}

/// What a file has, and what was wrong with its order.
type Incoming = (Found, BTreeMap<String, u64>);

/// Reads all of a file. Takes as long as the file is large.
fn read(bytes: &[u8]) -> Result<Incoming, NodeError> {
    if history::is_one(bytes) {
        let found = history::decode(bytes).map_err(|error| {
            let hint = match error {
                HistoryError::Cut { .. } => "copy it anew, whole; nothing of it was taken in",
                _ => "`proteus telemetry export` writes such files",
            };
            refused(error.to_string(), hint)
        })?;
        return Ok((found.1, BTreeMap::new()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => from_csv(text),
        Err(_) => {
            let hint = "a file of `proteus telemetry export`, or CSV in UTF-8";
            Err(refused("it is neither a history of Proteus nor text".to_owned(), hint))
        }
    }
}

impl HostAgent {
    /// The whole history of a VM, as a file.
    pub(crate) async fn exported(&self, vm: VmId) -> Result<Vec<u8>, NodeError> {
        let path = history_path(&self.seat(vm)?.dir);
        // Megabytes, made anew where they are of before.
        let export = move || History::open(&path, vm).and_then(|(history, _)| history.export());
        let exported = tokio::task::spawn_blocking(export).await;
        exported.map_err(task_error)?.map_err(history_error)
    }

    /// Takes a history in, beside what there is: of two stretches of the same time the fuller stays.
    pub(crate) async fn imported(
        &self,
        vm: VmId,
        bytes: &[u8],
        dry_run: bool,
    ) -> Result<ImportObserved, NodeError> {
        let path = history_path(&self.seat(vm)?.dir);
        let bytes = bytes.to_vec();
        // Seconds for a large one, in which nobody else would get this thread.
        let taken = tokio::task::spawn_blocking(move || take_in(&path, vm, &bytes, dry_run)).await;
        taken.map_err(task_error)?
    }
}

/// Reads a history and, unless it is a dry run, puts it into the one at `path`.
fn take_in(path: &Path, vm: VmId, bytes: &[u8], dry_run: bool) -> Result<ImportObserved, NodeError> {
    let (mut found, faults) = read(bytes)?;
    // What is of the future is somebody's wrong clock: it would hide what comes until then.
    let (now, mut future) = (now(), 0);
    for buckets in &mut found.buckets {
        let before = buckets.len();
        buckets.retain(|bucket| bucket.begins_at <= now);
        future += (before - buckets.len()) as u64;
    }
    let kept = || -> Result<(), HistoryError> {
        let (history, _) = History::open(path, vm)?;
        for (tier, buckets) in found.buckets.iter().enumerate() {
            // Newer ones of the same place in the ring are what is to stay.
            buckets.iter().try_for_each(|bucket| history.put_unless_newer(tier, bucket, now))?;
        }
        history.sync()
    };
    if !dry_run {
        kept().map_err(history_error)?;
    }
    let buckets = found.buckets.iter().map(|buckets| buckets.len() as u64).collect();
    Ok(ImportObserved { buckets, future, damaged: found.damaged, faults })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_becomes_buckets_and_what_is_wrong_with_it_is_counted_or_refused() {
        let (found, faults) =
            read(b"time,cpu\n1700000000,5\n1700000005,7\n1700000003,9\n1700000600,1\n").unwrap();
        let counts: Vec<usize> = found.buckets.iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 2, 2]);
        assert_eq!(found.buckets[0][0].readings, 2);
        assert_eq!(faults.get("late"), Some(&1));
        let error = read(b"time,cpu\n1700000000,many\n").unwrap_err();
        assert!(error.message.starts_with("line 2, cpu: expected") && error.hint.is_some(), "{error:?}");
        assert!(read(b"\xff\xfe\x00").unwrap_err().message.contains("neither"));
        assert!(read(b"proteus history\nxxxxxxxxxxxxxxxxxxx").unwrap_err().message.contains("no history"));
    }
}
