//! `proteus`: every role and the command line in one binary. Reads what was typed and wires the parts; nothing
//! else happens here.

mod bench;

mod demo;

mod doctor;

mod image;

mod service;

mod serve;

mod state;

mod tls;

use clap::{CommandFactory, Parser};
use proteus_cli::argument::{Cli, Command, OutputForm};
use proteus_cli::client::{Client, ClientError, Connect};
use proteus_cli::command::Session;
use proteus_cli::error::{CommandError, report};
use proteus_cli::terminal;
use proteus_control_plane::store::StoreError;
use proteus_protocol::api::v1::ErrorBody;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(wrong_words(&error)),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::say_aside(format_args!("error: start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli));
    // A thread that still reads the terminal must not hold up the end.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn run(cli: Cli) -> u8 {
    let done = match &cli.command {
        Command::Serve(serve) => serve::serve(&cli.state, serve).await,
        Command::Doctor => doctor::doctor(&cli).await,
        Command::Image(image) => image::build(&cli.state, image, cli.output).await,
        Command::Store(store) => state::store(&cli, store).await,
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "proteus", &mut text);
            // `generate` would panic over a reader that went away.
            terminal::write(&String::from_utf8_lossy(&text));
            Ok(0)
        }
        Command::Demo(args) => demo::run(args, cli.output).await,
        Command::Bench(bench) => bench::run(&cli, bench).await,
        Command::Vm(_)
        | Command::Profile(_)
        | Command::Morph(_)
        | Command::Host(_)
        | Command::Allocation(_)
        | Command::Disarm(_)
        | Command::Arm(_)
        | Command::Audit(_)
        | Command::Token(_)
        | Command::Personality(_)
        | Command::Telemetry(_)
        | Command::Report(_)
        | Command::Top(_) => return ask(&cli).await,
    };
    done.unwrap_or_else(|error| {
        let body = ErrorBody {
            code: "failed".to_owned(),
            message: error.to_string(),
            detail: error.chain().skip(1).map(ToString::to_string).collect(),
            hint: hint_for(&error).map(str::to_owned),
        };
        terminal::write_aside(&report(&body, cli.output));
        1
    })
}

/// What was typed is no command, or asks for help; the exit code.
fn wrong_words(error: &clap::Error) -> u8 {
    let words: Vec<String> = std::env::args().take_while(|word| word != "--").collect();
    let json = words.iter().any(|word| word == "--output=json")
        || words.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json");
    if json && error.use_stderr() {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let detail =
            text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let body = ErrorBody { code: "usage".to_owned(), message, detail, hint: None };
        terminal::write_aside(&report(&body, OutputForm::Json));
    } else {
        // A reader that went away is no failure.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

/// What to do about what whoever starts Proteus can have got wrong.
fn hint_for(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if let Some(StoreError::InUse { .. }) = cause.downcast_ref() {
            return Some("stop that one, or name another folder with `--state DIR`");
        }
        let io: &std::io::Error = cause.downcast_ref()?;
        let busy = io.kind() == std::io::ErrorKind::AddrInUse;
        busy.then_some("name another address with `--listen ADDRESS:PORT`, or none with `--no-http`")
    })
}

/// The way to the Proteus that is meant: the one named, else that of the state folder.
fn client(cli: &Cli) -> Result<Client, ClientError> {
    match &cli.server {
        None => Ok(Client::local(&cli.state)),
        Some(url) => Client::remote(url, cli.token.clone(), Arc::new(tls::Connector::new(cli.ca.clone()))),
    }
}

/// Runs a command that is a request to a server.
async fn ask(cli: &Cli) -> u8 {
    let outcome = match client(cli) {
        Ok(client) => {
            let tls = |ca| -> Arc<dyn Connect> { Arc::new(tls::Connector::new(ca)) };
            Session { client, form: cli.output, tls }.run(&cli.command).await
        }
        Err(error) => Some(Err(CommandError::from(error))),
    };
    match outcome {
        Some(Ok(code)) => code,
        Some(Err(error)) => {
            terminal::write_aside(&report(&error.body(), cli.output));
            error.exit_code()
        }
        None => 2,
    }
}
