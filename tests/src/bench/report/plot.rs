//! Bars with their spread, and lines over page sizes and depths.

use plotters::prelude::*;

use super::{Report, spread};
use crate::bench::Problem;
use crate::bench::measure::Measure;
use crate::bench::rounds::{Outcome, Played};
use crate::bench::spec::Spec;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 95, 115),
    RGBColor(148, 148, 148),
    RGBColor(202, 103, 2),
    RGBColor(155, 34, 38),
    RGBColor(90, 60, 140),
    RGBColor(60, 130, 60),
];

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

/// What lines go over: a figure of a case's spec, in words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    PageSize,
    Depth,
}

impl Over {
    fn of(self, spec: &Spec) -> u64 {
        match self {
            Self::PageSize => spec.page_bytes as u64,
            Self::Depth => u64::from(spec.depth),
        }
    }

    fn label(self, value: u64) -> String {
        match self {
            Self::PageSize if value >= 1 << 20 => format!("{}M", value >> 20),
            Self::PageSize => format!("{}K", value >> 10),
            Self::Depth => value.to_string(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::PageSize => "page size",
            Self::Depth => "operations in flight",
        }
    }

    /// What makes two cases points of one line: everything else.
    fn kind(self, spec: &Spec) -> Spec {
        let mut kind = Spec { directory: std::path::PathBuf::new(), ..spec.clone() };
        match self {
            Self::PageSize => (kind.page_bytes, kind.pages, kind.round_pages) = (0, 0, 0),
            Self::Depth => kind.depth = 0,
        }
        kind
    }
}

/// A plot for each kind of work that was measured at several points, a line for each competitor.
pub(super) fn lines_over(report: &Report, over: Over) -> Result<Vec<String>, Problem> {
    let mut groups: Vec<Vec<&Outcome>> = Vec::new();
    for outcome in report.results.iter().filter(|outcome| outcome.played[0].measures[0].bytes > 0) {
        let kind = over.kind(&outcome.played[0].spec);
        match groups.iter_mut().find(|group| over.kind(&group[0].played[0].spec) == kind) {
            Some(group) => group.push(outcome),
            None => groups.push(vec![outcome]),
        }
    }
    groups.into_iter().filter(|group| group.len() > 1).map(|group| lines(&group, over)).collect()
}

fn lines(group: &[&Outcome], over: Over) -> Result<String, Problem> {
    let mut group = group.to_vec();
    group.sort_by_key(|outcome| over.of(&outcome.played[0].spec));
    let mut points: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for (x, outcome) in group.iter().enumerate() {
        for played in &outcome.played {
            let point = (x as f64, spread(&rates(played)).0);
            match points.iter_mut().find(|(name, _)| *name == played.name) {
                Some((_, line)) => line.push(point),
                None => points.push((played.name, vec![point])),
            }
        }
    }
    let most = points.iter().flat_map(|(_, line)| line).map(|(_, y)| *y).fold(0.0, f64::max);
    let last = group.len() as f64 - 1.0;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (760, 320)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}, GB/s over {}", group[0].name, over.title()), ("sans-serif", 16))
            .margin(8)
            .set_label_area_size(LabelAreaPosition::Left, 40)
            .set_label_area_size(LabelAreaPosition::Bottom, 24)
            .build_cartesian_2d(-0.2..last + 0.2, 0.0..most * 1.1)?;
        let name = |at: &f64| {
            let is_point = (at - at.round()).abs() < 1e-6 && *at >= 0.0;
            let outcome = group.get(at.round() as usize).filter(|_| is_point);
            outcome.map_or_else(String::new, |outcome| over.label(over.of(&outcome.played[0].spec)))
        };
        chart.configure_mesh().x_labels(5 * group.len()).x_label_formatter(&name).draw()?;
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
    Ok(svg)
}
