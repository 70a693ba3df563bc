//! When to ask the client for records, and when to stop the partitions: a state machine without a client or a clock.
//!
//! Without room, asking just rests at first: what the client fetched ahead stays where it is. When that lasts, the
//! partitions are paused, which drops that, and asking goes on: the group would throw out a member that does not ask, and
//! a rebalance must be heard.

use std::time::{Duration, Instant};

/// How long asking rests.
const REST: Duration = Duration::from_millis(200);

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    None,
    Some,
    /// Enough that it is worth fetching again what pausing dropped.
    Ample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Resting(Instant),
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ask, for as much as there is room for.
    Ask,
    /// Do not ask until then, or until there is room.
    Rest(Instant),
    /// The partitions are to be paused; ask for what is no record.
    Paused,
}

#[derive(Debug)]
pub(super) struct Flow(State);

impl Flow {
    pub(super) fn new() -> Self {
        Self(State::Open)
    }

    pub(super) fn turn(&mut self, room: Room, now: Instant) -> Turn {
        self.0 = match (self.0, room) {
            (State::Paused, Room::None | Room::Some) => State::Paused,
            (_, Room::Some | Room::Ample) => State::Open,
            (State::Open, Room::None) => State::Resting(now + REST),
            (State::Resting(until), Room::None) if now >= until => State::Paused,
            (resting @ State::Resting(_), Room::None) => resting,
        };
        match self.0 {
            State::Open => Turn::Ask,
            State::Resting(until) => Turn::Rest(until),
            State::Paused => Turn::Paused,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.0 == State::Paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_room_asking_rests_and_then_the_partitions_are_paused() {
        let (mut flow, now) = (Flow::new(), Instant::now());
        assert_eq!(flow.turn(Room::Some, now), Turn::Ask);
        assert_eq!(flow.turn(Room::None, now), Turn::Rest(now + REST));
        assert_eq!(flow.turn(Room::None, now + REST / 2), Turn::Rest(now + REST), "the time goes on");
        assert_eq!(flow.turn(Room::None, now + REST), Turn::Paused);
        assert_eq!(flow.turn(Room::None, now + 9 * REST), Turn::Paused);
    }

    #[test]
    fn a_little_room_ends_a_rest_but_no_pause() {
        let (mut flow, now) = (Flow::new(), Instant::now());
        flow.turn(Room::None, now);
        assert_eq!(flow.turn(Room::Some, now), Turn::Ask);
        flow.turn(Room::None, now);
        assert_eq!(flow.turn(Room::None, now + REST), Turn::Paused);
        assert_eq!(flow.turn(Room::Some, now + REST), Turn::Paused);
        assert_eq!(flow.turn(Room::Ample, now + REST), Turn::Ask);
    }
}
