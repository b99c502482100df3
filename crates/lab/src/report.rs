//! What a bench found, as a table or one JSON object per line.

use crate::Form;
use anyhow::Result;
use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub bench: &'static str,
    pub dataset: String,
    pub resource: &'static str,
    pub horizon: &'static str,
    pub method: String,
    pub metric: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub n: usize,
    pub seed: u64,
}

/// Prints figures.
pub fn print(figures: &[Figure], form: Form) -> Result<()> {
    if form == Form::Json {
        for figure in figures {
            println!("{}", serde_json::to_string(figure)?);
        }
        return Ok(());
    }
    println!(
        "{:<19} {:<8} {:<7} {:<36} {:<25} {:>9} {:<12} {:>7}",
        "DATASET", "RESOURCE", "WINDOW", "METHOD", "METRIC", "VALUE", "UNIT", "N"
    );
    for figure in figures {
        println!(
            "{:<19} {:<8} {:<7} {:<36} {:<25} {:>9.3} {:<12} {:>7}",
            figure.dataset,
            figure.resource,
            figure.horizon,
            figure.method,
            figure.metric,
            figure.value,
            figure.unit,
            figure.n
        );
    }
    Ok(())
}
