//! Which user a VM's VMM runs as: no two VMs of a host have the same, also where several Proteus run beside each
//! other, so that none may touch another's files. Who has which is in one table for the host, below `/run`; a VM whose
//! folder is gone has none. Must never give away a user that a VM has.
//!
//! A VM keeps its user for life: its disks belong to it. The table is only what the VMs' own places say, brought
//! together, and is filled again from them: after the host starts, and where it was lost or damaged. Where those places
//! are is in a list beside it, so that the loss of one file is not the loss of both. After the host starts each Proteus
//! brings its own; until then each looks for new users first where hardly another one does.

use crate::driver::{SLOT_MAX, UID_BASE, UID_END};
use crate::whole;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The table of this host.
pub(crate) const TABLE: &str = "/run/proteus-users.json";

/// User, and the folder of the VM that has it.
type Users = BTreeMap<u32, PathBuf>;

/// Folders of VMs: one for each Proteus that took part.
type Parts = BTreeSet<PathBuf>;

/// The user of a VM by its place; `None`: it has none yet, or nothing there tells.
fn user_of(place: &Path) -> Option<u32> {
    #[derive(Deserialize)]
    struct Told {
        slot: u16,
        #[serde(default)]
        user: Option<u32>,
    }
    let told = fs::read(place.join("seat.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let told = told.map(|Told { slot, user }| user.unwrap_or(UID_BASE + u32::from(slot)));
    // Where the seat cannot be read: its sockets and its own disks belong to it.
    told.or_else(|| {
        let files = fs::read_dir(place).ok()?.flatten();
        let mut owners = files.filter_map(|file| file.metadata().ok()).map(|about| about.uid());
        owners.find(|owner| (UID_BASE..UID_END).contains(owner))
    })
}

/// Notes the users of the VMs below `vms` that the table does not have.
fn note_places(users: &mut Users, vms: &Path) {
    let known: BTreeSet<PathBuf> = users.values().cloned().collect();
    let places = fs::read_dir(vms).into_iter().flatten().flatten().map(|entry| entry.path());
    for place in places.filter(|place| !known.contains(place)) {
        if let Some(user) = user_of(&place) {
            users.entry(user).or_insert(place);
        }
    }
}

/// Where the list of those who took part is.
fn parts_path(table: &Path) -> PathBuf {
    table.with_extension("folders")
}

/// Who took part so far; `Err`: what is wrong with that list.
fn read_parts(table: &Path) -> Result<Parts, io::Error> {
    match fs::read(parts_path(table)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Parts::new()),
        text => Ok(serde_json::from_slice(&text?)?),
    }
}

/// Sets a damaged table aside, where all that was in it is known from the places of those who took part.
fn set_aside(table: &Path, why: &dyn std::fmt::Display, parts: &io::Result<Parts>) -> io::Result<()> {
    if let Ok(parts) = parts
        && !parts.is_empty()
    {
        let aside = table.with_extension("damaged");
        fs::rename(table, &aside)?;
        let (table, aside) = (table.display(), aside.display());
        tracing::warn!(%table, %aside, %why, "damaged, set aside, and filled again from the VMs' places");
        return Ok(());
    }
    Err(io::Error::other(format!(
        "it is damaged ({why}), and nothing tells which VMs it had: move it away, then start every Proteus of this \
         host again; each brings the users of its VMs"
    )))
}

/// Changes the table; nobody else does meanwhile. `vms`: where the VMs of whoever asks are.
fn change<T>(table: &Path, vms: &Path, act: impl FnOnce(&mut Users) -> T) -> io::Result<T> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", table.display()));
    let changed = || {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(table.with_extension("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let parts = read_parts(table);
        let (mut users, is_whole) = match fs::read(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Users::new(), false),
            text => match serde_json::from_slice::<Users>(&text?) {
                Ok(users) => (users, true),
                Err(why) => {
                    set_aside(table, &why, &parts)?;
                    (Users::new(), false)
                }
            },
        };
        // Where the list is none, the table is whole or was taken away on purpose: it begins anew.
        let mut parts = parts.unwrap_or_default();
        parts.extend(users.values().filter_map(|folder| vms_of(folder).ok()).map(Path::to_owned));
        parts.insert(vms.to_owned());
        parts.retain(|part| part.is_dir());
        // Before the table: what is in that is also to be found from here.
        if read_parts(table).ok().as_ref() != Some(&parts) {
            whole::write(&parts_path(table), &serde_json::to_vec_pretty(&parts).map_err(io::Error::other)?)?;
        }
        users.retain(|_, folder| folder.is_dir());
        for part in parts.iter().filter(|part| !is_whole || *part == vms) {
            note_places(&mut users, part);
        }
        let outcome = act(&mut users);
        whole::write(table, &serde_json::to_vec_pretty(&users).map_err(io::Error::other)?)?;
        Ok(outcome)
    };
    changed().map_err(named)
}

/// The folder of VMs that a VM's folder is in.
fn vms_of(folder: &Path) -> io::Result<&Path> {
    folder.parent().ok_or_else(|| io::Error::other(format!("{} is no VM's folder", folder.display())))
}

/// Where the users for the VM in `slot` are looked for first.
fn first_choice(instance: &str, slot: u16) -> u32 {
    let width = u32::from(SLOT_MAX);
    // Any spread does; it is no secret which.
    let spread = u32::from_str_radix(instance, 16).unwrap_or(0);
    UID_BASE + spread % ((UID_END - UID_BASE) / width) * width + u32::from(slot) % width
}

/// A user for the VM whose place is `folder`, which must be there; the same when asked again.
pub(crate) fn claim(table: &Path, instance: &str, folder: &Path, slot: u16) -> io::Result<u32> {
    let first = first_choice(instance, slot);
    let user = change(table, vms_of(folder)?, |users| {
        let had = users.iter().find(|(_, of)| *of == folder).map(|(user, _)| *user);
        let free = || (first..UID_END).chain(UID_BASE..first).find(|user| !users.contains_key(user));
        let user = had.or_else(free)?;
        users.insert(user, folder.to_owned());
        Some(user)
    })?;
    user.ok_or_else(|| io::Error::other(format!("all users from {UID_BASE} to {} are VMs'", UID_END - 1)))
}

/// Notes that a VM has a user; the folder of another VM that has it too.
pub(crate) fn keep(table: &Path, folder: &Path, user: u32) -> io::Result<Option<PathBuf>> {
    change(table, vms_of(folder)?, |users| {
        let holder = users.entry(user).or_insert_with(|| folder.to_owned());
        (holder != folder).then(|| holder.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        dir: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().expect("there is room") }
        }

        fn table(&self) -> PathBuf {
            self.dir.path().join("users.json")
        }

        /// The place of a VM that has this user, as its seat says.
        fn seat(&self, name: &str, user: u32) -> PathBuf {
            let place = self.place(name);
            fs::write(place.join("seat.json"), format!("{{\"slot\": 5, \"user\": {user}}}"))
                .expect("there is room");
            place
        }

        fn place(&self, name: &str) -> PathBuf {
            let place = self.dir.path().join(name);
            fs::create_dir_all(&place).expect("there is room");
            place
        }

        fn claim(&self, instance: &str, name: &str, slot: u16) -> u32 {
            claim(&self.table(), instance, &self.place(name), slot).expect("one is free")
        }
    }

    #[test]
    fn two_instances_never_have_the_same_user() {
        let host = Host::new();
        // The same spread, so the same first choice.
        let (one, two) = ("00000000", "00000007");
        assert_eq!(first_choice(one, 0), first_choice(two, 0));
        let users = [
            host.claim(one, "one/a", 0),
            host.claim(two, "two/a", 0),
            host.claim(one, "one/b", 1),
            host.claim(two, "two/b", 1),
        ];
        let distinct: std::collections::BTreeSet<u32> = users.into_iter().collect();
        assert_eq!(distinct.len(), users.len(), "{users:?}");
        assert!(users.iter().all(|user| (UID_BASE..UID_END).contains(user)), "{users:?}");
        assert_ne!(first_choice("00000001", 0), first_choice(one, 0));
    }

    #[test]
    fn a_vm_keeps_its_user_and_one_that_is_gone_frees_it() {
        let host = Host::new();
        let user = host.claim("0000000a", "a", 3);
        assert_eq!(host.claim("0000000a", "a", 3), user);
        fs::remove_dir(host.place("a")).expect("it is empty");
        assert_eq!(host.claim("0000000a", "b", 3), user);
        // The table is lost when the host starts; the VM tells its user again.
        fs::remove_file(host.table()).expect("it was written");
        assert_eq!(keep(&host.table(), &host.place("b"), user).expect("it can be written"), None);
        assert_ne!(host.claim("0000000a", "c", 3), user);
    }

    #[test]
    fn a_user_that_two_vms_have_from_before_is_told() {
        let host = Host::new();
        let (one, two) = (host.place("one"), host.place("two"));
        assert_eq!(keep(&host.table(), &one, UID_BASE).expect("it can be written"), None);
        assert_eq!(keep(&host.table(), &two, UID_BASE).expect("it can be written"), Some(one.clone()));
        assert_eq!(keep(&host.table(), &one, UID_BASE).expect("it can be written"), None);
    }

    #[test]
    fn a_full_table_is_said() {
        let host = Host::new();
        let there = host.place("there");
        let all: Users = (UID_BASE..UID_END).map(|user| (user, there.clone())).collect();
        fs::write(host.table(), serde_json::to_vec(&all).expect("it is plain")).expect("there is room");
        let refused = claim(&host.table(), "0000000a", &host.place("more"), 0).expect_err("none is free");
        assert!(refused.to_string().contains("all users from 70000 to 97999"), "{refused}");
    }

    #[test]
    fn a_damaged_table_is_filled_again_from_the_places_of_all() {
        let host = Host::new();
        // The same spread, so the same first choice; one of them from before there was a table.
        let (one, two) = ("00000000", "00000007");
        let mine = host.claim(one, "one/a", 0);
        host.seat("one/a", mine);
        let theirs = host.claim(two, "two/a", 0);
        host.seat("two/a", theirs);
        let old = host.place("two/old");
        fs::write(old.join("seat.json"), "{\"slot\": 2}").expect("there is room");
        // Of one that cannot be read its own disk tells, where this may be tried.
        let torn = host.seat("two/torn", UID_BASE + 3);
        fs::write(torn.join("seat.json"), "{").expect("there is room");
        let disk = torn.join("root.qcow2");
        fs::write(&disk, "").expect("there is room");
        let owned = std::os::unix::fs::chown(&disk, Some(UID_BASE + 3), None).is_ok();
        fs::write(host.table(), "{ \"70000\": ").expect("there is room");

        let more: Vec<u32> = (1..4).map(|slot| host.claim(one, &format!("one/more-{slot}"), slot)).collect();
        let taken = [mine, theirs, UID_BASE + 2, if owned { UID_BASE + 3 } else { 0 }];
        assert!(more.iter().all(|user| !taken.contains(user)), "{more:?} of {taken:?}");
        assert_eq!(host.claim(two, "two/a", 0), theirs);
        let aside = host.table().with_extension("damaged");
        assert_eq!(fs::read_to_string(aside).expect("it was set aside"), "{ \"70000\": ");
        // One that was taken away is filled the same.
        fs::remove_file(host.table()).expect("it was written");
        assert!(!taken.contains(&host.claim(one, "one/last", 0)));
    }

    #[test]
    fn a_damaged_table_of_which_nothing_tells_whose_it_was_is_refused_with_a_way_out() {
        let host = Host::new();
        host.claim("00000000", "one/a", 0);
        for list in [None, Some("["), Some("[]")] {
            fs::write(host.table(), "no table").expect("there is room");
            match list {
                None => fs::remove_file(parts_path(&host.table())).expect("it was written"),
                Some(text) => fs::write(parts_path(&host.table()), text).expect("there is room"),
            }
            let refused =
                claim(&host.table(), "00000000", &host.place("one/b"), 1).expect_err("it is damaged");
            let said = refused.to_string();
            assert!(said.starts_with(&format!("{}: it is damaged", host.table().display())), "{said}");
            assert!(said.contains("move it away, then start every Proteus"), "{said}");
            assert_eq!(fs::read_to_string(host.table()).expect("it stays"), "no table");
            fs::remove_file(host.table()).expect("it stays");
            host.claim("00000000", "one/b", 1);
        }
    }
}
