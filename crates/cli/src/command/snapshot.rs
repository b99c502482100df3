//! `proteus vm snapshot`: taken, listed, gone back to, forgotten. A restore says first what it loses.

use super::{Outcome, Session, asked};
use crate::argument::Snapshot;
use crate::client::segment;
use crate::error::usage;
use crate::output;
use proteus_protocol::api::v1::{RestoreView, SnapshotRequest, SnapshotTaken, SnapshotView, VmView};
use serde_json::json;

impl Session {
    pub(super) async fn snapshot(&self, command: &Snapshot) -> Outcome {
        match command {
            Snapshot::Create { vm, name, dry_run } => self.create_snapshot(vm, name.clone(), *dry_run).await,
            Snapshot::List { vm } => {
                let all: Vec<SnapshotView> =
                    self.client.get(&format!("/vms/{}/snapshots", segment(vm))).await?;
                self.print(&all, || output::snapshots(vm, &all));
                Ok(0)
            }
            Snapshot::Restore { vm, name, yes, dry_run } => {
                self.restore_snapshot(vm, name, *yes, *dry_run).await
            }
            Snapshot::Delete { vm, name, dry_run } => {
                let found = self.find_snapshot(vm, name).await?;
                let path = format!("/vms/{}/snapshots/{}", segment(vm), segment(name));
                let () = self.client.delete(&asked(&path, *dry_run)).await?;
                let done = if *dry_run { "would delete" } else { "deleted" };
                self.print(&json!({ "deleted": !dry_run, "snapshot": found }), || {
                    format!("{done} {name} of {vm} ({} of RAM in its disk)\n", found.ram)
                });
                Ok(0)
            }
        }
    }

    async fn create_snapshot(&self, vm: &str, name: Option<String>, dry_run: bool) -> Outcome {
        let path = format!("/vms/{}/snapshots", segment(vm));
        let request = SnapshotRequest { name };
        let would: SnapshotTaken = self.client.post(&asked(&path, true), &request).await?;
        let pause = would.blackout_ms;
        if dry_run {
            self.print(&would, || {
                format!(
                    "would save disks and RAM of {vm} as {}: blackout up to {pause}, up to {} of its disk\n",
                    would.snapshot.name, would.snapshot.ram
                )
            });
            return Ok(0);
        }
        self.aside(&format!("  saving disks and RAM; {vm} stands still for up to {pause}\n"));
        let taken: SnapshotTaken = self.client.post(&path, &request).await?;
        self.print(&taken, || {
            format!(
                "{} taken: {} of RAM, blackout {}\n",
                taken.snapshot.name, taken.snapshot.ram, taken.blackout_ms
            )
        });
        Ok(0)
    }

    async fn find_snapshot(&self, vm: &str, name: &str) -> Result<SnapshotView, super::CommandError> {
        let all: Vec<SnapshotView> = self.client.get(&format!("/vms/{}/snapshots", segment(vm))).await?;
        let hint = format!("`proteus vm snapshot list {vm}` shows what there is");
        let missing = || super::CommandError::Missing { what: format!("{vm} has no snapshot {name}"), hint };
        all.into_iter().find(|snapshot| snapshot.name.as_str() == name).ok_or_else(missing)
    }

    async fn restore_snapshot(&self, vm: &str, name: &str, yes: bool, dry_run: bool) -> Outcome {
        let found = self.find_snapshot(vm, name).await?;
        let view: VmView = self.client.get(&format!("/vms/{}", segment(vm))).await?;
        let lost = output::restore_loses(&view, &found);
        let path = format!("/vms/{}/snapshots/{}/restore", segment(vm), segment(name));
        if dry_run {
            let _: RestoreView = self.client.post(&asked(&path, true), &json!({})).await?;
            self.print(&json!({ "restored": false, "snapshot": found, "loses": lost }), || lost.clone());
            return Ok(0);
        }
        if !yes {
            self.aside(&lost);
            return Err(usage(
                format!("{vm} was not restored: that has to be confirmed"),
                "the same command with --yes restores it",
            ));
        }
        self.aside(&lost);
        let view: RestoreView = self.client.post(&path, &json!({})).await?;
        self.print(&view, || output::restored(vm, name, &view));
        Ok(if view.failed.is_empty() { 0 } else { 1 })
    }
}
