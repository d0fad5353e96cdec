//! `hicache config explain`: every value and where it came from.

use clap::Args;
use hicache::Explained;
use serde::Serialize;

use crate::arguments::{self, ConfigArguments};
use crate::exit::{Exit, Failure};
use crate::output::{Output, table};

/// Arguments of `hicache config explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Print one JSON object: `fields` (field, value, text, origin, variable, help) and `warnings`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    fields: &'a [Explained],
    warnings: &'a [String],
}

pub(crate) fn run(arguments: &ExplainArguments, output: &mut Output) -> Result<Exit, Failure> {
    let config = arguments::build(arguments.config.builder())?;
    let fields = config.explain();
    if arguments.json {
        output.json(&Report { fields: &fields, warnings: config.warnings() })?;
        return Ok(Exit::Good);
    }
    let mut rows = table(["field", "value", "origin", "environment variable"]);
    for field in &fields {
        rows.add_row([field.field, &field.text, &field.origin.to_string(), &field.variable]);
    }
    output.line(rows)?;
    Ok(Exit::Good)
}
