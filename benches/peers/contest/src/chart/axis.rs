//! From figures to places along a panel.

use super::drawing::width;

/// Between the labels of two ticks.
const APART: i32 = 8;
/// Of a tick's label.
pub(super) const TICK: i32 = 10;

/// The scale of a panel.
#[derive(Debug)]
pub(super) struct Axis {
    left: i32,
    right: i32,
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// With their labels.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From nothing to the largest, with as many round figures as there is room for, and one beside 0 at least.
    pub(super) fn linear((left, right): (i32, i32), largest: f64, format: fn(f64) -> String) -> Self {
        let mut axis =
            Self { left, right, low: 0.0, high: largest, is_logarithmic: false, ticks: Vec::new() };
        let power = 10_f64.powf(largest.log10().floor() - 1.0);
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].map(|step| step * power).into_iter();
        let ticks = |step: f64| -> Vec<_> {
            let ticks = (0..=(largest / step) as i32).map(|number| f64::from(number) * step);
            ticks.map(|tick| (tick, short(&format(tick)))).collect()
        };
        let mut choices = steps.filter(|step| *step <= largest).map(ticks);
        axis.ticks = choices.next().unwrap_or_default();
        // The widest step is taken also where its ticks are close: there are but two or few of them.
        while !axis.is_apart(&axis.ticks) {
            let Some(wider) = choices.next() else { break };
            axis.ticks = wider;
        }
        axis
    }

    /// In whole decades, with each of them as a tick if there is room, else each second or third.
    pub(super) fn logarithmic(
        (left, right): (i32, i32),
        (low, high): (f64, f64),
        format: fn(f64) -> String,
    ) -> Self {
        let first = low.log10().floor() as i32;
        let last = (high.log10().ceil() as i32).max(first + 1);
        let of = |decade: i32| 10_f64.powi(decade);
        let mut axis =
            Self { left, right, low: of(first), high: of(last), is_logarithmic: true, ticks: Vec::new() };
        let ticks = |step: usize| -> Vec<_> {
            (first..=last).step_by(step).map(|decade| (of(decade), short(&format(of(decade))))).collect()
        };
        let fitting = (1..=3).map(ticks).find(|ticks| axis.is_apart(ticks));
        axis.ticks = fitting.unwrap_or_else(|| ticks(3));
        axis
    }

    /// Where a figure is; what is below the axis is at its start.
    pub(super) fn x(&self, figure: f64) -> i32 {
        let part = if self.is_logarithmic {
            (figure.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (figure - self.low) / (self.high - self.low)
        };
        self.left + (part * f64::from(self.right - self.left)).round() as i32
    }

    pub(super) fn left(&self) -> i32 {
        self.left
    }

    fn is_apart(&self, labels: &[(f64, String)]) -> bool {
        labels.windows(2).all(|pair| {
            let [(one, first), (next, second)] = pair else { unreachable!("windows of two") };
            let room = self.x(*next) - self.x(*one);
            room >= i32::midpoint(width(first, TICK), width(second, TICK)) + APART
        })
    }
}

/// A round figure without the zeros behind its point.
fn short(figure: &str) -> String {
    let (digits, unit) = figure.split_once(' ').unwrap_or((figure, ""));
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{count, duration};

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_as_many_as_there_is_room_for() {
        let narrow = Axis::linear((0, 75), 19.3e6, count);
        assert_eq!(labels(&narrow), ["0", "10 M"]);
        let wide = Axis::linear((100, 300), 912e3, count);
        assert_eq!(labels(&wide), ["0", "200 k", "400 k", "600 k", "800 k"]);
        assert_eq!((wide.x(0.0), wide.x(456e3), wide.x(912e3)), (100, 200, 300));
    }

    #[test]
    fn a_narrow_axis_over_many_decades_leaves_labels_out() {
        let axis = Axis::logarithmic((0, 120), (18.0, 5e6), duration);
        assert_eq!(labels(&axis), ["10 ns", "10 us", "10 ms"]);
        assert_eq!((axis.x(1.0), axis.x(1e4), axis.x(1e7)), (0, 60, 120));
    }
}
