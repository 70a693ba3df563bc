//! What every chart has to be for a reader, looked for in the charts of the results that are kept and in those of
//! results that are as awkward as may be.

use super::axis::TICK;
use super::drawing::{Anchor, Drawing, Font, Form, Ink, Mark, WIDTH, width};
use super::drawings;
use super::kind::Kind;
use crate::summary::{self, Results};
use measure::{Cost, Line, Measured, Percentiles, Run, Tally};
use std::path::Path;

fn kept() -> Results {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results/contest.jsonl");
    summary::read(&path).expect("the lines of the last contest are kept")
}

/// A run of 1,000 messages.
fn line(
    contest: &'static str,
    shape: &str,
    variant: &str,
    at: (usize, u64),
    per_s: f64,
    measured: &Measured,
) -> Line {
    let (workers, handler_us) = at;
    let run = Run {
        contest,
        shape: shape.to_owned(),
        variant: variant.to_owned(),
        producers: 1,
        workers,
        n: 1_000,
        handler_us,
        settings: String::new(),
        version: String::new(),
    };
    let cost = Cost { seconds: 1_000.0 / per_s, ..Cost::default() };
    Line::new(run, &Measured { cost, ..measured.clone() })
}

fn results(lines: &[Line]) -> Results {
    summary::parse(&written(lines)).expect("is what is written")
}

/// As the contest writes them.
fn written(lines: &[Line]) -> String {
    let head = r#"{"machine":{"cpu":"Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz","cpu_model":"GenuineIntel family 6 model 143, virtual","cores":128,"kernel":"Linux 6.18.44-1027-generic-amd64","rustc":"rustc 1.95.0 (59807616e 2026-04-14)","load":"0","date":"2026-01-01","commit":"1","rounds":5,"quick":false}}"#;
    let lines = lines.iter().map(|line| serde_json::to_string(line).expect("is JSON"));
    let text: Vec<_> = std::iter::once(head.to_owned()).chain(lines).collect();
    text.join("\n")
}

/// Long names, figures of all lengths, rounds far apart, nothing beside something, one beside eight decades.
fn awkward() -> Results {
    let plain = Measured::default;
    let broken = || Measured { tally: Tally { lost: 1, ..Tally::default() }, ..plain() };
    let mut lines = Vec::new();
    for workers in [1, 2, 8, 16, 32] {
        for per_s in [1.0, 999_999_999.0] {
            let crew = (workers, 0);
            lines.push(line("pool", "complete_batch", "raw_spsc", crew, 1e9, &plain()));
            lines.push(line("pool", "complete_batch", "raw_mpmc", crew, 2.0, &plain()));
            lines.push(line("pool", "complete_batch", "keylane", crew, per_s, &plain()));
            lines.push(line("pool", "complete_batch", "ractor_factory", crew, 288_888.0, &broken()));
        }
    }
    lines.push(line("pool", "complete_batch", "parallel_consumers", (2, 0), 449e6, &plain()));
    lines.push(line("pool", "forget", "keylane", (2, 0), 1e6, &plain()));
    for workers in [1, 2] {
        for (variant, p50_ns) in
            [("machine_clock", 18), ("machine_futex", 57_100), ("keylane", 888), ("tokio", 888_888_888)]
        {
            let latency = Percentiles { p50_ns, p99_ns: p50_ns, p999_ns: p50_ns, max_ns: p50_ns * 5 };
            let timed = || Measured { latency: Some(latency), ..plain() };
            for shape in ["ask_hot", "rate"] {
                lines.push(line("pool", shape, variant, (workers, 0), 1e5, &timed()));
            }
        }
    }
    for handler_us in [0, 1_000, 10_000] {
        for (variant, most) in
            [("raw", 1), ("keylane", 16_384), ("ruststream_best", 16_384), ("parallel_consumer", 16_384)]
        {
            let max_concurrency = (handler_us > 0).then_some(most);
            let counted = Measured { max_concurrency, ..plain() };
            lines.push(line("kafka", "consume", variant, (2, handler_us), 100.0, &counted));
        }
    }
    lines.push(line("kafka", "consume", "ruststream_by_key", (2, 0), 100.0, &plain()));
    results(&lines)
}

