//! What all charts have in common: a row for each variant, panels beside each other, each with its axis above it, and
//! below them what the signs mean and what it ran on. No two variants share a place, so none can hide another.

use super::axis::{Axis, TICK};
use super::drawing::{Anchor, At, Drawing, Font, Ink, WIDTH, width};
use super::kind::{Kind, is_ours};
use crate::machine::Machine;

/// From the edge to what is drawn.
const MARGIN: i32 = 18;
/// Of a variant.
const ROW: i32 = 21;
/// Between two panels; half of a tick's label may be in it.
const GAP: i32 = 22;
/// Where the titles of panels are, the labels of their ticks, and where the first row begins.
const PANEL_TITLE: i32 = 72;
const TICKS: i32 = 90;
const HEAD: i32 = 100;
/// Of the names of variants, of the legend.
const NAME: i32 = 13;
const LEGEND: i32 = 12;
/// From one line of the legend to the next.
const LINE: i32 = 20;

/// A variant.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    /// Whether it kept order and count in all that the chart shows.
    pub(super) is_sound: bool,
}

/// What stands before a text of the legend.
pub(super) enum Sign {
    Swatch(Ink),
    /// What is drawn with the ink of a variant.
    Drawn(fn(&mut Drawing, At, Ink)),
    None,
}

/// A chart that is being drawn.
pub(super) struct Grid<'a> {
    pub(super) drawing: Drawing,
    rows: Vec<Row<'a>>,
    panels: i32,
    has_dash: bool,
}

impl<'a> Grid<'a> {
    pub(super) fn new(title: &str, subtitle: &str, rows: Vec<Row<'a>>, panels: usize) -> Self {
        let mut grid = Self { drawing: Drawing::default(), rows, panels: panels as i32, has_dash: false };
        grid.drawing.text((MARGIN, 24), title, Font::bold(16, Anchor::Start), Ink::Text);
        grid.drawing.text((MARGIN, 46), subtitle, Font::of(12, Anchor::Start), Ink::Faint);
        let right = grid.names() - 12;
        for (number, row) in grid.rows.iter().enumerate() {
            let font = if is_ours(row.name) { Font::bold } else { Font::of };
            let ink = if row.is_sound { Ink::Text } else { Ink::Broken };
            let name = row.name.replace('_', " ");
            grid.drawing.text((right, middle(number)), &name, font(NAME, Anchor::End), ink);
        }
        grid
    }

    /// Where the first panel begins.
    fn names(&self) -> i32 {
        let widest = self.rows.iter().map(|row| width(row.name, NAME)).max().unwrap_or(0);
        MARGIN + widest + 12
    }

    /// From where to where a panel is.
    pub(super) fn panel(&self, number: usize) -> (i32, i32) {
        let room = (WIDTH - self.names() - MARGIN - GAP * (self.panels - 1)) / self.panels;
        let left = self.names() + number as i32 * (room + GAP);
        (left, left + room)
    }

    /// The title of a panel and its axis.
    pub(super) fn begin_panel(&mut self, title: &str, axis: &Axis) {
        let font = Font::bold(12, Anchor::Start);
        self.drawing.text((axis.left(), PANEL_TITLE), title, font, Ink::Text);
        let bottom = HEAD + ROW * self.rows.len() as i32;
        for (figure, label) in &axis.ticks {
            let x = axis.x(*figure);
            let ink = if x == axis.left() { Ink::Faint } else { Ink::Grid };
            self.drawing.line((x, HEAD), (x, bottom), 1, ink);
            self.drawing.text((x, TICKS), label, Font::of(TICK, Anchor::Middle), Ink::Faint);
        }
    }

    /// The title of a column of figures, above where each of them ends.
    pub(super) fn begin_column(&mut self, right: i32, title: &str) {
        self.drawing.text((right, TICKS), title, Font::of(TICK, Anchor::End), Ink::Faint);
    }

    pub(super) fn figure(&mut self, at: At, text: &str, anchor: Anchor) {
        self.drawing.text(at, text, Font::of(11, anchor), Ink::Text);
    }

    /// There is no figure.
    pub(super) fn dash(&mut self, (left, y): At) {
        self.has_dash = true;
        draw_dash(&mut self.drawing, (left + 10, y), Ink::Faint);
    }

    /// Draws the legend, of the inks that are there and `more`, and the machine; the chart is done.
    pub(super) fn finish(mut self, more: Vec<(Sign, &str)>, machine: &Machine, samples: &str) -> Drawing {
        let is_used = |ink: Ink| self.drawing.marks.iter().any(|mark| mark.ink == ink);
        let kinds = Kind::ALL.into_iter().map(|kind| (kind.ink(), kind.text()));
        let inks = kinds.chain([(Ink::Broken, "broke order or count")]);
        let mut entries: Vec<_> = inks
            .filter(|(ink, _)| is_used(*ink))
            .map(|(ink, text)| (Sign::Swatch(ink), text))
            .chain(more)
            .collect();
        if self.has_dash {
            entries.push((Sign::Drawn(draw_dash), "no figure: was not run there, or every run failed"));
        }
        let drawing = &mut self.drawing;
        let (mut x, mut y) = (MARGIN, HEAD + ROW * self.rows.len() as i32 + 22);
        for (sign, text) in entries {
            let indent = if matches!(sign, Sign::None) { 0 } else { 18 };
            if x + indent + width(text, LEGEND) > WIDTH - MARGIN {
                (x, y) = (MARGIN, y + LINE);
            }
            match sign {
                Sign::Swatch(ink) => drawing.rectangle((x, y - 5), (x + 11, y + 6), ink),
                Sign::Drawn(draw) => draw(drawing, (x + 6, y), Ink::Faint),
                Sign::None => {}
            }
            drawing.text((x + indent, y), text, Font::of(LEGEND, Anchor::Start), Ink::Text);
            x += indent + width(text, LEGEND) + 14;
        }
        for line in [machine.processor(), format!("{}; {samples}", machine.system())] {
            y += 19;
            drawing.text((MARGIN, y), &line, Font::of(11, Anchor::Start), Ink::Faint);
        }
        drawing.height = y + 16;
        self.drawing
    }
}

/// The middle of a row.
pub(super) fn middle(row: usize) -> i32 {
    HEAD + ROW * row as i32 + ROW / 2
}

fn draw_dash(drawing: &mut Drawing, (x, y): At, ink: Ink) {
    drawing.line((x - 4, y), (x + 4, y), 2, ink);
}
