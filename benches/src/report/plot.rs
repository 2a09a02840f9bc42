//! The pictures, as SVG. Their background is white, so that they are readable on dark pages too.

use std::collections::BTreeSet;

use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints as _, IntoLogRange as _};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::measures::sized_by;
use super::{
    CONTESTANTS, figure, find, groups, number, place_of_contestant, round_trips, slug, thousands,
};
use crate::record::{Results, Row, Unit};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The contestants' colours, in their order, and that of any other; told apart by the colour-blind
/// as well.
const COLOURS: [RGBColor; CONTESTANTS.len() + 1] = [
    RGBColor(0, 90, 181),
    RGBColor(44, 135, 207),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
    RGBColor(110, 110, 110),
    RGBColor(160, 160, 160),
    RGBColor(95, 85, 130),
    RGBColor(130, 120, 165),
    RGBColor(165, 155, 200),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(140, 86, 75),
    RGBColor(190, 180, 20),
];

const GRID: RGBColor = RGBColor(225, 225, 225);
const WIDTH: u32 = 960;
const PANEL_HEIGHT: u32 = 260;
const TOP: u32 = 54;

/// All pictures, each with its file's name.
pub(super) fn pictures(results: &Results) -> anyhow::Result<Vec<(String, String)>> {
    let mut pictures = Vec::new();
    let measures: BTreeSet<_> = results.rows.iter().map(|row| row.measure.as_str()).collect();
    for measure in measures {
        for (group, backends) in groups(results) {
            if let Some(svg) = growth(results, measure, &backends)? {
                pictures.push((format!("{}-{group}.svg", slug(measure)), svg));
            }
        }
    }
    if let Some(svg) = bars(results, "acquire and release")? {
        pictures.push((slug("acquire and release") + ".svg", svg));
    }
    Ok(pictures)
}

/// The medians against the size, a panel for each backend, all of one scale.
fn growth(results: &Results, measure: &str, backends: &[&str]) -> anyhow::Result<Option<String>> {
    let shown = |row: &&Row| {
        row.measure == measure
            && row.size.is_some()
            && row.median > 0.0
            && backends.contains(&row.backend.as_str())
    };
    let rows: Vec<_> = results.rows.iter().filter(shown).collect();
    let sizes: BTreeSet<_> = rows.iter().filter_map(|row| row.size).collect();
    if sizes.len() < 2 {
        return Ok(None);
    }
    let there = |backend: &&&str| rows.iter().any(|row| row.backend == ***backend);
    let backends: Vec<&str> = backends.iter().filter(there).copied().collect();
    let columns = backends.len().clamp(2, 3);
    let lines = backends.len().div_ceil(columns);
    let size = (WIDTH, PANEL_HEIGHT * lines as u32 + TOP);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (top, panels) = root.split_vertically(TOP);
        let of = sized_by(measure);
        top.draw(&Text::new(format!("{measure}, by the number of {of}"), (10, 8), font(16)))?;
        legend(&top, &rows)?;
        let medians: Vec<_> = rows.iter().map(|row| row.median).collect();
        let scale = Scale::over(sizes, &medians);
        let panels = panels.split_evenly((lines, columns));
        for (area, backend) in panels.iter().zip(backends) {
            let rows = rows.iter().copied().filter(|row| row.backend == backend).collect();
            panel(area, backend, rows, &scale)?;
        }
        root.present()?;
    }
    Ok(Some(svg))
}

/// What the panels of a picture share.
struct Scale {
    sizes: Vec<f64>,
    steps: Vec<f64>,
}

impl Scale {
    /// Steps of 1, 2 and 5 around all values, or of 1 if that would be too many.
    fn over(sizes: BTreeSet<u64>, values: &[f64]) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        // From a decade below, so that there is a step beneath any value.
        let decades = least.log10().floor() as i32 - 1..=most.log10().ceil() as i32;
        let fine: Vec<f64> = decades
            .flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)))
            .collect();
        let mut to = fine.iter().position(|step| *step >= most).unwrap_or(fine.len() - 1);
        let mut from = fine.iter().rposition(|step| *step <= least).unwrap_or(0);
        from = from.min(to.saturating_sub(1));
        let mut every = 1;
        if to - from >= 8 {
            (from, to, every) = (from / 3 * 3, to.div_ceil(3) * 3, 3);
        }
        let steps = fine.into_iter().take(to + 1).skip(from).step_by(every).collect();
        Self { sizes: sizes.into_iter().map(|size| size as f64).collect(), steps }
    }
}

fn ends(values: &[f64]) -> (f64, f64) {
    (values.first().copied().unwrap_or(1.0), values.last().copied().unwrap_or(10.0))
}

