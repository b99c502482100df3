//! Runs a tool of the host (`ip`, `tc`, `nft`) with typed arguments. Must never pass text of a profile: what a
//! profile says reaches `nft` as JSON built from types.

use std::process::Stdio;
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
    let command = || format!("{tool} {}", args.join(" "));
    let start_error = |source| ToolError::Start { command: command(), package: package_of(tool), source };
    let mut child = Command::new(tool)
        .args(args)
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
