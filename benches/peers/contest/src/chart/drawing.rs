//! What a chart is made of, and how it is written as SVG.
//!
//! A drawing keeps its marks until it is written: the legend is made of the inks that are in it, and tests look where
//! each text is. Colors are written twice, for light pages as attributes and for dark ones as a style, so that what
//! knows no styles shows the light ones.

use std::fmt::Write as _;

/// A place, right and down from the upper left corner, in pixels.
pub(super) type At = (i32, i32);

/// A color by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Background,
    Frame,
    Grid,
    Text,
    Faint,
    Ours,
    Peer,
    Bare,
    Passed,
    Broken,
}

impl Ink {
    const ALL: [Self; 10] = [
        Self::Background,
        Self::Frame,
        Self::Grid,
        Self::Text,
        Self::Faint,
        Self::Ours,
        Self::Peer,
        Self::Bare,
        Self::Passed,
        Self::Broken,
    ];

    /// On a light page and on a dark one. What stands for variants differs in lightness too, for who sees few colors.
    fn colors(self) -> [&'static str; 2] {
        match self {
            Self::Background => ["#ffffff", "#0d1117"],
            Self::Frame => ["#d0d7de", "#30363d"],
            Self::Grid => ["#e5e7eb", "#262c36"],
            Self::Text => ["#1f2937", "#e6edf3"],
            Self::Faint => ["#646d7a", "#9198a1"],
            Self::Ours => ["#2563eb", "#4493f8"],
            Self::Peer => ["#94a3b8", "#6e7b8c"],
            Self::Bare => ["#8f7d5e", "#c2ae88"],
            Self::Passed => ["#e3a93a", "#b98420"],
            Self::Broken => ["#dc2626", "#f85149"],
        }
    }

    /// Of the style: its fill is `f0`, its stroke `s0`.
    fn number(self) -> usize {
        Self::ALL.iter().position(|ink| *ink == self).expect("all are listed")
    }

    fn as_fill(self) -> String {
        format!(r#"class="f{}" fill="{}""#, self.number(), self.colors()[0])
    }

    fn as_stroke(self) -> String {
        format!(r#"class="s{}" fill="none" stroke="{}""#, self.number(), self.colors()[0])
    }
}

/// On which side of its place a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text is written; its place is in the middle of its height.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    pub(super) size: i32,
    pub(super) is_bold: bool,
    pub(super) anchor: Anchor,
}

impl Font {
    pub(super) const fn of(size: i32, anchor: Anchor) -> Self {
        Self { size, is_bold: false, anchor }
    }

    pub(super) const fn bold(size: i32, anchor: Anchor) -> Self {
        Self { size, is_bold: true, anchor }
    }
}

#[derive(Debug)]
pub(super) enum Form {
    Text { at: At, text: String, font: Font },
    Rectangle { from: At, to: At },
    Line { from: At, to: At, width: i32 },
    Dot { at: At, radius: i32 },
    Ring { at: At, radius: i32 },
}

#[derive(Debug)]
pub(super) struct Mark {
    pub(super) form: Form,
    pub(super) ink: Ink,
}

/// As wide as a page of text on the web shows it without shrinking.
pub(super) const WIDTH: i32 = 900;

/// A chart.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    pub(super) height: i32,
    pub(super) marks: Vec<Mark>,
}

impl Drawing {
    fn add(&mut self, form: Form, ink: Ink) {
        self.marks.push(Mark { form, ink });
    }

    pub(super) fn text(&mut self, at: At, text: &str, font: Font, ink: Ink) {
        self.add(Form::Text { at, text: text.to_owned(), font }, ink);
    }

    pub(super) fn rectangle(&mut self, from: At, to: At, ink: Ink) {
        self.add(Form::Rectangle { from, to }, ink);
    }

    pub(super) fn line(&mut self, from: At, to: At, width: i32, ink: Ink) {
        self.add(Form::Line { from, to, width }, ink);
    }

    pub(super) fn dot(&mut self, at: At, radius: i32, ink: Ink) {
        self.add(Form::Dot { at, radius }, ink);
    }

    pub(super) fn ring(&mut self, at: At, radius: i32, ink: Ink) {
        self.add(Form::Ring { at, radius }, ink);
    }

