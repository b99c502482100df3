//! `proteus report`: asks the API for what a page shows, and writes it. Must never leave half a page, nor ask for many
//! VMs at once without a bound.

use super::{Outcome, Session, each};
use crate::argument::{Report, Step};
use crate::client::{Client, ClientError, segment};
use crate::error::{CommandError, usage};
use crate::file::irregular;
use crate::output::now;
use crate::report::{Fleet, Member, Single, brief_metrics, fleet, single};
use proteus_model::unit::{Bytes, UnixMillis};
use proteus_protocol::api::v1::{
    AllocationView, HISTORY_MAX, HistoryView, HostView, MorphView, PersonalityView, VersionView, VmView,
};
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Steps of a history that a page of all VMs shows: three hours of minutes.
const FLEET_STEPS: u64 = 180;

impl Session {
    pub(super) async fn report(&self, report: &Report) -> Outcome {
        let place = Place::new(&report.out)?;
        let page = match &report.vm {
            Some(vm) => self.page_of(vm, report.step).await?,
            None => self.page_of_all(report.step.unwrap_or(Step::Minute)).await?,
        };
        place.write(page.as_bytes())?;
        let (out, size) = (&report.out, page.len() as u64);
        self.print(&json!({ "path": out.display().to_string(), "bytes": size }), || {
            format!("wrote {} ({})\n", out.display(), Bytes(size))
        });
        Ok(0)
    }

    async fn page_of(&self, vm: &str, step: Option<Step>) -> Result<String, CommandError> {
        let path = format!("/vms/{}", segment(vm));
        let view: VmView = self.client.get(&path).await?;
        let host: HostView = self.client.get("/host").await?;
        let history = match step {
            Some(step) => history(&self.client, &path, step.seconds()).await?,
            None => whole_history(&self.client, &path).await?,
        };
        let personality: PersonalityView = self.client.get(&format!("{path}/personality")).await?;
        let versions: Vec<VersionView> =
            self.client.get(&format!("{path}/versions?limit={HISTORY_MAX}")).await?;
        let versions: Vec<_> = versions.into_iter().map(|view| view.version).collect();
        let all: Vec<MorphView> =
            self.client.get(&format!("/morphs?vm={}&limit={HISTORY_MAX}", view.id)).await?;
        let morphs_cut = all.last().and_then(|last| last.earlier).is_some_and(|earlier| earlier > 0);
        let morphs: Vec<_> = all.into_iter().map(|view| view.morph).collect();
        Ok(single(&Single {
            now: now(),
            host: &host.name,
            vm: &view,
            history: &history,
            personality: &personality,
            versions: &versions,
            morphs: &morphs,
            morphs_cut,
        }))
    }

    async fn page_of_all(&self, step: Step) -> Result<String, CommandError> {
        let host: HostView = self.client.get("/host").await?;
        let allocation: AllocationView = self.client.get("/allocation").await?;
        let vms: Vec<VmView> = self.client.get("/vms").await?;
        let (now, step_s) = (now(), step.seconds());
        let since = UnixMillis(now.0.saturating_sub(FLEET_STEPS * step_s * 1000));
        let members = members(&self.client, vms, step_s, since).await;
        let all = Fleet { now, since, step_s, host: &host, allocation: &allocation, members: &members };
        Ok(fleet(&all))
    }
}

async fn history(client: &Client, path: &str, step_s: u64) -> Result<HistoryView, ClientError> {
    client.get(&format!("{path}/history?step_s={step_s}")).await
}

/// The finest history that reaches back as far as the coarser ones do.
async fn whole_history(client: &Client, path: &str) -> Result<HistoryView, ClientError> {
    let begin = |view: &HistoryView| view.buckets.first().map(|first| first.begins_at.0);
    let mut best = history(client, path, Step::TenSeconds.seconds()).await?;
    for step in [Step::Minute, Step::TenMinutes] {
        let coarser = history(client, path, step.seconds()).await?;
        // A coarse step begins before the fine one that it is made of.
        let further = match (begin(&best), begin(&coarser)) {
            (Some(fine), Some(coarse)) => coarse + step.seconds() * 1000 <= fine,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if further {
            best = coarser;
        }
    }
    Ok(best)
}

/// Asks for each VM, some at once, and puts them in the order of their names. One that does not answer is in it, with
/// why.
async fn members(client: &Client, vms: Vec<VmView>, step_s: u64, since: UnixMillis) -> Vec<Member> {
    let metrics = segment(&brief_metrics());
    let ask = |vm: VmView| {
        let (client, metrics) = (client.clone(), metrics.clone());
        async move {
            let path = format!("/vms/{}", segment(&vm.id.to_string()));
            let usage = client.get(&format!("{path}/usage")).await.map_err(|why| why.to_string());
            let history = format!("{path}/history?step_s={step_s}&since={}&metrics={metrics}", since.0);
            let history = client.get(&history).await.map_err(|why| why.to_string());
            Member { vm, usage, history }
        }
    };
    let mut members: Vec<Member> = each(vms.into_iter().map(ask)).await;
    members.sort_by(|a, b| (a.vm.name.as_str(), a.vm.id).cmp(&(b.vm.name.as_str(), b.vm.id)));
    members
}

/// Where a page goes. It is written beside its place and put there once it is whole.
struct Place {
    out: PathBuf,
    beside: PathBuf,
}

impl Place {
    /// Looked at before anything is asked for.
    fn new(out: &Path) -> Result<Self, CommandError> {
        let refuse = |what: &str, hint: &str| Err(usage(format!("{}: {what}", out.display()), hint));
        let Some(name) = out.file_name() else {
            return refuse("expected the name of a file", "name one in it, as DIR/report.html");
        };
        // Where there is nothing yet there is nothing to say.
        if let Some(found) = std::fs::metadata(out).ok().as_ref().and_then(irregular) {
            let what = format!("expected a regular file, found {found}");
            return refuse(&what, "name a file, as DIR/report.html");
        }
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let what = format!("there is no folder {}", folder.display());
            return refuse(&what, "make it, or name a file in one that is there");
        }
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.part", std::process::id()));
        Ok(Self { out: out.to_owned(), beside: out.with_file_name(beside) })
    }

    fn write(&self, bytes: &[u8]) -> Result<(), CommandError> {
        let written = File::options().write(true).create_new(true).open(&self.beside).and_then(|mut file| {
            let done = file.write_all(bytes).and_then(|()| file.sync_all());
            let done = done.and_then(|()| std::fs::rename(&self.beside, &self.out));
            if done.is_err() {
                // Half a page is none.
                let _ = std::fs::remove_file(&self.beside);
            }
            done
        });
        written.map_err(|source| CommandError::Written { path: self.out.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a.html");
        for text in ["one", "two"] {
            Place::new(&out).unwrap().write(text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&out).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for bad in [dir.path().to_owned(), dir.path().join("no/a.html"), "/dev/null".into(), "..".into()] {
            let error = Place::new(&bad).err().unwrap();
            assert!(matches!(&error, CommandError::Usage { .. }), "{error:?}");
        }
        let place = Place::new(&dir.path().join("b.html")).unwrap();
        std::fs::create_dir(dir.path().join("b.html")).unwrap();
        std::fs::write(dir.path().join("b.html/file"), "").unwrap();
        assert!(place.write(b"x").unwrap_err().to_string().ends_with("b.html"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
