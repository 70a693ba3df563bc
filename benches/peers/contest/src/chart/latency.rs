//! Latency by percentile: points on a logarithmic axis, and the figures of the first two beside them.

use super::axis::Axis;
use super::drawing::{Anchor, At, Drawing, Ink};
use super::grid::{Grid, Sign, middle};
use super::{inks, rows, samples, title};
use crate::machine::Machine;
use crate::summary::{Cell, Latency, Shape};
use crate::table::duration;

/// Of a column of figures.
const COLUMN: i32 = 56;

/// A chart of a shape that times single messages.
pub(super) fn chart(shape: &Shape, machine: &Machine) -> Drawing {
    let scale = if shape.panels.len() > 1 { ", one for all panels" } else { "" };
    let subtitle = format!(
        "latency by percentile, the median of the rounds; a logarithmic scale{scale}; less is better"
    );
    let p50 = |cell: &Cell| cell.latency.map_or(f64::MAX, |latency| latency.p50.median);
    let heading = title(&shape.contest, &shape.name);
    let mut grid = Grid::new(&heading, &subtitle, rows(shape), shape.panels.len());
    for (number, panel) in shape.panels.iter().enumerate() {
        let (left, right) = grid.panel(number);
        let axis = Axis::logarithmic((left, right - 2 * COLUMN - 10), range(shape), duration);
        grid.begin_panel(&panel.to_string(), &axis);
        grid.begin_column(right - COLUMN, "p50");
        grid.begin_column(right, "p99");
        let inks = inks(shape, number, |one, other| p50(one) < p50(other));
        for (row, ink) in inks.into_iter().enumerate() {
            let y = middle(row);
            let Some(latency) = shape.cells[number][row].as_ref().and_then(|cell| cell.latency) else {
                grid.dash((left, y));
                continue;
            };
            draw_points(&mut grid.drawing, y, ink, &latency, &axis);
            grid.figure((right - COLUMN, y), &duration(latency.p50.median), Anchor::End);
            grid.figure((right, y), &duration(latency.p99.median), Anchor::End);
        }
    }
    let more = vec![
        (Sign::Drawn(draw_p50), "p50"),
        (Sign::Drawn(draw_p99), "p99"),
        (Sign::Drawn(draw_p999), "p99.9"),
        (Sign::Drawn(draw_max), "largest"),
        (Sign::None, "P: producers, W: workers"),
    ];
    grid.finish(more, machine, &samples(shape))
}

/// The smallest p50 and the largest of all.
fn range(shape: &Shape) -> (f64, f64) {
    let latencies = || shape.cells.iter().flatten().flatten().filter_map(|cell| cell.latency);
    let lowest = latencies().map(|latency| latency.p50.median).fold(f64::MAX, f64::min).max(1.0);
    (lowest, latencies().map(|latency| latency.max.median).fold(lowest, f64::max))
}

/// The lower percentiles last, so that they are on top where all are the same.
fn draw_points(drawing: &mut Drawing, y: i32, ink: Ink, latency: &Latency, axis: &Axis) {
    let [p50, p99, p999, max] =
        [latency.p50, latency.p99, latency.p999, latency.max].map(|figure| axis.x(figure.median));
    drawing.line((p50, y), (max, y), 1, ink);
    draw_max(drawing, (max, y), ink);
    draw_p999(drawing, (p999, y), ink);
    draw_p99(drawing, (p99, y), ink);
    draw_p50(drawing, (p50, y), ink);
}

/// With an edge, so that it is told apart from what it lies on.
fn draw_p50(drawing: &mut Drawing, at: At, ink: Ink) {
    drawing.dot(at, 6, Ink::Background);
    drawing.dot(at, 5, ink);
}

fn draw_p99(drawing: &mut Drawing, (x, y): At, ink: Ink) {
    drawing.rectangle((x - 4, y - 6), (x + 4, y + 6), Ink::Background);
    drawing.rectangle((x - 3, y - 5), (x + 3, y + 5), ink);
}

fn draw_p999(drawing: &mut Drawing, at: At, ink: Ink) {
    drawing.ring(at, 4, ink);
}

fn draw_max(drawing: &mut Drawing, (x, y): At, ink: Ink) {
    drawing.line((x, y - 5), (x, y + 5), 2, ink);
}
