//! Bars with their spread, and lines over page sizes.

use plotters::prelude::*;

use super::{Report, spread};
use crate::bench::Problem;
use crate::bench::measure::Measure;
use crate::bench::rounds::{Outcome, Played};

const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 95, 115), RGBColor(148, 148, 148), RGBColor(202, 103, 2), RGBColor(155, 34, 38)];

fn rates(played: &Played) -> Vec<f64> {
    played.measures.iter().map(Measure::gigabytes_a_second).collect()
}

/// GB/s of every competitor of a case: the median as a bar, the least and the most as a whisker. Nothing without bytes.
pub(super) fn bars(outcome: &Outcome) -> Result<Option<String>, Problem> {
    let rows: Vec<_> = outcome.played.iter().map(|played| (played.name, spread(&rates(played)))).collect();
    let most = rows.iter().map(|(_, (.., most))| *most).fold(0.0, f64::max);
    if !(most.is_finite() && most > 0.0) {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let height = 70 + 34 * rows.len() as u32;
        let area = SVGBackend::with_string(&mut svg, (760, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}, GB/s", outcome.name), ("sans-serif", 16))
            .margin(8)
            .set_label_area_size(LabelAreaPosition::Left, 140)
            .set_label_area_size(LabelAreaPosition::Bottom, 24)
            .build_cartesian_2d(0.0..most * 1.05, 0.0..rows.len() as f64)?;
        let name = |at: &f64| {
            let row = rows.len() as f64 - at - 0.5;
            let is_row = row.fract().abs() < 1e-6 && row >= 0.0;
            rows.get(row as usize).filter(|_| is_row).map_or_else(String::new, |(name, _)| (*name).to_owned())
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(2 * rows.len() + 1)
            .y_label_formatter(&name)
            .draw()?;
        for (at, (_, (middle, least, highest))) in rows.iter().enumerate() {
            let y = rows.len() as f64 - at as f64 - 0.5;
            let colour = COLOURS[at % COLOURS.len()];
            let bar = Rectangle::new([(0.0, y - 0.3), (*middle, y + 0.3)], colour.filled());
            let whisker = PathElement::new(vec![(*least, y), (*highest, y)], BLACK.stroke_width(2));
            chart.draw_series([bar])?;
            chart.draw_series([whisker])?;
        }
        area.present()?;
    }
    Ok(Some(svg))
}

/// The sizes in the names of the cases, as positions.
const SIZES: [&str; 3] = ["64K", "512K", "2M"];

/// A plot for each kind of work that was measured with several page sizes, a line for each competitor.
pub(super) fn over_sizes(report: &Report) -> Result<Vec<String>, Problem> {
    let mut kinds: Vec<String> = Vec::new();
    for outcome in &report.results {
        if let Some(kind) = without_size(&outcome.name).filter(|kind| !kinds.contains(kind)) {
            kinds.push(kind);
        }
    }
    kinds.iter().filter_map(|kind| lines(report, kind).transpose()).collect()
}

fn without_size(name: &str) -> Option<String> {
    let words: Vec<&str> = name.split(' ').filter(|word| !SIZES.contains(word)).collect();
    (words.len() < name.split(' ').count()).then(|| words.join(" "))
}

fn lines(report: &Report, kind: &str) -> Result<Option<String>, Problem> {
    let mut points: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for outcome in
        report.results.iter().filter(|outcome| without_size(&outcome.name).as_deref() == Some(kind))
    {
        let size = SIZES.iter().position(|size| outcome.name.split(' ').any(|word| word == *size));
        let Some(x) = size else { continue };
        for played in &outcome.played {
            let point = (x as f64, spread(&rates(played)).0);
            match points.iter_mut().find(|(name, _)| *name == played.name) {
                Some((_, line)) => line.push(point),
                None => points.push((played.name, vec![point])),
            }
        }
    }
    if points.iter().all(|(_, line)| line.len() < 2) {
        return Ok(None);
    }
    let most = points.iter().flat_map(|(_, line)| line).map(|(_, y)| *y).fold(0.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (760, 320)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{kind}, GB/s over page size"), ("sans-serif", 16))
            .margin(8)
            .set_label_area_size(LabelAreaPosition::Left, 40)
            .set_label_area_size(LabelAreaPosition::Bottom, 24)
            .build_cartesian_2d(-0.2..2.2, 0.0..most * 1.1)?;
        let name = |at: &f64| {
            let is_size = (at - at.round()).abs() < 1e-6 && *at >= 0.0;
            SIZES
                .get(at.round() as usize)
                .filter(|_| is_size)
                .map_or_else(String::new, |size| (*size).to_owned())
        };
        chart.configure_mesh().x_labels(13).x_label_formatter(&name).draw()?;
        for (at, (name, line)) in points.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(line.iter().copied(), colour.stroke_width(2)).point_size(4))?
                .label(*name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(Some(svg))
}
