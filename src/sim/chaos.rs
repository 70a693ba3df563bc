//! Faults at random times.

use super::kit::Sim;
use std::time::Duration;

/// How often, at most, what happens to the services and the broker of a simulation; see [`Sim::chaos`].
///
/// ```
/// use keylane::sim::Chaos;
///
/// let rough = Chaos::new().crashes(3).leaves(2).outages(1).lost_settles(2);
/// # let _ = rough;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Chaos {
    crashes: u32,
    leaves: u32,
    outages: u32,
    lost_settles: u32,
    failed_publishes: u32,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Crash,
    Leave,
    Outage,
    LostSettle,
    FailedPublish,
}

impl Chaos {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Processes that are killed and started again.
    pub fn crashes(mut self, most: u32) -> Self {
        self.crashes = most;
        self
    }

    /// Processes that close their bus, as in a deployment, and are started again.
    pub fn leaves(mut self, most: u32) -> Self {
        self.leaves = most;
        self
    }

    /// Times of half a second in which the broker reaches nobody.
    pub fn outages(mut self, most: u32) -> Self {
        self.outages = most;
        self
    }

    /// Settles that the broker loses: what was handled is handled again after the next change of its owner.
    pub fn lost_settles(mut self, most: u32) -> Self {
        self.lost_settles = most;
        self
    }

    /// Publishes that fail once, and are tried again.
    pub fn failed_publishes(mut self, most: u32) -> Self {
        self.failed_publishes = most;
        self
    }

    fn drawn(self, random: &mut fastrand::Rng, within: Duration) -> Vec<(Duration, Blow, u64)> {
        let kinds = [
            (self.crashes, Blow::Crash),
            (self.leaves, Blow::Leave),
            (self.outages, Blow::Outage),
            (self.lost_settles, Blow::LostSettle),
            (self.failed_publishes, Blow::FailedPublish),
        ];
        let mut blows = Vec::new();
        for (most, blow) in kinds {
            for _ in 0..random.u32(0..=most) {
                blows.push((within.mul_f64(random.f64()), blow, random.u64(..)));
            }
        }
        blows.sort_unstable();
        blows
    }
}

impl Sim<'_> {
    /// Has faults happen, each at a random time within `within`; how many, the seed decides. The time has passed when this
    /// returns, and processes that were killed are there again. Each of them may be left out when a failure is told in as
    /// few acts as it takes.
    pub fn chaos(&self, chaos: Chaos, within: Duration) {
        let mut random = fastrand::Rng::with_seed(self.seed() ^ 0x00C4_A05C);
        let start = self.now();
        for (at, blow, drawn) in chaos.drawn(&mut random, within) {
            self.after((start + at).saturating_sub(self.now()));
            if !self.next_act() {
                continue;
            }
            let faults = self.broker().faults();
            match blow {
                Blow::Crash => self.restart_any(drawn, true),
                Blow::Leave => self.restart_any(drawn, false),
                Blow::Outage => {
                    self.say("the broker reaches nobody for half a second");
                    faults.pause_deliveries(true);
                    self.after(Duration::from_millis(500));
                    faults.pause_deliveries(false);
                }
                Blow::LostSettle => {
                    self.say("the next settle is lost");
                    faults.lose_next_settles(1);
                }
                Blow::FailedPublish => {
                    let topics = self.topics();
                    if let Some(topic) = topics.get(drawn as usize % topics.len().max(1)) {
                        self.say(&format!("the next publish to `{topic}` fails"));
                        faults.fail_next_publishes(topic, 1);
                    }
                }
            }
        }
        self.after((start + within).saturating_sub(self.now()));
    }
}
