//! `proteus-libvirt`: the libvirt adapter's program. Reads what was typed and runs it; nothing else happens here.

use clap::Parser;
use proteus_cli::argument::OutputForm;
use proteus_cli::error::report;
use proteus_cli::terminal;
use proteus_libvirt::argument::{Cli, Command};
use proteus_libvirt::{bench, command, watch};
use proteus_protocol::api::v1::ErrorBody;
use std::io;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("PROTEUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::say_aside(format_args!("error: start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(&cli));
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: &Cli) -> u8 {
    let target = &cli.target;
    let done = match &cli.command {
        Command::List => command::list(target).await,
        Command::Show(args) => command::show(target, args).await,
        Command::Export(args) => command::export(target, args),
        Command::Bench(args) => bench::run(target, args).await,
        Command::Watch(args) => return watched(watch::watch(target, args).await, target.output),
    };
    let Err(error) = done else { return 0 };
    terminal::write_aside(&report(&error.body(), target.output));
    error.exit_code()
}

/// The exit code of a watch, which was told to end or could not begin.
fn watched(done: anyhow::Result<()>, form: OutputForm) -> u8 {
    let Err(error) = done else { return 0 };
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    let hint = match io {
        Some(io::ErrorKind::AddrInUse) => "name another address with `--listen`",
        Some(io::ErrorKind::PermissionDenied) => {
            "name a folder that this user may write to with `--state DIR`"
        }
        _ => "stop that one, or name another folder with `--state DIR`",
    };
    let body = ErrorBody {
        code: "failed".to_owned(),
        message: error.to_string(),
        detail: error.chain().skip(1).map(ToString::to_string).collect(),
        hint: Some(hint.to_owned()),
    };
    terminal::write_aside(&report(&body, form));
    1
}
