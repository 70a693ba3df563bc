//! Consumer groups: who is a member, and which member owns which partition.

use super::topic::Topic;
use crate::broker::{Partition, Polled, Start};
use crate::delivery::Lease;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use std::task::Waker;
use std::time::Instant;

/// One member of a group, as its group sees it.
pub(super) struct Member {
    id: u64,
    topics: Vec<Arc<Topic>>,
    wake: Waker,
    events: Mutex<Events>,
    lease: Lease,
    /// It hears nothing of the group, and the group nothing of it: a planted fault.
    is_cut_off: AtomicBool,
}

/// What a member finds at its next poll.
#[derive(Default)]
struct Events {
    polled: Vec<Polled>,
    is_expelled: bool,
}

impl Member {
    /// Moves what there is to tell into `out`; true if the member was expelled and has to join again.
    pub(super) fn take_events(&self, out: &mut Vec<Polled>) -> bool {
        let mut events = self.events.lock();
        out.append(&mut events.polled);
        std::mem::take(&mut events.is_expelled)
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn is_cut_off(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of `cut_off`, whose wake follows it.
        self.is_cut_off.load(Ordering::Acquire)
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.wake
    }

    pub(super) fn topic(&self, index: u32) -> &Arc<Topic> {
        &self.topics[index as usize]
    }

    fn index_of(&self, topic: &Arc<Topic>) -> Option<u32> {
        self.topics.iter().position(|t| Arc::ptr_eq(t, topic)).map(|index| index as u32)
    }
}

/// A consumer group: its members and the positions that outlive them.
#[derive(Default)]
pub(super) struct Group(Mutex<GroupState>);

#[derive(Default)]
struct GroupState {
    last_member: u64,
    /// In the order of joining.
    members: Vec<Arc<Member>>,
    /// Expelled and not back yet: no partition goes to them.
    expelled: Vec<u64>,
    topics: Vec<GroupTopic>,
}

/// What a group knows of a topic that one of its members ever subscribed to.
struct GroupTopic {
    topic: Arc<Topic>,
    slot: usize,
    seats: Vec<Seat>,
}

/// Who owns a partition.
#[derive(Debug, Clone, Default)]
struct Seat {
    /// Of the present or last owner.
    generation: u64,
    owner: Option<u64>,
    /// The owner was asked to release it.
    is_revoking: bool,
}

/// Members that have new events and are woken once no lock is held.
#[must_use = "who has new events must be woken"]
#[derive(Default)]
pub(super) struct ToWake(Vec<Waker>);

impl ToWake {
    pub(super) fn wake(self) {
        self.0.into_iter().for_each(crate::foreign::wake);
    }
}

impl Group {
    /// A new member with its share of the partitions, and the slot of the group in each of the topics. A topic that
    /// is new to the group gets its position here, so that nothing published after this returns is missed.
    pub(super) fn join(
        &self,
        topics: Vec<Arc<Topic>>,
        start: Start,
        wake: Waker,
    ) -> (Arc<Member>, Vec<usize>, ToWake) {
        let mut state = self.0.lock();
        let slots = topics.iter().map(|topic| state.slot(topic, start)).collect();
        state.last_member += 1;
        let member = Arc::new(Member {
            id: state.last_member,
            topics,
            wake,
            events: Mutex::new(Events::default()),
            lease: Lease::forever(),
            is_cut_off: AtomicBool::new(false),
        });
        state.members.push(member.clone());
        (member, slots, state.rebalance())
    }

    /// The member is gone: what it owned moves at once.
    pub(super) fn leave(&self, member: &Member) -> ToWake {
        let mut state = self.0.lock();
        state.members.retain(|other| other.id != member.id);
        state.expelled.retain(|&id| id != member.id);
        state.vacate(|_, _, seat| seat.owner == Some(member.id));
        state.rebalance()
    }

