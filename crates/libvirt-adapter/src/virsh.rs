//! The way to libvirt: the program `virsh` on a read-only connection, so that nothing is linked against libvirt and a
//! library that hangs hangs in another process. Must never run a command that is not in [`COMMANDS`], nor without `-r`,
//! nor wait longer than its limit.

use crate::domstats::{self, Listing};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// All that is ever run. Each only reads, and libvirt would refuse another on such a connection.
pub const COMMANDS: [&str; 3] = ["list", "echo", "domstats"];
/// The bulk question of a round: `--nowait` leaves out what a VM that does not answer would keep us waiting for.
const DOMSTATS: &str = "domstats --raw --nowait --state --cpu-total --balloon --vcpu --interface --block";
/// Most that is read of an answer: 10 000 domains of 40 lines of 40 bytes are 16 MB.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Most that is read of what it complains of.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;
/// Most of that that is told: a path and what is wrong with it.
const COMPLAINT_CHARS_MAX: usize = 1000;
/// Longest wait for a killed process to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(2);
/// What would make its answer another one: variables of its environment that are taken away.
const STRANGE: [&str; 7] = [
    "LIBVIRT_DEBUG",
    "LIBVIRT_LOG_FILTERS",
    "LIBVIRT_LOG_OUTPUTS",
    "LIBVIRT_DEFAULT_URI",
    "VIRSH_DEFAULT_CONNECT_URI",
    "VIRSH_DEBUG",
    "VIRSH_LOG_FILE",
];

/// Why libvirt could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum VirshError {
    /// The program did not start.
    #[error("run {program}")]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its answer could not be read.
    #[error("read what virsh says")]
    Read(#[source] io::Error),
    /// No answer in time.
    #[error("libvirt did not answer within {} s", limit.as_secs_f32())]
    Hung {
        /// So long was waited.
        limit: Duration,
    },
    /// It said no.
    #[error("libvirt says: {said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// What it said is nothing that we know.
    #[error("the answer of virsh is not understood")]
    Strange(#[source] domstats::AnswerError),
}

impl VirshError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "install virsh: the package libvirt-clients has it (`--virsh FILE` names another)"
            }
            Self::Start { .. } => "may this user run it?",
            Self::Read(_) => "it is tried again",
            Self::Hung { .. } => {
                "virsh was killed; a VM whose QEMU does not answer holds up the first question alone, so it is tried again"
            }
            Self::Refused { said } => refused(said),
            Self::Strange(_) => "`virsh -r domstats --raw` shows the answer; is this virsh older than 4.5?",
        }
    }
}

fn refused(said: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["Permission denied", "authentication", "access denied", "polkit", "authorized"]) {
        "may this user open libvirt's read-only socket? root may, and whom `unix_sock_ro_perms` and `auth_unix_ro` in \
         libvirtd.conf let"
    } else if has(&[
        "no connection driver available",
        "Cannot parse URI",
        "unable to parse URI",
        "unknown URI",
    ]) {
        "name another URI with `--connect`, as qemu:///system"
    } else if has(&[
        "No such file or directory",
        "Connection refused",
        "reset by peer",
        "End of file",
        "broken",
    ]) {
        "does libvirtd (or virtqemud) run on that host? `--connect URI` names another"
    } else {
        "`virsh -r -c URI list --all` as the same user tells more"
    }
}

/// The way to one libvirt.
#[derive(Debug, Clone)]
pub struct Virsh {
    /// The program.
    pub program: PathBuf,
    /// Which libvirt, as `qemu:///system`.
    pub uri: String,
    /// Longest wait for an answer.
    pub limit: Duration,
}

/// Reads up to a limit; what is beyond it is a fault.
async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Kills it, and whatever it started (as `ssh`), by its own group.
async fn kill(mut child: Child) {
    let group = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(group) = group {
        // It may have ended by itself meanwhile; until it is waited for its number is nobody else's.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = tokio::time::timeout(GONE_LIMIT, child.wait()).await;
}

impl Virsh {
    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-r").arg("-c").arg(&self.uri).arg(words);
        for name in STRANGE {
            command.env_remove(name);
        }
        // Autostart would begin a daemon for a user that has none.
        command.env("LC_ALL", "C").env("LIBVIRT_AUTOSTART", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs commands, and gives what they say. An error where one of them fails.
    async fn run(&self, words: &str) -> Result<Vec<u8>, VirshError> {
        debug_assert!(
            words.split(';').all(|one| COMMANDS.contains(&one.split_whitespace().next().unwrap_or("")))
        );
        let start = |source| VirshError::Start { program: self.program.clone(), source };
        let mut child = self.command(words).spawn().map_err(start)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let answer = async {
            let (out, err) = tokio::join!(read(out, ANSWER_BYTES_MAX), read(err, COMPLAINT_BYTES_MAX));
            Ok::<_, io::Error>((out?, err.unwrap_or_default(), child.wait().await?))
        };
        let (out, err, status) = match tokio::time::timeout(self.limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                kill(child).await;
                return Err(VirshError::Read(error));
            }
            Err(_) => {
                kill(child).await;
                return Err(VirshError::Hung { limit: self.limit });
            }
        };
        if status.success() {
            return Ok(out);
        }
        let said = String::from_utf8_lossy(&err);
        let lines: Vec<&str> = said.lines().map(|line| line.trim_start_matches("error: ").trim()).collect();
        let said = lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let said = if said.is_empty() { format!("nothing, and virsh ended with {status}") } else { said };
        Err(VirshError::Refused { said: crate::text::shown_within(&said, COMPLAINT_CHARS_MAX) })
    }

    /// One round: all domains and what is counted of them, by one process and one connection.
    pub async fn domains(&self) -> Result<Listing, VirshError> {
        // Parts the two answers: nobody who names a domain can know it.
        let mark = format!("proteus-{}-{}", std::process::id(), crate::text::now().0);
        let answer = self.run(&format!("list --all --uuid --name; echo {mark}; {DOMSTATS}")).await?;
        domstats::parse(&String::from_utf8_lossy(&answer), &mark).map_err(VirshError::Strange)
    }

    /// The plain bulk question, for who measures what it costs. Bytes of the answer.
    pub async fn plain(&self) -> Result<usize, VirshError> {
        Ok(self.run("domstats --raw").await?.len())
    }
}

#[cfg(test)]
mod tests;
