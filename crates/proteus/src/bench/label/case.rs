//! The work that VMs are given: what prototypes are recorded of, and other work of the same kinds that they are judged
//! at. Must never have a case in both.

/// How a VM is kept busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing is asked of it.
    Idle,
    /// A client in the guests' network: its words, with `{}` for the VM's address.
    Client(&'static [&'static str]),
    /// A script that is run inside, in the service's file system, over and over.
    Inside(&'static str),
}

/// One stretch of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    /// What it is.
    pub(super) label: &'static str,
    /// What is done, in words.
    pub(super) name: &'static str,
    pub(super) work: Work,
    /// Whether prototypes are recorded of it; else it is judged.
    pub(super) recorded: bool,
}

/// A VM and what it does, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) service: &'static str,
    /// Whether its service keeps its data on a disk.
    pub(super) disk: bool,
    pub(super) cases: &'static [Case],
}

const fn learn(label: &'static str, name: &'static str, work: Work) -> Case {
    Case { label, name, work, recorded: true }
}

const fn judge(label: &'static str, name: &'static str, work: Work) -> Case {
    Case { label, name, work, recorded: false }
}

/// Makes what is compressed: 48 MiB of programs and libraries, no two parts alike.
const INPUT: &str = "test -s /data/in || cat /usr/lib/gcc/x86_64-linux-gnu/12/cc1 /usr/lib/x86_64-linux-gnu/*.so.* | head -c 48M >/data/in;";

/// Makes a C file of many functions.
const SOURCE: &str = "mkdir -p /data/o; for f in 1 2 3 4 5 6; do i=0; while [ $i -lt 40 ]; do i=$((i+1)); \
echo \"int f${f}_$i(int *a,int n){int s=$f;for(int j=0;j<n;j++){s+=a[j]*$i;if(s%7==3)a[j]^=s;}return s;}\"; done >/data/$f.c; done;";

/// Where work inside is done.
pub(super) const COMPILER: &str = "compiler";

