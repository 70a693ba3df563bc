//! One test, a thousand worlds.

use super::judge::Twice;
use super::kit::{Sim, Without};
use super::quiet;
use super::story::Story;
use std::fmt::Debug;
use std::ops::Range;

/// The environment variable that runs one seed again.
const AGAIN: &str = "KEYLANE_SIM";

/// Runs a test once for each of these seeds, each in a world of its own.
///
/// ```
/// use keylane::{Envelope, sim};
/// use std::collections::BTreeSet;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
///
/// sim::seeds(0..20).run(|sim| {
///     // What survives a crash: the service's database, which remembers what it has booked.
///     let db = Arc::new(Mutex::new(BTreeSet::new()));
///     let books = db.clone();
///     sim.service("billing", 2, move |bus| {
///         let books = books.clone();
///         bus.subscribe_envelopes("orders").group("billing").handle(move |event| {
///             books.lock().unwrap().insert(event.envelope().ok_or("no Envelope")?.event_id().to_owned());
///             Ok(())
///         })
///     });
///     for n in sim.some(0..20) {
///         sim.publish("orders", Envelope::new(format!("order-{}", n % 5), "order.paid", 1, "995").unwrap());
///     }
///     sim.chaos(sim::Chaos::new().crashes(3).leaves(2).outages(1).lost_settles(2), Duration::from_millis(100));
///     sim.settle();
///     assert_eq!(db.lock().unwrap().len(), sim.published("orders").len());
/// });
/// ```
pub fn seeds(seeds: Range<u64>) -> Seeds {
    Seeds(seeds)
}

/// Seeds of worlds; made by [`seeds`].
#[derive(Debug, Clone)]
#[must_use = "nothing is run yet"]
pub struct Seeds(Range<u64>);

/// What a run came to.
struct Outcome<R> {
    /// The text of its panic.
    result: Result<R, String>,
    story: Story,
    hash: u64,
    acts: u32,
    handled: Vec<String>,
}

