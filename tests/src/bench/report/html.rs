//! A page with the figures and their plots.

use super::costs::{COSTS, costs};
use super::plot::Over;
use super::{Report, line, plot};
use crate::bench::Problem;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}\
    pre{overflow-x:auto;background:#f6f6f6;padding:1em;font-size:12px}svg{max-width:100%;height:auto}\
    .no{color:#b00020}@media(prefers-color-scheme:dark){body{background:#fff}}";

/// All of it, in one file.
pub(super) fn page(report: &Report) -> Result<String, Problem> {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>hicache bench</title><style>{STYLE}</style><h1>hicache beside the machine's limit</h1><p>{}</p>",
        escape(&report.machine.to_string())
    );
    page += "<h2>Bars</h2><ul>";
    for outcome in report.results.iter().filter(|outcome| !outcome.judged.is_empty()) {
        let class = if outcome.is_met() == Some(true) { "" } else { " class=no" };
        page += &format!("<li{class}>{}</li>", escape(&line(outcome)));
    }
    page += "</ul>";
    for (title, over) in [("Over page sizes", Over::PageSize), ("Over operations in flight", Over::Depth)] {
        page += &format!("<h2>{title}</h2>");
        page.extend(plot::lines_over(report, over)?);
    }
    if let Some(costs) = costs(report) {
        page += &format!("<h2>Where the CPU goes</h2><p>{COSTS}</p><pre>{}</pre>", escape(&costs));
    }
    page += "<h2>Case by case</h2>";
    for outcome in &report.results {
        if let Some(svg) = plot::bars(outcome)? {
            page += &svg;
        }
    }
    page += &format!("<h2>Figures</h2><pre>{}</pre></html>", escape(&report.table()));
    Ok(page)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
