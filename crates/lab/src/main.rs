//! `proteus-lab`: how well the brain does on public data, beside baselines of the same run. Not shipped, and nothing
//! that ships needs it. Must never tune anything on the half that it tests on.

#![allow(clippy::print_stdout, reason = "it prints its results")]

mod trace;

mod method;

mod shift;

mod series;

mod demand;

mod classify;

mod report;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Evaluates the brain on public data.
#[derive(Debug, Parser)]
#[command(name = "proteus-lab", version)]
struct Lab {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// How many VMs that become something else are noticed within six samples, at one false alarm per VM and week
    Shift(Options),
    /// Quantiles of the highest value of the next window, beside simple rules
    Forecast(ForecastOptions),
    /// Into which quarter of its CPU a VM's next day falls, by mean, 95th percentile and most
    Classify(ClassifyOptions),
}

/// What the bench of days takes.
#[derive(Debug, clap::Args)]
struct ClassifyOptions {
    /// Folder with the data: bitbrains-rnd.parquet
    #[arg(long)]
    data: PathBuf,
    /// Where chance begins: the halves, the learning
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to print
    #[arg(long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// What the bench of forecasts takes.
#[derive(Debug, clap::Args)]
struct ForecastOptions {
    /// Folder with the data: planetlab.parquet, bitbrains-rnd.parquet, azure-2017-cpu.parquet, google-cluster-2011.parquet
    #[arg(long)]
    data: PathBuf,
    /// Only this one, by its name without the ending
    #[arg(long)]
    dataset: Option<String>,
    /// Where chance begins: the halves, the learning
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Of so many moments one is a forecast
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Without forests: the experts alone
    #[arg(long)]
    no_forest: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// What the bench of shifts takes.
#[derive(Debug, clap::Args)]
struct Options {
    /// Folder with the data: bitbrains-rnd.parquet, azure-2017-cpu.parquet
    #[arg(long)]
    data: PathBuf,
    /// Where chance begins: the halves, the splices, the learning
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Splices for each VM of the half that is tested on
    #[arg(long, default_value_t = 20)]
    splices: usize,
    /// How to print
    #[arg(long, value_enum, default_value_t = Form::Text)]
    output: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table
    Text,
    /// One object per line
    Json,
}

fn main() -> Result<()> {
    match Lab::parse().bench {
        Bench::Shift(options) => report::print(&shift::run(&options)?, options.output),
        Bench::Forecast(options) => report::print(&demand::run(&options)?, options.output),
        Bench::Classify(options) => report::print(&classify::run(&options)?, options.output),
    }
}