fn once<R>(seed: u64, without: &Without, twice: Twice, run: &impl Fn(&Sim<'_>) -> R) -> Outcome<R> {
    let sim = Sim::new(seed, without.clone(), twice);
    let result = quiet::call(|| {
        let result = sim.logged(|| run(&sim));
        sim.assert_promises();
        result
    });
    Outcome { result, story: sim.story(), hash: sim.world().hash(), acts: sim.acts(), handled: sim.handled() }
}

impl Seeds {
    /// Runs them. With `KEYLANE_SIM=SEED` or `KEYLANE_SIM=SEED-ACTS` in the environment, as a failure prints it, only
    /// that one.
    ///
    /// # Panics
    /// At the first seed that fails: with its panic, with what happened in the fewest acts (crashes, leaves, outages and
    /// what [`Sim::some`] yields) with which it fails, and with how to run it again. A seed that fails otherwise when it is
    /// run again is told as that: something in it does not follow from the seed.
    pub fn run(self, run: impl Fn(&Sim<'_>)) {
        let again = std::env::var(AGAIN).ok().map(|text| {
            parse(&text).unwrap_or_else(|| panic!("{AGAIN} is `SEED` or `SEED-ACT.ACT…`, not `{text}`"))
        });
        if let Some((seed, without)) = again {
            let outcome = once(seed, &without, Twice::None, &run);
            if let Err(text) = &outcome.result {
                panic!("{}", failure(seed, &without, text, &outcome.story));
            }
            return;
        }
        for seed in self.0 {
            let first = once(seed, &Without::new(), Twice::None, &run);
            let Err(text) = &first.result else { continue };
            let second = once(seed, &Without::new(), Twice::None, &run);
            assert!(
                first.hash == second.hash && second.result.is_err(),
                "seed {seed} fails, and not in the same way when it is run again: something in the handlers does not follow \
                 from the seed (the wall clock, the order of a map, another thread). It first differs here:\n{}\n{text}",
                difference(&first.story, &second.story)
            );
            let (without, least) = shrunk(seed, first, &run);
            let text = least.result.err().unwrap_or_default();
            panic!("{}", failure(seed, &without, &text, &least.story));
        }
    }

    /// Runs each as it is, and again with every record that was handled well handled once more, as after a crash between
    /// its effect and its commit: what `run` returns is to be the same.
    ///
    /// # Panics
    /// When it is not, with both and with the first record that is enough; and with `run`.
    ///
    /// ```should_panic
    /// use keylane::{Envelope, sim};
    /// use std::sync::{Arc, Mutex};
    ///
    /// sim::seeds(0..10).idempotent(|sim| {
    ///     let balance = Arc::new(Mutex::new(0));
    ///     let books = balance.clone();
    ///     sim.service("billing", 1, move |bus| {
    ///         let books = books.clone();
    ///         bus.subscribe_envelopes("orders").group("billing").handle(move |_| {
    ///             *books.lock().unwrap() += 995; // booked twice if it is handled twice
    ///             Ok(())
    ///         })
    ///     });
    ///     sim.publish("orders", Envelope::new("order-42", "order.paid", 1, "995").unwrap());
    ///     sim.settle();
    ///     *balance.lock().unwrap()
    /// });
    /// ```
    pub fn idempotent<R: PartialEq + Debug>(self, run: impl Fn(&Sim<'_>) -> R) {
        for seed in self.0 {
            let of = |twice| {
                let outcome = once(seed, &Without::new(), twice, &run);
                match outcome.result {
                    Ok(state) => (state, outcome.handled),
                    Err(text) => panic!("{}", failure(seed, &Without::new(), &text, &outcome.story)),
                }
            };
            let (wanted, handled) = of(Twice::None);
            let (found, _) = of(Twice::All);
            if wanted == found {
                continue;
            }
            let enough = (0..handled.len() as u64).find(|nth| of(Twice::Nth(*nth)).0 != wanted);
            let record = match enough {
                Some(nth) => format!("the record that is enough: {}", handled[nth as usize]),
                None => "no single record is enough".to_owned(),
            };
            panic!(
                "not idempotent, seed {seed}\n  each record handled once:  {wanted:?}\n  each record handled twice: \
                 {found:?}\n{record}"
            );
        }
    }
}

/// Leaves out one act after the other that the failure does not need.
fn shrunk<R>(seed: u64, whole: Outcome<R>, run: &impl Fn(&Sim<'_>) -> R) -> (Without, Outcome<R>) {
    let (mut without, mut least) = (Without::new(), whole);
    let mut size = least.acts.div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < least.acts {
            let mut more = without.clone();
            more.extend(from..(from + size).min(least.acts));
            if more.len() > without.len() {
                let outcome = once(seed, &more, Twice::None, run);
                if outcome.result.is_err() {
                    (without, least) = (more, outcome);
                }
            }
            from += size;
        }
        size /= 2;
    }
    (without, least)
}

fn failure(seed: u64, without: &Without, text: &str, story: &Story) -> String {
    format!(
        "seed {seed} fails: {text}\n\nwhat happened, with as few acts as it takes:\n{}\n\nrun it again: {AGAIN}={} cargo test",
        story.text(),
        written(seed, without)
    )
}

fn difference(first: &Story, second: &Story) -> String {
    let (first, second) = (first.lines(), second.lines());
    let at = first.iter().zip(&second).position(|(one, other)| one != other);
    let at = at.unwrap_or(first.len().min(second.len()));
    let line = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(its end)".to_owned());
    format!("  {}\n  {}", line(&first), line(&second))
}

/// A seed and the acts that are left out: `7`, or `7-0.3.12`.
fn written(seed: u64, without: &Without) -> String {
    let acts: Vec<String> = without.iter().map(u32::to_string).collect();
    if acts.is_empty() { seed.to_string() } else { format!("{seed}-{}", acts.join(".")) }
}

fn parse(text: &str) -> Option<(u64, Without)> {
    let Some((seed, acts)) = text.split_once('-') else { return Some((text.parse().ok()?, Without::new())) };
    let acts = acts.split('.').map(str::parse).collect::<Result<Without, _>>().ok()?;
    Some((seed.parse().ok()?, acts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for acts in [vec![], vec![0], vec![3, 12, 7]] {
            let without: Without = acts.into_iter().collect();
            assert_eq!(parse(&written(7, &without)), Some((7, without)));
        }
        assert_eq!(parse("seven"), None);
        assert_eq!(parse("7-x"), None);
    }
}