    /// Takes everything from the member that joined `index`-th of those that are there; it is told, and gets
    /// partitions again when it comes back. False: there is no such member.
    pub(super) fn expel(&self, index: usize) -> Option<ToWake> {
        let mut state = self.0.lock();
        let member = state.members.get(index)?.clone();
        if !state.expelled.contains(&member.id) {
            state.expelled.push(member.id);
        }
        let mut lost = Vec::new();
        state.vacate(|topic, partition, seat| {
            let is_lost = seat.owner == Some(member.id);
            if is_lost {
                let topic = member.index_of(topic);
                lost.extend(topic.map(|topic| Partition { topic, partition, generation: seat.generation }));
            }
            is_lost
        });
        {
            let mut events = member.events.lock();
            // What it was not told of yet it never had: another member may own it before it polls.
            events.polled.retain(|polled| {
                if let Polled::Assigned(untold, _) = polled {
                    lost.retain(|partition| partition != untold);
                }
                matches!(polled, Polled::Lost(_))
            });
            member.lease.end();
            events.polled.extend(lost.into_iter().map(Polled::Lost));
            events.is_expelled = true;
        }
        let mut to_wake = state.rebalance();
        to_wake.0.push(member.wake.clone());
        Some(to_wake)
    }

    /// Cuts the member off that joined `index`-th of those that are there, for longer than the group would wait for it,
    /// or lets it hear of the group again: at its next poll. None: there is no such member.
    pub(super) fn cut_off(&self, index: usize, is_cut_off: bool) -> Option<ToWake> {
        let state = self.0.lock();
        let member = state.members.get(index)?.clone();
        // ORDERING: Release; see `Member::is_cut_off`.
        let was_cut_off = member.is_cut_off.swap(is_cut_off, Ordering::Release);
        if is_cut_off && !was_cut_off {
            member.lease.end();
        }
        drop(state);
        Some(ToWake(vec![member.wake.clone()]))
    }

    /// The member heard of the group: what is its own stays so.
    pub(super) fn vouch_for(&self, member: &Member, until: Instant) {
        // Locked, so that a member which is cut off meanwhile is not vouched for any more.
        let _state = self.0.lock();
        if !member.is_cut_off() {
            member.lease.extend(until);
        }
    }

    /// An expelled member is back.
    pub(super) fn rejoin(&self, member: &Member) -> ToWake {
        let mut state = self.0.lock();
        state.expelled.retain(|&id| id != member.id);
        state.rebalance()
    }

    /// The owner gives the partition up; nothing happens if it lost it already.
    pub(super) fn release(&self, member: &Member, released: Partition) -> ToWake {
        let mut state = self.0.lock();
        let topic = member.topic(released.topic);
        state.vacate(|of, partition, seat| {
            Arc::ptr_eq(of, topic)
                && partition == released.partition
                && seat.owner == Some(member.id)
                && seat.generation == released.generation
        });
        // Lost in the same moment: what it has given up is no news to it.
        let is_news = |polled: &Polled| !matches!(polled, Polled::Lost(lost) if *lost == released);
        member.events.lock().polled.retain(is_news);
        state.rebalance()
    }

    pub(super) fn members(&self) -> usize {
        self.0.lock().members.len()
    }

    /// The slot of the group in the topic, if it has a position there.
    pub(super) fn slot(&self, topic: &Arc<Topic>) -> Option<usize> {
        self.0.lock().topics.iter().find(|known| Arc::ptr_eq(&known.topic, topic)).map(|known| known.slot)
    }

    /// Gives up all positions and returns the topics in which there may be room now. The group has no members, and
    /// none joins meanwhile.
    pub(super) fn forget(&self) -> Vec<Arc<Topic>> {
        let known = std::mem::take(&mut self.0.lock().topics);
        known.iter().for_each(|known| known.topic.remove_group(known.slot));
        known.into_iter().map(|known| known.topic).collect()
    }
}

impl GroupState {
    fn slot(&mut self, topic: &Arc<Topic>, start: Start) -> usize {
        if let Some(known) = self.topics.iter().find(|known| Arc::ptr_eq(&known.topic, topic)) {
            return known.slot;
        }
        let slot = topic.add_group(start);
        let seats = vec![Seat::default(); topic.partitions().len()];
        self.topics.push(GroupTopic { topic: topic.clone(), slot, seats });
        slot
    }

