//! What the charts draw on, and with what.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{Circle, PathElement, Rectangle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontDesc, FontFamily, FontStyle, RGBColor, ShapeStyle};

/// As wide as a page of text on the web shows it without shrinking.
pub(super) const WIDTH: i32 = 900;
/// From the edge to what is drawn.
pub(super) const MARGIN: i32 = 18;
/// Of a variant.
pub(super) const ROW: i32 = 21;
/// Where the first row of panels begins.
pub(super) const HEAD: i32 = 78;
/// Below the last row: the legend and the machine.
pub(super) const FOOT: i32 = 62;
/// From the left edge to the panels: names of variants.
pub(super) const NAMES: i32 = 226;

pub(super) const BACKGROUND: RGBColor = RGBColor(255, 255, 255);
pub(super) const FRAME: RGBColor = RGBColor(208, 215, 222);
pub(super) const GRID: RGBColor = RGBColor(229, 231, 235);
pub(super) const TEXT: RGBColor = RGBColor(31, 41, 55);
pub(super) const FAINT: RGBColor = RGBColor(100, 109, 122);

pub(super) const OURS: RGBColor = RGBColor(37, 99, 235);
pub(super) const PEER: RGBColor = RGBColor(148, 163, 184);
pub(super) const FLOOR: RGBColor = RGBColor(217, 204, 178);
pub(super) const BROKEN: RGBColor = RGBColor(220, 38, 38);

/// What a variant is to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    /// What the machine, or the client alone, could do.
    Floor,
    Peer,
}

impl Kind {
    pub(super) fn of(variant: &str) -> Self {
        if variant.starts_with("keylane") {
            Self::Ours
        } else if ["raw", "raw_spsc", "raw_mpmc"].contains(&variant) || variant.starts_with("machine") {
            Self::Floor
        } else {
            Self::Peer
        }
    }

    pub(super) fn color(self) -> RGBColor {
        match self {
            Self::Ours => OURS,
            Self::Floor => FLOOR,
            Self::Peer => PEER,
        }
    }
}

/// On which side of its place a text is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A chart that is being drawn.
pub(super) struct Sheet<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    height: i32,
}

/// plotters writes a size of text divided by this.
const TO_PIXELS: f64 = 1.24;
/// A drawing into a string cannot fail.
const DRAWN: &str = "a string takes all";

impl<'a> Sheet<'a> {
    /// An empty one, with its title and what is below it.
    pub(super) fn new(svg: &'a mut String, height: i32, title: &str, subtitle: &str) -> Self {
        let area = SVGBackend::with_string(svg, (WIDTH as u32, height as u32)).into_drawing_area();
        let sheet = Self { area, height };
        sheet.rectangle((0, 0), (WIDTH - 1, height - 1), BACKGROUND);
        let frame =
            Rectangle::new([(0, 0), (WIDTH - 1, height - 1)], ShapeStyle::from(&FRAME).stroke_width(1));
        sheet.area.draw(&frame).expect(DRAWN);
        sheet.bold((MARGIN, 24), title, 17, TEXT, Anchor::Start);
        sheet.text((MARGIN, 45), subtitle, 12, FAINT, Anchor::Start);
        sheet
    }

    /// The last line of a chart.
    pub(super) fn footer(&self, text: &str) {
        self.text((MARGIN, self.height - 16), text, 11, FAINT, Anchor::Start);
    }

    pub(super) fn text(&self, at: (i32, i32), text: &str, size: i32, color: RGBColor, anchor: Anchor) {
        self.write(at, text, (size, FontStyle::Normal), color, anchor);
    }

    pub(super) fn bold(&self, at: (i32, i32), text: &str, size: i32, color: RGBColor, anchor: Anchor) {
        self.write(at, text, (size, FontStyle::Bold), color, anchor);
    }

    fn write(&self, at: (i32, i32), text: &str, font: (i32, FontStyle), color: RGBColor, anchor: Anchor) {
        let side = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let font = FontDesc::new(FontFamily::SansSerif, f64::from(font.0) * TO_PIXELS, font.1);
        let style = font.color(&color).pos(Pos::new(side, VPos::Center));
        self.area.draw_text(text, &style, at).expect(DRAWN);
    }

    pub(super) fn rectangle(&self, from: (i32, i32), to: (i32, i32), color: RGBColor) {
        self.area.draw(&Rectangle::new([from, to], color.filled())).expect(DRAWN);
    }

    pub(super) fn line(&self, points: Vec<(i32, i32)>, color: RGBColor, width: u32) {
        self.area.draw(&PathElement::new(points, color.stroke_width(width))).expect(DRAWN);
    }

    pub(super) fn dot(&self, at: (i32, i32), radius: i32, color: RGBColor) {
        self.area.draw(&Circle::new(at, radius, color.filled())).expect(DRAWN);
    }

    pub(super) fn ring(&self, at: (i32, i32), radius: i32, color: RGBColor) {
        self.dot(at, radius, BACKGROUND);
        self.area.draw(&Circle::new(at, radius, color.stroke_width(2))).expect(DRAWN);
    }

    /// A line from the smallest to the largest, with ends.
    pub(super) fn whisker(&self, from_x: i32, to_x: i32, y: i32) {
        const END: i32 = 3;
        self.line(vec![(from_x, y), (to_x, y)], TEXT, 1);
        for x in [from_x, to_x] {
            self.line(vec![(x, y - END), (x, y + END)], TEXT, 1);
        }
    }

    /// The name of a variant, left of its row; in red where it broke something.
    pub(super) fn name(&self, y: i32, name: &str, is_sound: bool) {
        let text = name.replace('_', " ");
        let color = if is_sound { TEXT } else { BROKEN };
        let at = (NAMES - 10, y);
        if Kind::of(name) == Kind::Ours {
            self.bold(at, &text, 13, color, Anchor::End);
        } else {
            self.text(at, &text, 13, color, Anchor::End);
        }
    }

    /// What the colors mean; `more` is drawn right of it. Returns where it may begin.
    pub(super) fn legend(&self, entries: &[(&str, RGBColor)]) -> (i32, i32) {
        let y = self.height - 40;
        let mut x = MARGIN;
        for (text, color) in entries {
            self.rectangle((x, y - 5), (x + 10, y + 5), *color);
            self.text((x + 16, y), text, 12, TEXT, Anchor::Start);
            x += 16 + width(text) + 18;
        }
        (x, y)
    }
}

/// About how wide a text of size 12 is: the letters of most fonts take half of their height.
pub(super) fn width(text: &str) -> i32 {
    text.chars().count() as i32 * 13 / 2
}
