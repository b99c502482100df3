//! Words for a Prometheus as the source of a history.

use super::When;
use crate::prometheus::query::{Matcher, OwnQuery, Source};
use clap::Args;
use proteus_model::unit::Millis;
use std::path::PathBuf;

/// Heading of these options.
const HEADING: &str = "From a Prometheus";

/// Where a history is read from, and what of it, where it is no file.
#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub struct FromPrometheus {
    /// Read from this server: http://HOST:9090 or https://HOST:9090, with its path where it is behind one.
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    pub prometheus: Option<String>,
    /// What gathered the metrics: questions for all that it has are known.
    #[arg(long, value_enum, value_name = "WHAT", requires = "prometheus")]
    pub source: Option<Source>,
    /// Which machine is meant, as in `instance="10.0.0.5:9100"`; for the questions of --source. May be given again.
    #[arg(long = "match", value_name = "LABEL=\"VALUE\"", requires = "source")]
    pub matchers: Vec<Matcher>,
    /// A question of your own, in PromQL, instead of or beside those of --source: it must bring one series, in the
    /// metric's unit (cpu: thousandths of a core; memory: MiB; disk_read, sent: KiB/s; `vm history` shows all), as in
    /// `cpu=1000*rate(libvirt_domain_info_cpu_time_seconds_total{domain="web"}[2m])`. May be given again.
    #[arg(long = "query", value_name = "METRIC=PROMQL", requires = "prometheus")]
    pub queries: Vec<OwnQuery>,
    /// From when on: so long ago, as in 30d or 12h, or 2026-11-28T18:00:00Z.
    #[arg(long, value_name = "WHEN", default_value = "60d", requires = "prometheus")]
    pub since: When,
    /// Until when; without: now.
    #[arg(long, value_name = "WHEN", requires = "prometheus")]
    pub until: Option<When>,
    /// Over how long a rate is told, for the questions of --source: at least twice as long as from scrape to scrape.
    #[arg(long, value_name = "DURATION", default_value = "2m", requires = "prometheus")]
    pub window: Millis,
    /// Longest wait for one answer.
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "prometheus")]
    pub timeout: Millis,
    /// A file that has the token for the server, and nothing else.
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub prometheus_token_file: Option<PathBuf>,
    /// Certificate authority of the server (PEM), for https.
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    pub prometheus_ca: Option<PathBuf>,
}
