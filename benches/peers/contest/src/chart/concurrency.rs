//! How many handlers ran at once: a point for each variant, a panel for each handler in which somebody counted.

use super::axis::Axis;
use super::drawing::{Anchor, Drawing, width};
use super::grid::{Grid, middle};
use super::{inks, rows, samples, title};
use crate::machine::Machine;
use crate::summary::{Panel, Shape};
use crate::table::count;

/// From a point to its figure.
const BESIDE: i32 = 10;

/// A chart, where handlers wait and somebody counted.
pub(super) fn chart(shape: &Shape, machine: &Machine) -> Option<Drawing> {
    let counted = counted(shape)?;
    let heading = format!("{}: handlers at once", title(&counted.contest, &counted.name));
    let scale = if counted.panels.len() > 1 { ", one for all panels" } else { "" };
    let subtitle =
        format!("the most handlers that ran at one moment in any round; a logarithmic scale{scale}");
    let mut grid = Grid::new(&heading, &subtitle, rows(&counted), counted.panels.len());
    let cells = || counted.cells.iter().flatten().flatten();
    let figures = || cells().filter_map(|cell| cell.max_concurrency);
    let widest = figures().map(|most| width(&most.to_string(), 11)).max().unwrap_or(0);
    let most = figures().max().unwrap_or(1) as f64;
    for (number, panel) in counted.panels.iter().enumerate() {
        let (left, right) = grid.panel(number);
        let axis = Axis::logarithmic((left, right - BESIDE - widest), (1.0, most), count);
        grid.begin_panel(&panel.to_string(), &axis);
        let inks = inks(&counted, number, |one, other| one.max_concurrency > other.max_concurrency);
        for (row, ink) in inks.into_iter().enumerate() {
            let y = middle(row);
            let Some(most) = counted.cells[number][row].as_ref().and_then(|cell| cell.max_concurrency) else {
                grid.dash((left, y));
                continue;
            };
            let x = axis.x(most as f64);
            grid.drawing.line((left, y), (x, y), 2, ink);
            grid.drawing.dot((x, y), 5, ink);
            grid.figure((x + BESIDE, y), &most.to_string(), Anchor::Start);
        }
    }
    Some(grid.finish(Vec::new(), machine, &samples(&counted)))
}

/// The panels of handlers and the variants with a count, without those that nobody counted in. None if that is none.
fn counted(shape: &Shape) -> Option<Shape> {
    let has_count = |panel: usize, variant: usize| {
        shape.cells[panel][variant].as_ref().is_some_and(|cell| cell.max_concurrency.is_some())
    };
    let (panels, variants) = (0..shape.panels.len(), 0..shape.variants.len());
    let are_handlers = shape.panels.iter().all(|panel| matches!(panel, Panel::Handler { .. }));
    let panels: Vec<_> = panels
        .filter(|panel| are_handlers && variants.clone().any(|variant| has_count(*panel, variant)))
        .collect();
    let variants: Vec<_> =
        variants.filter(|variant| panels.iter().any(|panel| has_count(*panel, *variant))).collect();
    let cells =
        |panel: &usize| variants.iter().map(|variant| shape.cells[*panel][*variant].clone()).collect();
    (!panels.is_empty()).then(|| Shape {
        contest: shape.contest.clone(),
        name: shape.name.clone(),
        panels: panels.iter().map(|panel| shape.panels[*panel]).collect(),
        variants: variants.iter().map(|variant| shape.variants[*variant].clone()).collect(),
        cells: panels.iter().map(cells).collect(),
        failed: shape.failed,
    })
}