fn each_chart(check: impl Fn(&str, &Drawing)) {
    for (of, results) in [("kept", kept()), ("awkward", awkward())] {
        let drawings = drawings(&results);
        assert!(drawings.len() >= 5, "{of}: too few to say anything");
        drawings.iter().for_each(|(name, drawing)| check(&format!("{of} {name}"), drawing));
    }
}

fn chart(results: &Results, name: &str) -> Drawing {
    let mut drawings = drawings(results).into_iter();
    drawings.find_map(|(found, drawing)| (found == name).then_some(drawing)).expect("it is among them")
}

fn texts(drawing: &Drawing) -> impl Iterator<Item = (&Mark, &str, Font)> {
    drawing.marks.iter().filter_map(|mark| match &mark.form {
        Form::Text { text, font, .. } => Some((mark, text.as_str(), *font)),
        _ => None,
    })
}

/// Left, top, right and bottom of what a mark covers.
fn bounds(mark: &Mark) -> [i32; 4] {
    match &mark.form {
        Form::Text { at: (x, y), text, font } => {
            let width = width(text, font.size);
            let left = match font.anchor {
                Anchor::Start => *x,
                Anchor::Middle => x - width / 2,
                Anchor::End => x - width,
            };
            [left, y - font.size / 2, left + width, y + font.size / 2]
        }
        Form::Rectangle { from, to } => [from.0, from.1, to.0, to.1],
        Form::Line { from, to, width } => {
            [from.0.min(to.0), from.1.min(to.1), from.0.max(to.0) + width, from.1.max(to.1) + width]
        }
        Form::Dot { at: (x, y), radius } | Form::Ring { at: (x, y), radius } => {
            [x - radius, y - radius, x + radius, y + radius]
        }
    }
}

fn meet(one: &Mark, other: &Mark) -> bool {
    let ([left, top, right, bottom], [its_left, its_top, its_right, its_bottom]) =
        (bounds(one), bounds(other));
    left < its_right && its_left < right && top < its_bottom && its_top < bottom
}

/// The legend's squares, and the texts beside them.
fn legend(drawing: &Drawing) -> Vec<(Ink, &str)> {
    let is_swatch = |[left, top, right, bottom]: [i32; 4]| (right - left, bottom - top) == (11, 11);
    let swatches = drawing
        .marks
        .iter()
        .filter(|mark| matches!(mark.form, Form::Rectangle { .. }) && is_swatch(bounds(mark)));
    let beside = |swatch: &Mark| {
        let [_, top, right, bottom] = bounds(swatch);
        let is_beside = |mark: &Mark| {
            let [left, text_top, _, text_bottom] = bounds(mark);
            (right..right + 12).contains(&left) && text_top < bottom && top < text_bottom
        };
        texts(drawing).find_map(|(mark, text, _)| is_beside(mark).then_some(text)).expect("it has a text")
    };
    swatches.map(|swatch| (swatch.ink, beside(swatch))).collect()
}

fn dashes(drawing: &Drawing) -> usize {
    let is_dash = |mark: &&Mark| match &mark.form {
        Form::Line { from, to, width } => *width == 2 && mark.ink == Ink::Faint && from.1 == to.1,
        _ => false,
    };
    drawing.marks.iter().filter(is_dash).count()
}

#[test]
fn no_text_lies_on_another_or_on_what_is_drawn_or_beyond_the_edge() {
    each_chart(|name, drawing| {
        for (number, mark) in drawing.marks.iter().enumerate() {
            let Form::Text { text, .. } = &mark.form else { continue };
            let [left, top, right, bottom] = bounds(mark);
            let is_inside = left >= 0 && top >= 0 && right <= WIDTH && bottom <= drawing.height;
            assert!(is_inside, "{name}: '{text}' is at {left} to {right}");
            let in_the_way = drawing.marks.iter().enumerate().find(|(other_number, other)| {
                *other_number != number && other.ink != Ink::Grid && meet(mark, other)
            });
            assert!(in_the_way.is_none(), "{name}: '{text}' lies on {in_the_way:?}");
        }
    });
}