    /// Ends the ownership of the seats that `is_vacated` names. From then on the owner's commits are refused.
    fn vacate(&mut self, mut is_vacated: impl FnMut(&Arc<Topic>, u32, &Seat) -> bool) {
        for known in &mut self.topics {
            for (partition, seat) in known.seats.iter_mut().enumerate() {
                if is_vacated(&known.topic, partition as u32, seat) {
                    known.topic.partitions()[partition].lock().cursor(known.slot).0.end();
                    seat.owner = None;
                    seat.is_revoking = false;
                }
            }
        }
    }

    /// Moves what has to move for an even spread: free partitions at once, owned ones by asking their owner.
    fn rebalance(&mut self) -> ToWake {
        let members: Vec<_> =
            self.members.iter().filter(|m| !self.expelled.contains(&m.id)).cloned().collect();
        let subscribed: Vec<Vec<usize>> = self
            .topics
            .iter()
            .map(|known| {
                (0..members.len()).filter(|&m| members[m].index_of(&known.topic).is_some()).collect()
            })
            .collect();
        let owned: Vec<(usize, Option<usize>)> = self
            .topics
            .iter()
            .enumerate()
            .flat_map(|(topic, known)| known.seats.iter().map(move |seat| (topic, seat)))
            .map(|(topic, seat)| {
                let stays = seat.owner.filter(|_| !seat.is_revoking);
                (topic, stays.and_then(|owner| members.iter().position(|member| member.id == owner)))
            })
            .collect();
        let mut targets = spread(&owned, &subscribed, members.len()).into_iter();
        let mut to_wake = ToWake::default();
        for known in &mut self.topics {
            for (partition, seat) in known.seats.iter_mut().enumerate() {
                let Some(target) = targets.next().flatten().map(|index| &members[index]) else { continue };
                let (receiver, generation) = match seat.owner {
                    Some(owner) if owner == target.id || seat.is_revoking => continue,
                    Some(owner) => {
                        let Some(owner) = members.iter().find(|member| member.id == owner) else { continue };
                        (owner, seat.generation)
                    }
                    None => (target, seat.generation + 1),
                };
                let Some(topic) = receiver.index_of(&known.topic) else { continue };
                let told = Partition { topic, partition: partition as u32, generation };
                let polled = if seat.owner.is_some() {
                    seat.is_revoking = true;
                    Polled::Revoked(told)
                } else {
                    *seat = Seat { generation, owner: Some(target.id), is_revoking: false };
                    let mut state = known.topic.partitions()[partition].lock();
                    Polled::Assigned(told, state.cursor(known.slot).0.begin(generation, target.wake.clone()))
                };
                receiver.events.lock().polled.push(polled);
                to_wake.0.push(receiver.wake.clone());
            }
        }
        to_wake
    }
}

/// Who should own each partition: per topic even to within one over its subscribers, in total as even as that
/// allows, and with as few moves as that takes.
///
/// `owned` lists each partition's topic and owner, `subscribed` the members of each topic, as indices.
fn spread(owned: &[(usize, Option<usize>)], subscribed: &[Vec<usize>], members: usize) -> Vec<Option<usize>> {
    let mut in_topic = vec![vec![0_usize; members]; subscribed.len()];
    let mut in_total = vec![0_usize; members];
    let mut targets: Vec<Option<usize>> = owned.iter().map(|&(_, owner)| owner).collect();
    for &(topic, owner) in owned {
        if let Some(owner) = owner {
            in_topic[topic][owner] += 1;
            in_total[owner] += 1;
        }
    }
    // Each move lowers the sum of squares over the topics, or leaves it and lowers the one over the totals, so the
    // loop ends.
    let mut is_settled = false;
    while !is_settled {
        is_settled = true;
        for (&(topic, _), target) in owned.iter().zip(&mut targets) {
            let load = |member: usize| (in_topic[topic][member], in_total[member]);
            let Some(&least) = subscribed[topic].iter().min_by_key(|&&member| load(member)) else { continue };
            let is_better = target.is_none_or(|owner| {
                let ((owner_topic, owner_total), (least_topic, least_total)) = (load(owner), load(least));
                owner_topic >= least_topic + 2
                    || (owner_topic == least_topic + 1 && owner_total >= least_total + 2)
            });
            if is_better {
                if let Some(owner) = target.replace(least) {
                    in_topic[topic][owner] -= 1;
                    in_total[owner] -= 1;
                }
                in_topic[topic][least] += 1;
                in_total[least] += 1;
                is_settled = false;
            }
        }
    }
    targets
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Spread = (Vec<(usize, Option<usize>)>, Vec<Vec<usize>>, usize);

    /// Topics with their partitions' owners (any number is taken modulo the subscribers) and their subscribers.
    fn groups() -> impl Strategy<Value = Spread> {
        (1_usize..5).prop_flat_map(|members| {
            let topic = (
                proptest::sample::subsequence((0..members).collect::<Vec<_>>(), 0..=members),
                proptest::collection::vec(proptest::option::of(0_usize..16), 1..9),
            );
            proptest::collection::vec(topic, 1..4).prop_map(move |topics| {
                let owned = topics
                    .iter()
                    .enumerate()
                    .flat_map(|(topic, (subscribers, owners))| {
                        owners.iter().map(move |owner| {
                            let member = |owner: usize| subscribers.get(owner % subscribers.len().max(1));
                            (topic, owner.and_then(member).copied())
                        })
                    })
                    .collect();
                (owned, topics.into_iter().map(|(subscribers, _)| subscribers).collect(), members)
            })
        })
    }

    fn counts(targets: &[(usize, Option<usize>)], topic: usize, subscribers: &[usize]) -> Vec<usize> {
        subscribers.iter().map(|&m| targets.iter().filter(|&&t| t == (topic, Some(m))).count()).collect()
    }

    proptest! {
        #[test]
        fn every_topic_is_spread_evenly_over_its_subscribers((owned, subscribed, members) in groups()) {
            let targets = spread(&owned, &subscribed, members);
            let targets: Vec<_> = owned.iter().zip(targets).map(|(&(topic, _), target)| (topic, target)).collect();
            for (topic, subscribers) in subscribed.iter().enumerate() {
                let counts = counts(&targets, topic, subscribers);
                let (least, most) = (counts.iter().min(), counts.iter().max());
                prop_assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1, "{targets:?}");
                prop_assert_eq!(
                    counts.iter().sum::<usize>(),
                    if subscribers.is_empty() { 0 } else { targets.iter().filter(|t| t.0 == topic).count() },
                );
            }
        }

        #[test]
        fn an_even_spread_stays_as_it_is((owned, subscribed, members) in groups()) {
            let once = spread(&owned, &subscribed, members);
            let owned: Vec<_> = owned.iter().zip(&once).map(|(&(topic, _), &target)| (topic, target)).collect();
            prop_assert_eq!(spread(&owned, &subscribed, members), once);
        }
    }

    #[test]
    fn a_newcomer_gets_its_share_and_the_rest_does_not_move() {
        let owned: Vec<_> = [0, 0, 1, 1, 0, 1].map(|owner| (0, Some(owner))).to_vec();
        let targets = spread(&owned, &[vec![0, 1, 2]], 3);
        let moved: Vec<_> =
            owned.iter().zip(&targets).filter(|((_, owner), target)| owner != *target).collect();
        assert_eq!(moved.len(), 2);
        assert!(moved.iter().all(|(_, target)| **target == Some(2)));
    }

    #[test]
    fn topics_of_one_partition_are_spread_too() {
        let owned: Vec<_> = (0..4).map(|topic| (topic, Some(0))).collect();
        let targets = spread(&owned, &vec![vec![0, 1]; 4], 2);
        assert_eq!(targets.iter().filter(|target| **target == Some(1)).count(), 2);
    }
}
