//! The store's rules in SQL, synchronous. Must never be called from a thread that serves others.
//!
//! `version` is log and state at once: each write of a key is a row, a deletion is a row without value, the state
//! is each key's last row. `operation` is the journal of operation ids. `counter` is one row.

use super::CheckReport;
use crate::store::{Change, Commit, Cursor, Event, Key, LeaseId, Outcome, Page, Record, Rev, StoreError};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// "PROT": tells our files from other databases.
const APPLICATION_ID: i32 = 0x5052_4f54;

/// Each brings a database from the version before to its own: the first to 1. Never change one that shipped.
pub(super) const MIGRATIONS: &[&str] = &["
    CREATE TABLE counter (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        rev INTEGER NOT NULL,
        compacted INTEGER NOT NULL,
        lease INTEGER NOT NULL
    );
    INSERT INTO counter VALUES (1, 0, 0, 0);
    CREATE TABLE version (
        key TEXT NOT NULL,
        rev INTEGER NOT NULL,
        value BLOB,
        lease INTEGER,
        PRIMARY KEY (key, rev)
    ) WITHOUT ROWID;
    CREATE INDEX version_rev ON version (rev);
    CREATE INDEX version_lease ON version (lease) WHERE lease IS NOT NULL;
    CREATE TABLE operation (
        op_id TEXT PRIMARY KEY,
        rev INTEGER NOT NULL,
        digest BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX operation_rev ON operation (rev);
    CREATE TABLE lease (
        id INTEGER PRIMARY KEY,
        ttl_ms INTEGER NOT NULL
    );
"];

/// Most rows that one reading of events takes: eight full commits.
const EVENT_ROWS_MAX: usize = 8 * crate::store::COMMIT_KEYS_MAX;

/// After every key with a prefix: keys are printable ASCII, of which '~' (0x7e) is the last.
const AFTER_ALL: char = '\u{7f}';

/// The error of a failed statement, with what it was for.
pub(super) fn failed(doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::DiskFull { doing },
        Some(_) | None => StoreError::Database { doing, source: Box::new(error) },
    }
}

/// The database.
pub(super) struct Engine {
    connection: Connection,
}

fn rev_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Rev> {
    row.get::<_, u64>(column).map(Rev)
}

fn key_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    let text: String = row.get(column)?;
    let kind = rusqlite::types::Type::Text;
    Key::new(text).map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error)))
}

