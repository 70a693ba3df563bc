//! Latency by percentile: a row for each variant, a column for each shape, time on a logarithmic axis.

use super::sheet::{
    Anchor, BROKEN, FAINT, FLOOR, FOOT, GRID, HEAD, Kind, MARGIN, NAMES, OURS, PEER, ROW, Sheet, TEXT, WIDTH,
    width,
};
use super::{samples, title};
use crate::machine::Machine;
use crate::summary::{Cell, Latency, Shape};
use crate::table::duration;

/// Between two panels.
const GAP: i32 = 26;
/// Above the rows: the marks of the axis.
const AXIS: i32 = 18;

/// A chart of all shapes of a contest that time single messages.
pub(super) fn chart(contest: &str, shapes: &[&Shape], machine: &Machine) -> String {
    let variants = variants(shapes);
    let mut svg = String::new();
    let height = HEAD + AXIS + ROW * variants.len() as i32 + FOOT;
    let subtitle = "median of the rounds; the axis is logarithmic";
    let heading = format!("{contest}: latency by percentile");
    let sheet = Sheet::new(&mut svg, height, &heading, subtitle);
    for (row, name) in variants.iter().enumerate() {
        let is_sound = shapes.iter().filter_map(|shape| cell(shape, name)).all(Cell::is_sound);
        sheet.name(middle(row), name, is_sound);
    }
    let panels = shapes.len() as i32;
    let room = (WIDTH - NAMES - MARGIN - GAP * (panels - 1)) / panels;
    for (number, shape) in shapes.iter().enumerate() {
        let left = NAMES + number as i32 * (room + GAP);
        sheet.bold((left, HEAD - 12), &title(contest, &shape.name), 12, TEXT, Anchor::Start);
        draw_panel(&sheet, (left, left + room), shape, &variants);
    }
    let (x, y) = sheet.legend(&[
        ("keylane", OURS),
        ("peers", PEER),
        ("floors", FLOOR),
        ("broke order or count", BROKEN),
    ]);
    draw_key(&sheet, x, y);
    let cells = shapes.iter().flat_map(|shape| shape.cells.iter().flatten().flatten());
    sheet.footer(&format!("{}; {}", machine.short_line(), samples(&cells)));
    drop(sheet);
    svg
}

/// The variants of all shapes, in the order in which they come first.
fn variants<'a>(shapes: &[&'a Shape]) -> Vec<&'a str> {
    let mut variants: Vec<&str> = Vec::new();
    for variant in shapes.iter().flat_map(|shape| &shape.variants) {
        if !variants.contains(&variant.name.as_str()) {
            variants.push(&variant.name);
        }
    }
    variants
}

fn cell<'a>(shape: &'a Shape, name: &str) -> Option<&'a Cell> {
    let number = shape.variants.iter().position(|variant| variant.name == name)?;
    shape.row(number).flatten().next()
}

fn middle(row: usize) -> i32 {
    HEAD + AXIS + ROW * row as i32 + ROW / 2
}

fn draw_panel(sheet: &Sheet<'_>, (left, right): (i32, i32), shape: &Shape, variants: &[&str]) {
    let latencies = || shape.cells.iter().flatten().flatten().filter_map(|cell| cell.latency);
    let lowest = latencies().map(|latency| latency.p50.median).fold(f64::MAX, f64::min).max(1.0);
    let highest = latencies().map(|latency| latency.max.median).fold(lowest, f64::max);
    // Whole decades.
    let (first, last) = (lowest.log10().floor() as i32, highest.log10().ceil() as i32);
    let x = |ns: f64| {
        let part = (ns.max(1.0).log10() - f64::from(first)) / f64::from((last - first).max(1));
        left + (part * f64::from(right - left)).round() as i32
    };
    let bottom = HEAD + AXIS + ROW * variants.len() as i32;
    for decade in first..=last {
        let ns = 10_f64.powi(decade);
        sheet.line(vec![(x(ns), HEAD + AXIS), (x(ns), bottom)], GRID, 1);
        // Narrow decades are marked every other time.
        if (right - left) / (last - first).max(1) >= 34 || (decade - first) % 2 == 0 {
            let text = duration(ns);
            let text = text.replace(".00", "").replace(".0", "");
            sheet.text((x(ns), HEAD + AXIS / 2), &text, 10, FAINT, Anchor::Middle);
        }
    }
    for (row, name) in variants.iter().enumerate() {
        let found = cell(shape, name).and_then(|cell| Some((cell.latency?, cell.is_sound())));
        if let Some((latency, is_sound)) = found {
            let color = if is_sound { Kind::of(name).color() } else { BROKEN };
            draw_points(sheet, middle(row), color, &latency, x);
        }
    }
}

fn draw_points(
    sheet: &Sheet<'_>,
    y: i32,
    color: plotters::style::RGBColor,
    latency: &Latency,
    x: impl Fn(f64) -> i32,
) {
    let [p50, p99, p999, max] =
        [latency.p50, latency.p99, latency.p999, latency.max].map(|figure| x(figure.median));
    sheet.line(vec![(p50, y), (max, y)], color, 1);
    draw_max(sheet, (max, y), color);
    sheet.ring((p999, y), 4, color);
    draw_p99(sheet, (p99, y), color);
    sheet.dot((p50, y), 5, color);
}

fn draw_p99(sheet: &Sheet<'_>, (x, y): (i32, i32), color: plotters::style::RGBColor) {
    sheet.rectangle((x - 3, y - 4), (x + 3, y + 4), color);
}

fn draw_max(sheet: &Sheet<'_>, (x, y): (i32, i32), color: plotters::style::RGBColor) {
    sheet.line(vec![(x, y - 5), (x, y + 5)], color, 2);
}

/// What the marks mean.
fn draw_key(sheet: &Sheet<'_>, mut x: i32, y: i32) {
    type Mark = fn(&Sheet<'_>, (i32, i32));
    let marks: [(&str, Mark); 4] = [
        ("p50", |sheet, at| sheet.dot(at, 5, FAINT)),
        ("p99", |sheet, at| draw_p99(sheet, at, FAINT)),
        ("p99.9", |sheet, at| sheet.ring(at, 4, FAINT)),
        ("largest", |sheet, at| draw_max(sheet, at, FAINT)),
    ];
    for (text, mark) in marks {
        mark(sheet, (x + 5, y));
        sheet.text((x + 15, y), text, 12, TEXT, Anchor::Start);
        x += 15 + width(text) + 16;
    }
}
