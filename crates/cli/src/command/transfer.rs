//! `proteus telemetry`: histories of VMs as files. Must never write over a file.

use super::{Outcome, Session, asked};
use crate::argument::Telemetry;
use crate::client::segment;
use crate::error::{CommandError, usage};
use crate::file::read_bounded;
use proteus_model::unit::Bytes;
use proteus_protocol::api::v1::{IMPORT_BYTES_MAX, ImportView};
use serde_json::json;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

fn imported(vm: &str, view: &ImportView, dry_run: bool) -> String {
    let word = if dry_run { "would take in" } else { "taken in" };
    let steps: Vec<String> = view
        .buckets
        .iter()
        .zip(["10 s", "1 min", "10 min"])
        .map(|(count, step)| format!("{count} of {step}"))
        .collect();
    let mut text = format!("{word} for {vm}: stretches {}\n", steps.join(", "));
    // Writing into a String cannot fail.
    if view.future > 0 {
        let _ = writeln!(text, "left out: {} of the future", view.future);
    }
    if view.damaged > 0 {
        let _ = writeln!(text, "left out: {} parts that are damaged", view.damaged);
    }
    for (fault, times) in &view.faults {
        let _ = writeln!(text, "left out: {times} lines, {fault}");
    }
    text
}

impl Session {
    pub(super) async fn transfer(&self, command: &Telemetry) -> Outcome {
        match command {
            Telemetry::Export { vm, out } => self.export(vm, out).await,
            Telemetry::Import { vm, file, from, dry_run } => {
                let bytes = match (file, &from.prometheus) {
                    (_, Some(url)) => self.read_prometheus(vm, url, from).await?,
                    (Some(file), None) => read_bounded(file, IMPORT_BYTES_MAX as u64)?,
                    (None, None) => return Err(usage("expected a file or --prometheus".into(), "name one")),
                };
                let path = asked(&format!("/vms/{}/history/file", segment(vm)), *dry_run);
                let view: ImportView = self.client.upload(&path, bytes).await?;
                self.print(&view, || imported(vm, &view, *dry_run));
                Ok(0)
            }
        }
    }

    async fn export(&self, vm: &str, out: &Path) -> Outcome {
        let failed = |source| CommandError::Written { path: out.to_owned(), source };
        let bytes = self.client.download(&format!("/vms/{}/history/file", segment(vm))).await?;
        let mut file = File::options().write(true).create_new(true).open(out).map_err(failed)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a history is none.
            let _ = std::fs::remove_file(out);
        }
        written.map_err(failed)?;
        let size = bytes.len() as u64;
        self.print(&json!({ "path": out.display().to_string(), "bytes": size }), || {
            format!("wrote {} ({})\n", out.display(), Bytes(size))
        });
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_told() {
        let faults = [("late".to_owned(), 3)].into();
        let view = ImportView { buckets: vec![2, 1, 1], future: 4, damaged: 0, faults };
        let expected = "would take in for web: stretches 2 of 10 s, 1 of 1 min, 1 of 10 min\n\
            left out: 4 of the future\nleft out: 3 lines, late\n";
        assert_eq!(imported("web", &view, true), expected);
    }
}