    pub(super) fn svg(&self) -> String {
        let mut svg = String::new();
        let mut put = |line: std::fmt::Arguments<'_>| writeln!(svg, "{line}").expect("a string takes all");
        let (width, height) = (WIDTH, self.height);
        put(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif">"#
        ));
        put(format_args!("<style>@media (prefers-color-scheme: dark) {{"));
        for ink in Ink::ALL {
            let (number, dark) = (ink.number(), ink.colors()[1]);
            put(format_args!(".f{number} {{ fill: {dark} }} .s{number} {{ stroke: {dark} }}"));
        }
        put(format_args!("}}</style>"));
        put(format_args!(
            r#"<rect width="{width}" height="{height}" rx="6" {}/>"#,
            Ink::Background.as_fill()
        ));
        put(format_args!(
            r#"<rect x="0.5" y="0.5" width="{}" height="{}" rx="6" {}/>"#,
            width - 1,
            height - 1,
            Ink::Frame.as_stroke()
        ));
        for mark in &self.marks {
            put(format_args!("{}", mark.svg()));
        }
        put(format_args!("</svg>"));
        svg
    }
}

impl Mark {
    fn svg(&self) -> String {
        let (fill, stroke) = (self.ink.as_fill(), self.ink.as_stroke());
        match &self.form {
            Form::Text { at: (x, y), text, font } => {
                let anchor = match font.anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                let weight = if font.is_bold { r#" font-weight="bold""# } else { "" };
                let (size, text) = (font.size, escaped(text));
                // Digits and capital letters are a little more than seven tenths of the size high.
                let y = f64::from(*y) + f64::from(size) * 0.36;
                format!(
                    r#"<text x="{x}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}"{weight} {fill}>{text}</text>"#
                )
            }
            Form::Rectangle { from, to } => {
                let (width, height) = (to.0 - from.0, to.1 - from.1);
                format!(r#"<rect x="{}" y="{}" width="{width}" height="{height}" {fill}/>"#, from.0, from.1)
            }
            Form::Line { from, to, width } => format!(
                r#"<path d="M{} {}L{} {}" stroke-width="{width}" {stroke}/>"#,
                half(from.0, *width),
                half(from.1, *width),
                half(to.0, *width),
                half(to.1, *width)
            ),
            Form::Dot { at: (x, y), radius } => {
                format!(r#"<circle cx="{x}" cy="{y}" r="{radius}" {fill}/>"#)
            }
            Form::Ring { at: (x, y), radius } => {
                let ground = Ink::Background.as_fill();
                format!(
                    r#"<circle cx="{x}" cy="{y}" r="{radius}" {ground}/><circle cx="{x}" cy="{y}" r="{radius}" stroke-width="2" {stroke}/>"#
                )
            }
        }
    }
}

/// A line as wide as an odd number of pixels is sharp in the middle of one.
fn half(place: i32, width: i32) -> f64 {
    f64::from(place) + if width % 2 == 1 { 0.5 } else { 0.0 }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How wide a text of a size is at most: in the bold letters of `DejaVu Sans`, which is the widest of the fonts that
/// pages commonly have. In hundredths of the size, from the space to the tilde.
#[rustfmt::skip]
const ADVANCES: [u8; 95] = [
    35, 46, 52, 84, 70, 100, 87, 31, 46, 46, 52, 84, 38, 42, 38, 37, 70, 70, 70, 70, 70, 70, 70, 70, 70, 70, 40, 40,
    84, 84, 84, 58, 100, 77, 76, 73, 83, 68, 68, 82, 84, 37, 37, 77, 64, 100, 84, 85, 73, 85, 77, 72, 68, 81, 77,
    110, 77, 72, 73, 46, 37, 46, 84, 50, 50, 67, 72, 59, 72, 68, 44, 72, 71, 34, 34, 67, 34, 104, 71, 69, 72, 72, 49,
    60, 48, 71, 65, 92, 65, 65, 58, 71, 37, 71, 84,
];

pub(super) fn width(text: &str, size: i32) -> i32 {
    let advance = |letter: char| {
        let known = (letter as usize).checked_sub(0x20).and_then(|number| ADVANCES.get(number));
        known.map_or(100, |advance| i32::from(*advance))
    };
    (text.chars().map(advance).sum::<i32>() * size + 99) / 100
}
