//! The documentation of the configuration, made from the table of fields.

use std::fmt::Write;

use super::builder::FILE_VARIABLE;
use super::field::fields;
use super::foreign::{FALLBACKS, FOREIGN};

/// The page `docs/configuration.md`, as Markdown; the same in every build.
pub fn docs() -> String {
    let mut page = format!(
        "# Configuration\n\n\
         Made from the code by `hicache::config::docs()`; a test keeps it current. Change the table of fields instead.\n\n\
         A value is taken from the highest of these layers that gives one:\n\n\
         1. explicit values: flags of `hicache`, arguments of a program, `extra_config` of SGLang\n\
         2. environment variables named after the fields (below)\n\
         3. environment variables of SGLang's NIXL connector (further below)\n\
         4. a file, named explicitly or by `{FILE_VARIABLE}`: TOML, JSON or YAML by its ending, or else by trying\n\
         5. variables and the profile of AWS's that NIXL's object plugin would read by itself (at the end)\n\
         6. defaults\n\n\
         `hicache config explain` prints every value and where it came from. Unknown fields and bad values are refused by\n\
         name. A variable that is empty counts as not set, and so does `null` in a file. Every value may be written as text\n\
         (`\"true\"`, `\"64\"`). Sizes are integers or have a unit: `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `kB`, `MB`,\n\
         `GB`, `TB` (powers of 1000).\n\n\
         | Field | Must be | Default | Variable | Meaning |\n|---|---|---|---|---|\n"
    );
    for field in fields() {
        let default =
            if field.default.is_empty() { "not set".to_owned() } else { format!("`{}`", field.default) };
        let (must_be, help) = (cell(&field.kind.describe()), cell(field.help));
        let _ =
            writeln!(page, "| `{}` | {must_be} | {default} | `{}` | {help} |", field.name, field.variable());
    }
    page.push_str(
        "\nA field with a dot stands in a table: `posix_uring.depth` is `depth` under `[posix_uring]` in TOML.\n\n\
         ## Variables of SGLang's NIXL connector\n\n| Variable | Field | Meaning |\n|---|---|---|\n",
    );
    for foreign in &FOREIGN {
        let _ = writeln!(page, "| `{}` | `{}` | {} |", foreign.variable, foreign.field, cell(foreign.help));
    }
    page.push_str("\n## Variables of AWS's\n\n| Variable | Field | Meaning |\n|---|---|---|\n");
    for fallback in &FALLBACKS {
        let _ =
            writeln!(page, "| `{}` | `{}` | {} |", fallback.variable, fallback.field, cell(fallback.help));
    }
    page.push_str(
        "\nWhere none of them gives an address and there is a bucket, it is `endpoint_url` of the profile that `AWS_PROFILE` names \
         (`default` where it names none), in `AWS_CONFIG_FILE` or `~/.aws/config`: of its `services` for `s3`, else its own. With \
         `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` or the profile's `ignore_configured_endpoint_urls` true there is no address of \
         AWS's settings.\n",
    );
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
