//! Messages per second: a bar for each variant, a panel for each crew or handler.

use super::axis::Axis;
use super::drawing::{Anchor, At, Drawing, Ink, width};
use super::grid::{Grid, Sign, middle};
use super::{inks, rows, samples, title};
use crate::machine::Machine;
use crate::summary::{Cell, Panel, Shape};
use crate::table::count;

const BAR: i32 = 12;
/// From a bar or its whisker to the figure.
const BESIDE: i32 = 6;

/// A chart of a shape.
pub(super) fn chart(shape: &Shape, machine: &Machine) -> Drawing {
    let has_crews = has_crews(shape);
    let scale = match shape.panels.len() {
        1 => "",
        _ if has_crews => "; one scale for all",
        _ => "; a scale for each handler",
    };
    let subtitle = format!(
        "messages per second; a bar is the median of the rounds, its whisker the smallest and the largest{scale}"
    );
    let heading = title(&shape.contest, &shape.name);
    let mut grid = Grid::new(&heading, &subtitle, rows(shape), shape.panels.len());
    let figures = shape.cells.iter().flatten().flatten().map(|cell| width(&count(cell.per_s.median), 11));
    let beside = BESIDE + figures.max().unwrap_or(0);
    for (number, panel) in shape.panels.iter().enumerate() {
        let (left, right) = grid.panel(number);
        let axis = Axis::linear((left, right - beside), largest(shape, number), count);
        grid.begin_panel(&panel.to_string(), &axis);
        let inks = inks(shape, number, |one, other| one.per_s.median > other.per_s.median);
        for (row, ink) in inks.into_iter().enumerate() {
            match &shape.cells[number][row] {
                Some(cell) => draw_cell(&mut grid, row, ink, cell, &axis),
                None => grid.dash((left, middle(row))),
            }
        }
    }
    let crews = has_crews.then_some((Sign::None, "P: producers, W: workers"));
    grid.finish(crews.into_iter().collect(), machine, &samples(shape))
}

fn has_crews(shape: &Shape) -> bool {
    shape.panels.iter().any(|panel| matches!(panel, Panel::Crew { .. }))
}

/// What the longest bar of a panel stands for. Crews have one scale, for they do the same; handlers that wait have
/// each their own.
fn largest(shape: &Shape, panel: usize) -> f64 {
    let is_shared = has_crews(shape);
    let cells = shape.cells.iter().enumerate().filter(|(number, _)| is_shared || *number == panel);
    cells.flat_map(|(_, cells)| cells.iter().flatten()).map(|cell| cell.per_s.max).fold(1.0, f64::max)
}

fn draw_cell(grid: &mut Grid<'_>, row: usize, ink: Ink, cell: &Cell, axis: &Axis) {
    let (y, left) = (middle(row), axis.left());
    let end = axis.x(cell.per_s.median).max(left + 1);
    grid.drawing.rectangle((left, y - BAR / 2), (end, y + BAR / 2), ink);
    let mut right = end;
    if cell.runs > 1 {
        right = axis.x(cell.per_s.max).max(end);
        draw_whisker(&mut grid.drawing, (axis.x(cell.per_s.min), y), right);
    }
    grid.figure((right + BESIDE, y), &count(cell.per_s.median), Anchor::Start);
}

/// A line from the smallest to the largest, with ends.
fn draw_whisker(drawing: &mut Drawing, (from_x, y): At, to_x: i32) {
    const END: i32 = 3;
    drawing.line((from_x, y), (to_x, y), 1, Ink::Text);
    for x in [from_x, to_x] {
        drawing.line((x, y - END), (x, y + END + 1), 1, Ink::Text);
    }
}