/// Records hold what is for their owners alone. What SQLite makes beside the file has the file's own rights.
fn close_to_others(path: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { doing: "close to others", path: path.to_owned(), source };
    let closed = Permissions::from_mode(0o600);
    let mut options = std::fs::File::options();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
    file.set_permissions(closed.clone()).map_err(io)?;
    for beside in ["db-wal", "db-shm"].map(|ending| path.with_extension(ending)) {
        match std::fs::set_permissions(beside, closed.clone()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    Ok(())
}

impl Engine {
    pub(super) fn open(path: &Path, folder: &Path) -> Result<Self, StoreError> {
        close_to_others(path)?;
        let connection = Connection::open(path).map_err(failed("open"))?;
        Self::prepare(connection, path, folder, MIGRATIONS)
    }

    pub(super) fn in_memory() -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory().map_err(failed("open"))?;
        Self::prepare(connection, Path::new(":memory:"), Path::new(":memory:"), MIGRATIONS)
    }

    /// Checks whose database this is and brings it to the newest of `migrations`.
    pub(super) fn prepare(
        mut connection: Connection,
        path: &Path,
        folder: &Path,
        migrations: &[&str],
    ) -> Result<Self, StoreError> {
        let pragma = |name: &str, connection: &Connection| {
            connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed("open"))
        };
        // Another program's file is not even given a write-ahead log.
        let ours = pragma("application_id", &connection)? == i64::from(APPLICATION_ID);
        let found = u32::try_from(pragma("user_version", &connection)?).unwrap_or(u32::MAX);
        let objects: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed("open"))?;
        if !ours && objects > 0 {
            return Err(StoreError::NotOurs { path: path.to_owned() });
        }
        let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
        if found > known {
            return Err(StoreError::TooNew { folder: folder.to_owned(), found, known });
        }
        // WAL answers with its name, which a plain `execute` would take for an error.
        connection
            .pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))
            .map_err(failed("open"))?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(failed("open"))?;
        connection.busy_timeout(std::time::Duration::from_secs(2)).map_err(failed("open"))?;
        connection.set_prepared_statement_cache_capacity(32);
        for (version, migration) in (1u32..).zip(migrations) {
            if version > found {
                upgrade(&mut connection, migration, version).map_err(failed("upgrade its schema"))?;
            }
        }
        Ok(Self { connection })
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn rev(&self) -> Result<Rev, StoreError> {
        self.counter().map(|(rev, _)| rev).map_err(failed("read its revision"))
    }

    /// Revision of the last commit, and the oldest that history reaches back to.
    fn counter(&self) -> rusqlite::Result<(Rev, Rev)> {
        let sql = "SELECT rev, compacted FROM counter";
        self.connection.prepare_cached(sql)?.query_row([], |row| Ok((rev_of(row, 0)?, rev_of(row, 1)?)))
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let read = || -> rusqlite::Result<Option<Record>> {
            let sql = "SELECT rev, value FROM version WHERE key = ?1 ORDER BY rev DESC LIMIT 1";
            let row = |row: &Row<'_>| Ok((rev_of(row, 0)?, row.get::<_, Option<Vec<u8>>>(1)?));
            let last = self.connection.prepare_cached(sql)?.query_row([key.as_str()], row).optional()?;
            Ok(last.and_then(|(rev, value)| Some(Record { key: key.clone(), value: value?, rev })))
        };
        read().map_err(failed("get a record"))
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let fail = failed("list records");
        let (current, compacted) = self.counter().map_err(&fail)?;
        let rev = cursor.as_ref().map_or(current, |cursor| cursor.rev);
        if rev < compacted {
            return Err(StoreError::Compacted { min: compacted });
        }
        let after = cursor.as_ref().map_or("", |cursor| cursor.after.as_str());
        let read = || -> rusqlite::Result<Vec<Record>> {
            // SQLite takes `value` from the row that has the max (sqlite.org/lang_select.html, "bare columns").
            let sql = "SELECT key, max(rev), value FROM version \
                       WHERE key >= ?1 AND key < ?2 AND key > ?3 AND rev <= ?4 \
                       GROUP BY key HAVING value IS NOT NULL ORDER BY key LIMIT ?5";
            let end = format!("{prefix}{AFTER_ALL}");
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![prefix, end, after, rev.0, limit as u64 + 1], |row| {
                Ok(Record { key: key_of(row, 0)?, rev: rev_of(row, 1)?, value: row.get(2)? })
            })?;
            rows.collect()
        };
        let mut records = read().map_err(&fail)?;
        let more = records.len() > limit;
        records.truncate(limit);
        let next = records.last().filter(|_| more).map(|last| Cursor { rev, after: last.key.clone() });
        Ok(Page { records, rev, next })
    }

    /// Whole commits after `after`, oldest first, and the revision up to which these are all.
    pub(super) fn events(&self, prefix: &str, after: Rev) -> Result<(Vec<Event>, Rev), StoreError> {
        let fail = failed("read its history");
        let (current, compacted) = self.counter().map_err(&fail)?;
        if after < compacted {
            return Err(StoreError::Compacted { min: compacted });
        }
        let read = || -> rusqlite::Result<Vec<(Rev, Change)>> {
            let sql = "SELECT rev, key, value FROM version INDEXED BY version_rev \
                       WHERE rev > ?1 AND key >= ?2 AND key < ?3 ORDER BY rev, key LIMIT ?4";
            let end = format!("{prefix}{AFTER_ALL}");
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![after.0, prefix, end, EVENT_ROWS_MAX as u64], |row| {
                Ok((rev_of(row, 0)?, Change { key: key_of(row, 1)?, value: row.get(2)? }))
            })?;
            rows.collect()
        };
        let rows = read().map_err(&fail)?;
        let cut = rows.len() == EVENT_ROWS_MAX;
        let mut events: Vec<Event> = Vec::new();
        for (rev, change) in rows {
            match events.last_mut() {
                Some(event) if event.rev == rev => event.changes.push(change),
                Some(_) | None => events.push(Event { rev, changes: vec![change] }),
            }
        }
        // The last commit may go on beyond the limit: it is left for the next time, unless it is alone (a lease
        // can end more keys than a commit can write).
        if cut && events.len() > 1 {
            events.pop();
        } else if cut && let Some(last) = events.pop() {
            events.push(self.whole_event(prefix, last.rev).map_err(&fail)?);
        }
        let upto = if cut { events.last().map_or(after, |event| event.rev) } else { current };
        Ok((events, upto))
    }

    fn whole_event(&self, prefix: &str, rev: Rev) -> rusqlite::Result<Event> {
        let sql = "SELECT key, value FROM version INDEXED BY version_rev \
                   WHERE rev = ?1 AND key >= ?2 AND key < ?3 ORDER BY key";
        let end = format!("{prefix}{AFTER_ALL}");
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![rev.0, prefix, end], |row| {
            Ok(Change { key: key_of(row, 0)?, value: row.get(1)? })
        })?;
        Ok(Event { rev, changes: rows.collect::<rusqlite::Result<_>>()? })
    }

    /// Begins a group of writes; nothing is durable before [`Group::finish`].
    pub(super) fn group(&mut self) -> Result<Group<'_>, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        transaction.map(|transaction| Group { transaction }).map_err(failed("begin a commit"))
    }

    /// Every lease with its time in milliseconds.
    pub(super) fn leases(&self) -> Result<Vec<(LeaseId, u64)>, StoreError> {
        let read = || -> rusqlite::Result<Vec<(LeaseId, u64)>> {
            let mut statement = self.connection.prepare("SELECT id, ttl_ms FROM lease")?;
            let rows = statement.query_map([], |row| Ok((LeaseId(row.get(0)?), row.get(1)?)))?;
            rows.collect()
        };
        read().map_err(failed("read its leases"))
    }

    pub(super) fn vacuum_into(&self, to: &Path) -> Result<(), StoreError> {
        let text = to.to_string_lossy();
        self.connection.execute("VACUUM INTO ?1", [text.as_ref()]).map_err(failed("write a backup"))?;
        Ok(())
    }

    pub(super) fn check(&self) -> Result<CheckReport, StoreError> {
        let fail = failed("check itself");
        let (rev, compacted) = self.counter().map_err(&fail)?;
        let count = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, u64>(0)).map_err(&fail);
        let mut problems = self.integrity().map_err(&fail)?;
        let rules = [
            (
                "versions after the last revision",
                "SELECT count(*) FROM version WHERE rev > (SELECT rev FROM counter)",
            ),
            (
                "operations after the last revision",
                "SELECT count(*) FROM operation WHERE rev > (SELECT rev FROM counter)",
            ),
            (
                "keys of a lease that is not there",
                "SELECT count(*) FROM version v WHERE lease IS NOT NULL \
              AND rev = (SELECT max(rev) FROM version WHERE key = v.key) AND lease NOT IN (SELECT id FROM lease)",
            ),
            ("empty histories", "SELECT count(*) FROM counter WHERE compacted > rev"),
        ];
        for (what, sql) in rules {
            match count(sql)? {
                0 => {}
                number => problems.push(format!("{number} {what}")),
            }
        }
        let keys = count(
            "SELECT count(*) FROM version v WHERE value IS NOT NULL \
             AND rev = (SELECT max(rev) FROM version WHERE key = v.key)",
        )?;
        let schema = count("SELECT user_version FROM pragma_user_version")?;
        Ok(CheckReport { rev, compacted, keys, schema: u32::try_from(schema).unwrap_or(u32::MAX), problems })
    }

    fn integrity(&self) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare("PRAGMA integrity_check(20)")?;
        let rows: rusqlite::Result<Vec<String>> = statement.query_map([], |row| row.get(0))?.collect();
        Ok(rows?.into_iter().filter(|line| line != "ok").collect())
    }
}