#[test]
fn the_legend_has_each_color_of_the_chart_and_no_other() {
    each_chart(|name, drawing| {
        let legend = legend(drawing);
        let inks = Kind::ALL.map(Kind::ink).into_iter().chain([Ink::Broken]);
        for ink in inks {
            let (told, used) = (
                legend.iter().filter(|(told, _)| *told == ink).count(),
                drawing.marks.iter().filter(|mark| mark.ink == ink).count(),
            );
            // The legend's own square is one of those.
            let expected = usize::from(used > told);
            assert_eq!(told, expected, "{name}: {ink:?}, used {used} times");
        }
    });
    let inks =
        |name: &str| legend(&chart(&awkward(), name)).into_iter().map(|(ink, _)| ink).collect::<Vec<_>>();
    assert_eq!(inks("pool-forget.svg"), [Ink::Ours]);
    let all = [Ink::Ours, Ink::Peer, Ink::Bare, Ink::Passed, Ink::Broken];
    assert_eq!(inks("pool-complete_batch.svg"), all);
}

#[test]
fn a_dash_is_explained_and_only_where_there_is_one() {
    each_chart(|name, drawing| {
        let explained = texts(drawing).filter(|(_, text, _)| text.starts_with("no figure")).count();
        let dashes = dashes(drawing);
        assert!(dashes == 0 || dashes > 1, "{name}: one dash is only explained");
        assert_eq!(explained, usize::from(dashes > 0), "{name}");
    });
    assert_eq!(dashes(&chart(&awkward(), "kafka-consume.svg")), 3, "two that are explained by one more");
    assert_eq!(dashes(&chart(&awkward(), "pool-forget.svg")), 0);
}

#[test]
fn every_panel_has_an_axis_with_two_figures_at_least() {
    each_chart(|name, drawing| {
        let titles = texts(drawing).filter(|(_, _, font)| font.is_bold && font.size == 12);
        let lefts: Vec<i32> = titles.map(|(mark, ..)| bounds(mark)[0]).collect();
        assert!(!lefts.is_empty(), "{name} has no panel");
        for (number, left) in lefts.iter().enumerate() {
            let right = lefts.get(number + 1).copied().unwrap_or(WIDTH);
            let is_tick = |(mark, text, font): &(&Mark, &str, Font)| {
                let center = i32::midpoint(bounds(mark)[0], bounds(mark)[2]);
                font.size == TICK && !text.starts_with('p') && (left - 1..right - 12).contains(&center)
            };
            let ticks = texts(drawing).filter(is_tick).count();
            assert!(ticks >= 2, "{name}: panel {number} has {ticks}");
        }
    });
}

/// The bare client is ahead where handlers do nothing, and behind where they wait.
fn results_of_two_handlers() -> Results {
    let line = |variant, handler_us, per_s| {
        line("nats", "pull", variant, (1, handler_us), per_s, &Measured::default())
    };
    results(&[
        line("raw", 0, 239e3),
        line("keylane", 0, 160e3),
        line("raw", 1_000, 476.0),
        line("keylane", 1_000, 127e3),
    ])
}

