//! Runs a tool of the host (`ip`, `tc`, `nft`) with typed arguments. Must never pass text of a profile: what a
//! profile says reaches `nft` as JSON built from types.
//!
//! A tool outlives a Proteus that is killed, and what it was told to do takes effect when the kernel lets it: the next
//! Proteus waits for it, or it would read what is about to change.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not there or could not start.
    #[error("run `{command}` (is the package {package} installed?)")]
    Start {
        /// The command line, for people.
        command: String,
        /// Debian's package that brings the tool.
        package: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` said: {said}")]
    Failed {
        /// The command line, for people.
        command: String,
        /// What it printed on standard error, cut.
        said: String,
    },
    /// One that a Proteus that was killed had run does not end.
    #[error(
        "process {pid}, which an earlier Proteus had run on the guests' network, does not end: look at it, end it"
    )]
    Left {
        /// Its number.
        pid: u32,
    },
}

fn package_of(tool: &str) -> &'static str {
    match tool {
        "ip" | "tc" => "iproute2",
        "nft" => "nftables",
        "qemu-img" => "qemu-utils",
        "dnsmasq" => "dnsmasq-base",
        _ => "qemu-system-x86",
    }
}

/// Runs `tool args`, feeding it `input`; its standard output on success.
pub(crate) async fn run(
    tool: &'static str,
    args: &[&str],
    input: Option<&[u8]>,
) -> Result<String, ToolError> {
    run_marked(tool, args, input, None).await
}

/// In the environment of the tools that change something of an owner's.
const MARK: &str = "PROTEUS_TOOL_OF";
/// Longest wait for the tools of a Proteus that was killed. Each takes milliseconds, and waits for others at the kernel.
const LEFT_LIMIT: Duration = Duration::from_secs(60);

/// Waits until no tool works for `owner` any more. Only right before the first is run.
pub(crate) async fn wait_left(owner: &str) -> Result<(), ToolError> {
    let mark = format!("{MARK}={owner}");
    let left = || {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let marked = |path: &PathBuf| {
            let environment = std::fs::read(path.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
        };
        let path = all.map(|entry| entry.path()).find(marked)?;
        path.file_name()?.to_str()?.parse::<u32>().ok()
    };
    let start = Instant::now();
    while let Some(pid) = left() {
        if start.elapsed() > LEFT_LIMIT {
            return Err(ToolError::Left { pid });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The same for a tool that works for `owner`. Not for one that stays in the background.
pub(crate) async fn run_marked(
    tool: &'static str,
    args: &[&str],
    input: Option<&[u8]>,
    owner: Option<&str>,
) -> Result<String, ToolError> {
    let command = || format!("{tool} {}", args.join(" "));
    let start_error = |source| ToolError::Start { command: command(), package: package_of(tool), source };
    let mut child = Command::new(tool)
        .args(args)
        .envs(owner.map(|owner| (MARK, owner)))
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start_error)?;
    if let (Some(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
        // A tool that ends early closes its input; its exit status tells more than the broken pipe.
        let _ = stdin.write_all(bytes).await;
    }
    let output = child.wait_with_output().await.map_err(start_error)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect();
    Err(ToolError::Failed { command: command(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_was_left_is_waited_for_and_nobody_elses() {
        let owner = format!("proteus-test-{}", std::process::id());
        let mut tool = Command::new("sleep").arg("1").env(MARK, &owner).spawn().unwrap();
        wait_left("proteus-nobody").await.unwrap();
        let waited = wait_left(&owner);
        tokio::pin!(waited);
        // Its environment is there once it has become `sleep`.
        let environment = format!("/proc/{}/environ", tool.id().unwrap());
        while !std::fs::read_to_string(&environment).is_ok_and(|text| text.contains(&owner)) {
            tokio::task::yield_now().await;
        }
        // Cancel-safe: the tool is only waited for.
        tokio::select! {
            biased;
            done = &mut waited => panic!("did not wait: {done:?}"),
            () = std::future::ready(()) => {}
        }
        let (ended, waited) = tokio::join!(tool.wait(), waited);
        assert!(ended.unwrap().success());
        waited.unwrap();
    }
}