/// All guests with their work.
pub(super) const GUESTS: [Guest; 5] = [
    Guest {
        service: "nginx",
        disk: false,
        cases: &[
            learn("idle", "nginx, nobody asks", Work::Idle),
            learn(
                "web frontend",
                "nginx, wrk, 1 connection",
                Work::Client(&["wrk", "-t1", "-c1", "-d1h", "http://{}/"]),
            ),
            learn(
                "web frontend",
                "nginx, wrk, 16 connections",
                Work::Client(&["wrk", "-t1", "-c16", "-d1h", "http://{}/"]),
            ),
            learn(
                "web frontend",
                "nginx, wrk, a connection for each request",
                Work::Client(&["wrk", "-t1", "-c4", "-d1h", "-H", "Connection: close", "http://{}/"]),
            ),
            judge(
                "web frontend",
                "nginx, wrk, 4 connections",
                Work::Client(&["wrk", "-t1", "-c4", "-d1h", "http://{}/"]),
            ),
            judge(
                "web frontend",
                "nginx, wrk, 2 connections at a time, one for each request",
                Work::Client(&[
                    "wrk",
                    "-t1",
                    "-c2",
                    "-d1h",
                    "-H",
                    "Connection: close",
                    "http://{}/index.html",
                ]),
            ),
        ],
    },
    Guest {
        service: "redis",
        disk: false,
        cases: &[
            learn(
                "cache",
                "redis, 1 client",
                Work::Client(&["redis-benchmark", "-h", "{}", "-c", "1", "-t", "get,set", "-l", "-q"]),
            ),
            learn(
                "cache",
                "redis, 20 clients, 256 B",
                Work::Client(&[
                    "redis-benchmark",
                    "-h",
                    "{}",
                    "-c",
                    "20",
                    "-d",
                    "256",
                    "-t",
                    "get,set",
                    "-l",
                    "-q",
                ]),
            ),
            learn(
                "cache",
                "redis, 8 clients, 8 requests at once",
                Work::Client(&[
                    "redis-benchmark",
                    "-h",
                    "{}",
                    "-c",
                    "8",
                    "-P",
                    "8",
                    "-t",
                    "get,set",
                    "-l",
                    "-q",
                ]),
            ),
            judge("idle", "redis, nobody asks", Work::Idle),
            judge(
                "cache",
                "redis, 5 clients, 100 B, incr and get",
                Work::Client(&[
                    "redis-benchmark",
                    "-h",
                    "{}",
                    "-c",
                    "5",
                    "-d",
                    "100",
                    "-t",
                    "incr,get",
                    "-l",
                    "-q",
                ]),
            ),
            judge(
                "cache",
                "redis, 50 clients, lists",
                Work::Client(&["redis-benchmark", "-h", "{}", "-c", "50", "-t", "lpush,lpop", "-l", "-q"]),
            ),
        ],
    },
    Guest {
        service: "postgresql",
        disk: true,
        cases: &[
            learn("idle", "PostgreSQL, nobody asks", Work::Idle),
            learn(
                "database",
                "PostgreSQL, pgbench, 1 client",
                Work::Client(&["pgbench", "-n", "-c1", "-T3600", "-h", "{}", "-U", "bench", "bench"]),
            ),
            learn(
                "database",
                "PostgreSQL, pgbench, 6 clients",
                Work::Client(&["pgbench", "-n", "-c6", "-T3600", "-h", "{}", "-U", "bench", "bench"]),
            ),
            learn(
                "database",
                "PostgreSQL, pgbench, 4 clients, reading",
                Work::Client(&["pgbench", "-n", "-S", "-c4", "-T3600", "-h", "{}", "-U", "bench", "bench"]),
            ),
            judge(
                "database",
                "PostgreSQL, pgbench, 3 clients",
                Work::Client(&["pgbench", "-n", "-c3", "-T3600", "-h", "{}", "-U", "bench", "bench"]),
            ),
            judge(
                "database",
                "PostgreSQL, pgbench, 2 clients, reading and simple updates",
                Work::Client(&[
                    "pgbench",
                    "-n",
                    "-b",
                    "select-only@3",
                    "-b",
                    "simple-update@1",
                    "-c2",
                    "-T3600",
                    "-h",
                    "{}",
                    "-U",
                    "bench",
                    "bench",
                ]),
            ),
        ],
    },
    Guest {
        service: COMPILER,
        disk: true,
        cases: &[
            learn(
                "build farm",
                "gcc -O2, one at a time",
                Work::Inside("for f in 1 2 3 4 5 6; do gcc -O2 -c /data/$f.c -o /data/o/$f.o; done"),
            ),
            learn(
                "build farm",
                "gcc -O0, two at a time",
                Work::Inside(
                    "for f in 1 3 5; do gcc -O0 -g -c /data/$f.c -o /data/o/$f.o & gcc -O0 -g -c /data/$((f+1)).c -o /data/o/$((f+1)).o; wait; done",
                ),
            ),
            judge(
                "build farm",
                "gcc -O1 -g, three at a time",
                Work::Inside("for f in 1 2 3; do gcc -O1 -g -c /data/$f.c -o /data/o/$f.o & done; wait"),
            ),
        ],
    },
    Guest {
        service: COMPILER,
        disk: true,
        cases: &[
            learn(
                "batch analytics",
                "xz -1 of a file",
                Work::Inside("xz -1 -k -f -c /data/in >/data/out.xz"),
            ),
            learn("batch analytics", "gzip -6 of a file", Work::Inside("gzip -6 -c /data/in >/data/out.gz")),
            judge("batch analytics", "bzip2 of a file", Work::Inside("bzip2 -c /data/in >/data/out.bz2")),
            judge("idle", "a compiler that has nothing to do", Work::Idle),
        ],
    },
];

/// What is made ready inside before the work of a label begins.
pub(super) fn ready(label: &str) -> Option<&'static str> {
    match label {
        "build farm" => Some(SOURCE),
        "batch analytics" => Some(INPUT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_judged_was_not_recorded() {
        let all: Vec<Case> = GUESTS.iter().flat_map(|guest| guest.cases).copied().collect();
        let (recorded, judged): (Vec<Case>, Vec<Case>) = all.into_iter().partition(|case| case.recorded);
        for case in &judged {
            assert!(
                recorded
                    .iter()
                    .all(|one| one.name != case.name && (one.work != case.work || case.work == Work::Idle))
            );
            assert!(
                recorded.iter().any(|one| one.label == case.label),
                "nothing was learned of {}",
                case.label
            );
        }
    }
}