#[test]
fn what_is_bare_says_whether_keylane_is_ahead_of_it_and_nothing_is_called_a_floor() {
    each_chart(|name, drawing| assert!(texts(drawing).all(|(_, text, _)| !text.contains("floor")), "{name}"));
    let results = |raw: f64| {
        results(&[
            line("kafka", "consume", "raw", (1, 0), raw, &Measured::default()),
            line("kafka", "consume", "keylane", (2, 0), 900e3, &Measured::default()),
        ])
    };
    let text = |raw: f64| legend(&chart(&results(raw), "kafka-consume.svg"))[1].1.to_owned();
    assert_eq!(text(1e6), "bare: keylane is not ahead");
    assert_eq!(text(600e3), "bare: keylane is ahead");
    let both = results_of_two_handlers();
    let inks: Vec<_> = legend(&chart(&both, "nats-pull.svg")).into_iter().map(|(ink, _)| ink).collect();
    assert_eq!(inks, [Ink::Ours, Ink::Bare, Ink::Passed], "each panel tells its own");
}

#[test]
fn variants_with_the_same_figure_are_told_apart_and_who_counted_nothing_has_no_row() {
    let drawing = chart(&awkward(), "kafka-consume-concurrency.svg");
    let dots = drawing.marks.iter().filter_map(|mark| match &mark.form {
        Form::Dot { at, .. } => Some(*at),
        _ => None,
    });
    let mut dots: Vec<_> = dots.collect();
    let all = dots.len();
    dots.sort_unstable();
    dots.dedup();
    assert_eq!((all, dots.len()), (8, 8), "two handlers, four variants of which three had as many at once");
    assert!(texts(&drawing).all(|(_, text, _)| text != "handler 0" && text != "ruststream by key"));
}

#[test]
fn the_table_and_the_chart_of_the_open_loop_have_the_p50_beside_the_p99() {
    let results = awkward();
    let drawing = chart(&results, "pool-rate.svg");
    let count = |searched: &str| texts(&drawing).filter(|(_, text, _)| *text == searched).count();
    assert_eq!((count("888 ns"), count("57.1 us")), (4, 4), "p50 and p99, of two crews");
    let table = crate::table::markdown(&results);
    let (_, rate) = table.split_once("## pool: rate").expect("it is there");
    assert!(rate.contains("### P1 W1") && rate.contains("### P1 W2"), "{rate}");
    assert!(rate.contains("| keylane | kept | 888 ns | 888 ns | 888 ns | 4.44 us |"), "{rate}");
}

#[test]
fn a_chart_names_the_processor_and_is_written_for_dark_pages_too() {
    let results = awkward();
    for (name, drawing) in drawings(&results) {
        let processor = "128 cores of Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz (GenuineIntel family 6 model \
                         143, virtual)";
        assert!(texts(&drawing).any(|(_, text, _)| text == processor), "{name}");
        let svg = drawing.svg();
        let (_, dark) = svg.split_once("@media (prefers-color-scheme: dark) {").expect("it has a dark style");
        for class in svg.split("class=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(dark.contains(&format!(".{class} {{")), "{name}: {class} is the same on a dark page");
        }
    }
}

#[test]
fn a_chart_says_how_many_of_its_runs_failed() {
    let line = line("kafka", "consume", "keylane", (2, 0), 900e3, &Measured::default());
    let mut rows = vec![written(&[line])];
    for failed in [
        "brokers kafka keylane consume 0 --url kafka://127.0.0.1:9092",
        "brokers kafka raw consume 10000 --url kafka://127.0.0.1:9092",
        "brokers kafka raw consume_zipf 0 --url kafka://127.0.0.1:9092",
        "pool run raw complete 1 2 2000000",
    ] {
        rows.push(format!("{{\"failed\":\"{failed}\",\"why\":\"no broker\"}}"));
    }
    let drawing = chart(&summary::parse(&rows.join("\n")).expect("is what is written"), "kafka-consume.svg");
    let footer = "N = 1 runs of 1.00 k messages; 2 more failed, see table.md";
    assert!(texts(&drawing).any(|(_, text, _)| text.ends_with(footer)));
}

#[test]
fn letters_that_svg_reads_as_its_own_are_escaped() {
    let mut drawing = Drawing::default();
    drawing.text((0, 0), "a<b & c", Font::of(11, Anchor::Start), Ink::Text);
    assert!(drawing.svg().contains(">a&lt;b &amp; c</text>"));
}
