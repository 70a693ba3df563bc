//! How many handlers ran at once, against how long each waits.

use super::sheet::{Anchor, BACKGROUND, FAINT, FOOT, GRID, HEAD, Kind, OURS, Sheet, TEXT, WIDTH};
use super::{samples, title};
use crate::machine::Machine;
use crate::summary::{Cell, Panel, Shape};
use crate::table::count;
use plotters::style::RGBColor;

const LEFT: i32 = 70;
/// Right of the last handler time: the names of the lines.
const NAMES: i32 = 230;
const PLOT: i32 = 260;

/// Told apart also by who does not see red and green as different (after Okabe and Ito).
const PEERS: [RGBColor; 7] = [
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 113, 108),
    RGBColor(161, 98, 7),
];

/// A line of the chart: by panel, how many ran at once.
struct Series<'a> {
    name: &'a str,
    color: RGBColor,
    points: Vec<(usize, u64)>,
}

/// A chart, where there are several handler times and somebody counted.
pub(super) fn chart(shape: &Shape, machine: &Machine) -> Option<String> {
    let has_times =
        shape.panels.len() > 1 && shape.panels.iter().all(|panel| matches!(panel, Panel::Handler { .. }));
    let series = all_series(shape);
    if !has_times || series.is_empty() {
        return None;
    }
    let mut svg = String::new();
    let heading = format!("{}: handlers at once, {}", shape.contest, title(&shape.contest, &shape.name));
    let subtitle =
        "the most handlers that ran at one moment, against how long each of them waits; logarithmic";
    let sheet = Sheet::new(&mut svg, HEAD + PLOT + 30 + FOOT, &heading, subtitle);
    let most = series.iter().flat_map(|series| &series.points).map(|(_, most)| *most).max().unwrap_or(1);
    let decades = (most.max(10) as f64).log10().ceil() as i32;
    let y = |most: f64| {
        HEAD + PLOT - (most.max(1.0).log10() / f64::from(decades) * f64::from(PLOT)).round() as i32
    };
    let step = (WIDTH - LEFT - NAMES) / (shape.panels.len() as i32 - 1);
    let x = |panel: usize| LEFT + step * panel as i32;
    for decade in 0..=decades {
        let at = 10_f64.powi(decade);
        sheet.line(vec![(LEFT, y(at)), (WIDTH - NAMES, y(at))], GRID, 1);
        let text = count(at).replace(".00", "").replace(".0", "");
        sheet.text((LEFT - 8, y(at)), &text, 11, FAINT, Anchor::End);
    }
    for (number, panel) in shape.panels.iter().enumerate() {
        sheet.text((x(number), HEAD + PLOT + 18), &panel.to_string(), 12, TEXT, Anchor::Middle);
    }
    let place = |(panel, most): &(usize, u64)| (x(*panel), y(*most as f64));
    // Ours last, so that it is on top.
    for series in series.iter().rev() {
        let points: Vec<_> = series.points.iter().map(place).collect();
        sheet.line(points.clone(), series.color, if series.color == OURS { 3 } else { 2 });
        for point in points {
            sheet.dot(point, 4, series.color);
            sheet.dot(point, 1, BACKGROUND);
        }
    }
    draw_names(&sheet, &series, place);
    sheet.footer(&format!("{}; {}", machine.short_line(), samples(&shape.cells.iter().flatten().flatten())));
    drop(sheet);
    Some(svg)
}

/// Those of ours first.
fn all_series(shape: &Shape) -> Vec<Series<'_>> {
    let mut peers = PEERS.into_iter().cycle();
    let mut series: Vec<_> = (shape.variants.iter().enumerate())
        .filter_map(|(number, variant)| {
            let most = |cell: Option<&Cell>| cell.and_then(|cell| cell.max_concurrency);
            let points: Vec<_> = shape
                .row(number)
                .enumerate()
                .filter_map(|(panel, cell)| Some((panel, most(cell)?)))
                .collect();
            let color = if Kind::of(&variant.name) == Kind::Ours { OURS } else { peers.next()? };
            (!points.is_empty()).then_some(Series { name: &variant.name, color, points })
        })
        .collect();
    series.sort_by_key(|series| series.color != OURS);
    series
}

/// Each name right of the plot, beside its line's end, and far enough from the next one to be read.
fn draw_names(sheet: &Sheet<'_>, series: &[Series<'_>], place: impl Fn(&(usize, u64)) -> (i32, i32)) {
    const LINE: i32 = 17;
    let last = |series: &Series<'_>| *series.points.last().expect("a series has a point");
    let mut ends: Vec<_> = series.iter().map(|series| (place(&last(series)).1, series)).collect();
    ends.sort_by_key(|(y, _)| *y);
    // Down from the first one, then up from the last one, which may have been pushed out at the bottom.
    let mut free_y = HEAD;
    for (y, _) in &mut ends {
        *y = free_y.max(*y);
        free_y = *y + LINE;
    }
    let mut free_y = HEAD + PLOT;
    for (y, _) in ends.iter_mut().rev() {
        *y = free_y.min(*y);
        free_y = *y - LINE;
    }
    for (y, series) in ends {
        let (x, text) =
            (WIDTH - NAMES + 16, format!("{} ({})", series.name.replace('_', " "), last(series).1));
        let at = (x, y);
        sheet.rectangle((at.0, at.1 - 4), (at.0 + 8, at.1 + 4), series.color);
        if series.color == OURS {
            sheet.bold((at.0 + 14, at.1), &text, 12, TEXT, Anchor::Start);
        } else {
            sheet.text((at.0 + 14, at.1), &text, 12, TEXT, Anchor::Start);
        }
    }
}
