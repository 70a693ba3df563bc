//! Messages per second: a row for each variant, a column for each crew or handler.

use super::sheet::{
    Anchor, BROKEN, FAINT, FLOOR, FOOT, HEAD, Kind, MARGIN, NAMES, OURS, PEER, ROW, Sheet, TEXT, WIDTH,
};
use super::{samples, title};
use crate::machine::Machine;
use crate::summary::{Cell, Panel, Shape};
use crate::table::count;

/// Between two panels.
const GAP: i32 = 14;
/// Right of the longest whisker, for the figure.
const FIGURE: i32 = 50;
const BAR: i32 = 12;

/// A chart of a shape.
pub(super) fn chart(shape: &Shape, machine: &Machine) -> String {
    let mut svg = String::new();
    let height = HEAD + ROW * shape.variants.len() as i32 + FOOT;
    let heading = format!(
        "{}, {}: {}",
        shape.contest,
        shape.name.replace('_', " "),
        title(&shape.contest, &shape.name)
    );
    let subtitle =
        "messages per second; a bar is the median of the rounds, its whisker the smallest and the largest";
    let sheet = Sheet::new(&mut svg, height, &heading, subtitle);
    for (number, variant) in shape.variants.iter().enumerate() {
        let is_sound = shape.row(number).flatten().all(Cell::is_sound);
        sheet.name(middle(number), &variant.name, is_sound);
    }
    let panels = shape.panels.len() as i32;
    let room = (WIDTH - NAMES - MARGIN - GAP * (panels - 1)) / panels;
    for (number, (panel, cells)) in shape.panels.iter().zip(&shape.cells).enumerate() {
        let left = NAMES + number as i32 * (room + GAP);
        sheet.bold((left, HEAD - 12), &panel.to_string(), 12, TEXT, Anchor::Start);
        let scale = f64::from(room - FIGURE) / largest(shape, number);
        for (row, (cell, variant)) in cells.iter().zip(&shape.variants).enumerate() {
            match cell {
                Some(cell) => draw_bar(&sheet, (left, middle(row)), scale, Kind::of(&variant.name), cell),
                None => sheet.text((left + 5, middle(row)), "-", 11, FAINT, Anchor::Start),
            }
        }
        let bottom = HEAD + ROW * cells.len() as i32;
        sheet.line(vec![(left, HEAD), (left, bottom)], FAINT, 1);
    }
    let (x, y) = sheet.legend(&[
        ("keylane", OURS),
        ("peers", PEER),
        ("floors", FLOOR),
        ("broke order or count", BROKEN),
    ]);
    if shape.panels.iter().any(|panel| matches!(panel, Panel::Crew { .. })) {
        sheet.text((x, y), "P: producers, W: workers", 12, TEXT, Anchor::Start);
    }
    sheet.footer(&format!("{}; {}", machine.short_line(), samples(&shape.cells.iter().flatten().flatten())));
    drop(sheet);
    svg
}

fn middle(row: usize) -> i32 {
    HEAD + ROW * row as i32 + ROW / 2
}

/// What the longest bar of a panel stands for. Crews have one scale, for they do the same; handlers that wait have
/// each their own.
fn largest(shape: &Shape, panel: usize) -> f64 {
    let is_shared = matches!(shape.panels[panel], Panel::Crew { .. });
    let cells = shape.cells.iter().enumerate().filter(|(number, _)| is_shared || *number == panel);
    cells.flat_map(|(_, cells)| cells.iter().flatten()).map(|cell| cell.per_s.max).fold(1.0, f64::max)
}

fn draw_bar(sheet: &Sheet<'_>, (left, y): (i32, i32), scale: f64, kind: Kind, cell: &Cell) {
    let x = |per_s: f64| left + (per_s * scale).round() as i32;
    let color = if cell.is_sound() { kind.color() } else { BROKEN };
    let end = x(cell.per_s.median).max(left + 1);
    sheet.rectangle((left, y - BAR / 2), (end, y + BAR / 2), color);
    if cell.runs > 1 {
        sheet.whisker(x(cell.per_s.min), x(cell.per_s.max), y);
    }
    let end = if cell.runs > 1 { x(cell.per_s.max) } else { end };
    sheet.text((end + 6, y), &count(cell.per_s.median), 11, TEXT, Anchor::Start);
}
