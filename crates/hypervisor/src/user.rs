//! Which user a VM's VMM runs as: no two VMs of a host have the same, also where several Proteus run beside each
//! other, so that none may touch another's files. Who has which is in one table for the host, below `/run`; a VM whose
//! folder is gone has none. Must never give away a user that a VM has.
//!
//! A VM keeps its user for life: its disks belong to it. After the host starts the table is empty, and fills again
//! from the VMs' own places; until then each Proteus looks for new users first where hardly another one does.

use crate::driver::{SLOT_MAX, UID_BASE, UID_END};
use crate::whole;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The table of this host.
pub(crate) const TABLE: &str = "/run/proteus-users.json";

/// User, and the folder of the VM that has it.
type Users = BTreeMap<u32, PathBuf>;

/// Changes the table; nobody else does meanwhile.
fn change<T>(table: &Path, act: impl FnOnce(&mut Users) -> T) -> io::Result<T> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", table.display()));
    let changed = || {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(table.with_extension("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let mut users: Users = match fs::read(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Users::new(),
            text => serde_json::from_slice(&text?).map_err(io::Error::other)?,
        };
        users.retain(|_, folder| folder.is_dir());
        let outcome = act(&mut users);
        whole::write(table, &serde_json::to_vec_pretty(&users).map_err(io::Error::other)?)?;
        Ok(outcome)
    };
    changed().map_err(named)
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
    let user = change(table, |users| {
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
    change(table, |users| {
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
}