fn upgrade(connection: &mut Connection, migration: &str, version: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    transaction.execute_batch(migration)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// Writes that become durable together.
pub(super) struct Group<'e> {
    transaction: Transaction<'e>,
}

impl Group<'_> {
    /// Applies one commit, or finds that it cannot be: then it leaves nothing behind.
    pub(super) fn apply(&mut self, commit: &Commit) -> Result<Outcome, StoreError> {
        let fail = failed("write a commit");
        if let Some(outcome) = self.earlier(commit)? {
            return Ok(outcome);
        }
        let mut conflicts = Vec::new();
        for guard in &commit.guards {
            let current = self.current(guard.key()).map_err(&fail)?;
            if !guard.holds(current) {
                conflicts.push((guard.key().clone(), current));
            }
        }
        if !conflicts.is_empty() {
            return Ok(Outcome::Conflict(conflicts));
        }
        for lease in commit.puts.iter().filter_map(|put| put.lease) {
            if !self.has_lease(lease).map_err(&fail)? {
                return Err(StoreError::LeaseGone { lease });
            }
        }
        self.write(commit).map(Outcome::Committed).map_err(fail)
    }

    /// The outcome of an earlier submission.
    fn earlier(&self, commit: &Commit) -> Result<Option<Outcome>, StoreError> {
        let read = || {
            let sql = "SELECT rev, digest FROM operation WHERE op_id = ?1";
            let row = |row: &Row<'_>| Ok((rev_of(row, 0)?, row.get::<_, Vec<u8>>(1)?));
            self.transaction.prepare_cached(sql)?.query_row([commit.op_id.to_string()], row).optional()
        };
        match read().map_err(failed("look for an operation"))? {
            None => Ok(None),
            Some((rev, digest)) if digest == commit.digest() => Ok(Some(Outcome::Committed(rev))),
            Some(_) => Err(StoreError::OpReused { op_id: commit.op_id }),
        }
    }

    fn current(&self, key: &Key) -> rusqlite::Result<Option<Rev>> {
        let sql = "SELECT rev, value IS NULL FROM version WHERE key = ?1 ORDER BY rev DESC LIMIT 1";
        let row = |row: &Row<'_>| Ok((rev_of(row, 0)?, row.get::<_, bool>(1)?));
        let last = self.transaction.prepare_cached(sql)?.query_row([key.as_str()], row).optional()?;
        Ok(last.filter(|(_, deleted)| !deleted).map(|(rev, _)| rev))
    }

    fn has_lease(&self, lease: LeaseId) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM lease WHERE id = ?1";
        Ok(self.transaction.prepare_cached(sql)?.query_row([lease.0], |_| Ok(())).optional()?.is_some())
    }

    fn next_rev(&self) -> rusqlite::Result<Rev> {
        let sql = "UPDATE counter SET rev = rev + 1 RETURNING rev";
        self.transaction.prepare_cached(sql)?.query_row([], |row| rev_of(row, 0))
    }

    fn insert(
        &self,
        key: &Key,
        rev: Rev,
        value: Option<&[u8]>,
        lease: Option<LeaseId>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO version (key, rev, value, lease) VALUES (?1, ?2, ?3, ?4)";
        let lease = lease.map(|lease| lease.0);
        self.transaction.prepare_cached(sql)?.execute(params![key.as_str(), rev.0, value, lease])?;
        Ok(())
    }

    fn write(&self, commit: &Commit) -> rusqlite::Result<Rev> {
        let rev = self.next_rev()?;
        for put in &commit.puts {
            self.insert(&put.key, rev, Some(&put.value), put.lease)?;
        }
        for key in &commit.deletes {
            if self.current(key)?.is_some() {
                self.insert(key, rev, None, None)?;
            }
        }
        let sql = "INSERT INTO operation (op_id, rev, digest) VALUES (?1, ?2, ?3)";
        let digest = commit.digest();
        self.transaction.prepare_cached(sql)?.execute(params![
            commit.op_id.to_string(),
            rev.0,
            digest.as_slice()
        ])?;
        Ok(rev)
    }

    pub(super) fn new_lease(&mut self, ttl_ms: u64) -> Result<LeaseId, StoreError> {
        let write = || -> rusqlite::Result<LeaseId> {
            let sql = "UPDATE counter SET lease = lease + 1 RETURNING lease";
            let id: u64 = self.transaction.query_row(sql, [], |row| row.get(0))?;
            self.transaction.execute("INSERT INTO lease (id, ttl_ms) VALUES (?1, ?2)", [id, ttl_ms])?;
            Ok(LeaseId(id))
        };
        write().map_err(failed("begin a lease"))
    }

    /// Ends a lease: its keys vanish in one commit. Whether it was there.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Result<bool, StoreError> {
        let write = || -> rusqlite::Result<bool> {
            let there = self.transaction.execute("DELETE FROM lease WHERE id = ?1", [lease.0])? > 0;
            let sql = "SELECT key FROM version v WHERE lease = ?1 \
                       AND rev = (SELECT max(rev) FROM version WHERE key = v.key)";
            let mut statement = self.transaction.prepare_cached(sql)?;
            let keys: rusqlite::Result<Vec<Key>> =
                statement.query_map([lease.0], |row| key_of(row, 0))?.collect();
            let keys = keys?;
            if !keys.is_empty() {
                let rev = self.next_rev()?;
                for key in &keys {
                    self.insert(key, rev, None, None)?;
                }
            }
            Ok(there)
        };
        write().map_err(failed("end a lease"))
    }

    /// Forgets history before `before`.
    pub(super) fn compact(&mut self, before: Rev) -> Result<(), StoreError> {
        let write = || -> rusqlite::Result<()> {
            let sql = "UPDATE counter SET compacted = max(compacted, min(?1, rev)) RETURNING compacted";
            let kept: u64 = self.transaction.query_row(sql, [before.0], |row| row.get(0))?;
            // What a list at `kept` sees stays: each key's last row up to there, unless that is a deletion.
            self.transaction.execute(
                "DELETE FROM version WHERE rev <= ?1 AND EXISTS \
                 (SELECT 1 FROM version later WHERE later.key = version.key AND later.rev > version.rev AND later.rev <= ?1)",
                [kept],
            )?;
            self.transaction.execute("DELETE FROM version WHERE rev <= ?1 AND value IS NULL", [kept])?;
            self.transaction.execute("DELETE FROM operation WHERE rev < ?1", [kept])?;
            Ok(())
        };
        write().map_err(failed("forget history"))
    }

    /// Makes the group durable. The error tells whether it may be durable all the same.
    pub(super) fn finish(self) -> Result<(), Unfinished> {
        self.transaction.commit().map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::SystemIoFailure) => Unfinished::Perhaps,
            Some(_) | None => Unfinished::No(failed("finish a commit")(error)),
        })
    }
}

/// Why a group did not become durable.
pub(super) enum Unfinished {
    /// It did not.
    No(StoreError),
    /// The disk failed while it was made so: the next opening will tell.
    Perhaps,
}
