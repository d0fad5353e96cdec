//! `hicache list`: the pages of a store.

use std::borrow::Cow;
use std::path::PathBuf;

use clap::Args;
use hicache::ListedPage;
use hicache_page_store::inspect;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::Output;

/// Arguments of `hicache list`.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Storage directory
    dir: PathBuf,
    /// Only pages whose name begins so: the text that a page was stored under, else its hash in hexadecimal
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
    /// Print one JSON object a page and line: `namespace` (fingerprint), `pool`, `name`, `bytes`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    namespace: &'a str,
    #[serde(flatten)]
    page: &'a ListedPage,
}

pub(crate) fn run(arguments: &ListArguments, output: &mut Output) -> Result<Exit, Failure> {
    for set in inspect::sets(&arguments.dir).map_err(|error| Failure::unreadable(&error))? {
        for page in set.list(&arguments.prefix)? {
            if arguments.json {
                output.json(&Line { namespace: &set.fingerprint, page: &page })?;
            } else {
                // The name last: it may have spaces, and a table would have to know all names first.
                let ListedPage { pool, name, bytes } = &page;
                let name = on_one_line(name);
                output.line(format_args!("{}  {pool:8} {bytes:>10}  {name}", set.fingerprint))?;
            }
            if output.is_closed() {
                return Ok(Exit::Good);
            }
        }
    }
    Ok(Exit::Good)
}

/// Names are any text: what would break the line, or be an order to the terminal, is escaped.
fn on_one_line(name: &str) -> Cow<'_, str> {
    if name.contains(char::is_control) { name.escape_debug().to_string().into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(on_one_line("a page, d'été"), "a page, d'été");
        assert_eq!(on_one_line("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
    }
}