fn panel(area: &Area<'_>, backend: &str, rows: Vec<&Row>, scale: &Scale) -> anyhow::Result<()> {
    let (unit, [(x0, x1), (y0, y1)]) = (rows[0].unit, [ends(&scale.sizes), ends(&scale.steps)]);
    // Some room beside the first and the last point.
    let room = (x1 / x0).powf(0.08);
    let mut chart = ChartBuilder::on(area)
        .caption(backend, font(14))
        .margin(10)
        .x_label_area_size(26)
        .y_label_area_size(66)
        .build_cartesian_2d(
            (x0 / room..x1 * room).log_scale().with_key_points(scale.sizes.clone()),
            (y0..y1).log_scale().with_key_points(scale.steps.clone()),
        )?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(GRID)
        .label_style(font(12))
        .x_label_formatter(&|size| thousands(*size as u64))
        .y_label_formatter(&|value| label(*value, unit))
        .draw()?;
    for contestant in names(&rows) {
        let of_it = rows.iter().filter(|row| row.contestant == contestant);
        let points: Vec<_> = of_it.filter_map(|row| Some((row.size? as f64, row.median))).collect();
        let style = colour(contestant).stroke_width(2);
        chart.draw_series(LineSeries::new(points.clone(), style))?;
        let dot = |point: (f64, f64)| Circle::new(point, 3, colour(contestant).filled());
        chart.draw_series(points.into_iter().map(dot))?;
    }
    Ok(())
}

/// A step of an axis, without the zeros of three digits.
fn label(value: f64, unit: Unit) -> String {
    let text = figure(value, unit);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    format!("{number} {unit}").trim_end().to_owned()
}

fn names<'a>(rows: &[&'a Row]) -> Vec<&'a str> {
    let names: BTreeSet<_> = rows
        .iter()
        .map(|row| (place_of_contestant(&row.contestant), row.contestant.as_str()))
        .collect();
    names.into_iter().map(|(_, name)| name).collect()
}

fn legend(area: &Area<'_>, rows: &[&Row]) -> anyhow::Result<()> {
    let mut x = 10;
    for name in names(rows) {
        area.draw(&Rectangle::new([(x, 35), (x + 14, 41)], colour(name).filled()))?;
        area.draw(&Text::new(name.to_owned(), (x + 19, 32), font(13)))?;
        // About so wide: how the reader's font runs is not known here.
        x += 40 + 7 * name.len() as i32;
    }
    Ok(())
}

/// Where a bar is cut, lest one that polls leaves nothing to see of the others.
const CUT: f64 = 12.0;
const BAR: i32 = 18;
const LEFT: i32 = 110;
const ROUND_TRIP: f64 = 50.0;

/// The medians in round trips, a bar for each contestant over each backend.
fn bars(results: &Results, measure: &str) -> anyhow::Result<Option<String>> {
    let groups = groups(results);
    let mut backends = Vec::new();
    for backend in groups.iter().flat_map(|(_, backends)| backends) {
        let of_it = |row: &&Row| row.backend == **backend && row.measure == measure;
        let rows: Vec<_> = results.rows.iter().filter(of_it).collect();
        let bars = names(&rows).into_iter().filter_map(|name| {
            let row = find(results, [backend, name, measure], None)?;
            Some((name, round_trips(results, row)?))
        });
        let bars: Vec<_> = bars.collect();
        if !bars.is_empty() {
            backends.push((*backend, bars));
        }
    }
    if backends.is_empty() {
        return Ok(None);
    }
    let bar_count: usize = backends.iter().map(|(_, bars)| bars.len()).sum();
    let height = 60 + BAR * bar_count as i32 + 12 * backends.len() as i32;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let title = format!("{measure}, in round trips of the bare client that write");
        root.draw(&Text::new(title, (10, 8), font(16)))?;
        for trips in (0..=CUT as i32).step_by(2) {
            let x = LEFT + (f64::from(trips) * ROUND_TRIP) as i32;
            root.draw(&PathElement::new([(x, 50), (x, height - 8)], GRID))?;
            let style = font(12).pos(Pos::new(HPos::Center, VPos::Top));
            root.draw(&Text::new(trips.to_string(), (x, 34), style))?;
        }
        let mut y = 56;
        for (backend, bars) in backends {
            root.draw(&Text::new(backend.to_owned(), (10, y + 2), font(13)))?;
            for (contestant, trips) in bars {
                bar(&root, y, contestant, trips)?;
                y += BAR;
            }
            y += 12;
        }
        root.present()?;
    }
    Ok(Some(svg))
}

fn bar(root: &Area<'_>, y: i32, contestant: &str, trips: f64) -> anyhow::Result<()> {
    let end = LEFT + (trips.min(CUT) * ROUND_TRIP) as i32;
    let corners = [(LEFT, y + 2), (end, y + BAR - 2)];
    root.draw(&Rectangle::new(corners, colour(contestant).filled()))?;
    let cut = if trips > CUT { "… " } else { "" };
    let text = format!("{cut}{} {contestant}", number(trips));
    root.draw(&Text::new(text, (end + 6, y + 3), font(12)))?;
    Ok(())
}

fn font(size: u32) -> TextStyle<'static> {
    // `plotters` takes the size for a line's, and writes 1/1.24 of it for the letters.
    ("sans-serif", f64::from(size) * 1.24).into_font().color(&RGBColor(40, 40, 40))
}

/// The same in every picture.
fn colour(contestant: &str) -> RGBColor {
    COLOURS[place_of_contestant(contestant).min(CONTESTANTS.len())]
}
