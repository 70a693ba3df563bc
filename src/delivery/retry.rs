//! What one failed attempt leads to.

use crate::handler::Failure;
use crate::policy::{FailurePolicy, Jitter, Retry, Then};
use std::time::Duration;

/// What to do with a record whose attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try again after this delay; the key waits.
    RetryAfter(Duration),
    /// Write it to the policy's dead-letter topic; the key waits until that is acknowledged.
    DeadLetter,
    /// Hold the key for an operator.
    Hold,
    /// Settle it.
    Discard,
    /// Stop the subscription.
    Halt,
    /// Give it back to the broker for this long.
    Redeliver(Duration),
}

/// Decides about a record whose attempt number `attempt` (from 1) has failed. `unit` is the random part of the
/// delay, in `[0, 1)`.
///
/// A terminal failure skips the attempts that are left. Undecodable bytes follow the policy like any terminal
/// failure, but are held where it says `Redeliver`: they would come back the same for ever.
pub(crate) fn decide(policy: &FailurePolicy, failure: &Failure, attempt: u32, unit: f64) -> Decision {
    debug_assert!(attempt >= 1, "attempts are counted from 1");
    let is_exhausted = policy.retry.attempts.is_some_and(|attempts| attempt >= attempts);
    if !is_exhausted && !failure.is_terminal() {
        return Decision::RetryAfter(backoff(&policy.retry, attempt, unit));
    }
    match policy.then {
        Then::DeadLetter(_) => Decision::DeadLetter,
        Then::Hold => Decision::Hold,
        Then::Discard => Decision::Discard,
        Then::Halt => Decision::Halt,
        Then::Redeliver { .. } if matches!(failure, Failure::Undecodable(_)) => Decision::Hold,
        Then::Redeliver { delay } => Decision::Redeliver(delay),
    }
}

/// Whether a record that its broker handed out so often before has no attempt left. Where records are given back to the
/// broker each comes again and again, and nothing can be said.
pub(crate) fn is_used_up(policy: &FailurePolicy, redeliveries: u32) -> bool {
    let is_given_back = matches!(policy.then, Then::Redeliver { .. });
    !is_given_back && policy.retry.attempts.is_some_and(|attempts| redeliveries >= attempts)
}

/// How long to wait before a dead letter is written again whose write number `attempt` (from 1) has failed. Without
/// end, as [`Retry::forever`]: a dead letter that is given up is a lost record.
pub(crate) fn dead_letter_backoff(attempt: u32, unit: f64) -> Duration {
    backoff(&Retry::forever(), attempt, unit)
}

fn backoff(retry: &Retry, attempt: u32, unit: f64) -> Duration {
    debug_assert!((0.0..1.0).contains(&unit), "the random part of a delay is in [0, 1), not {unit}");
    // The power grows to infinity, never to NaN, since a valid factor is at least 1: the comparison holds for every
    // attempt, and nothing is converted that does not fit.
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = retry.initial.as_secs_f64() * retry.factor.powi(exponent);
    let full = if grown < retry.max.as_secs_f64() { Duration::from_secs_f64(grown) } else { retry.max };
    match retry.jitter {
        Jitter::Full => full.mul_f64(unit),
        Jitter::None => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::HandlerError;
    use crate::policy::DeadLetter;
    use proptest::prelude::*;

    #[test]
    fn a_record_that_was_handed_out_as_often_as_it_may_be_tried_is_used_up() {
        let policy = |attempts: Option<u32>, then: Then| {
            let mut retry = Retry::forever();
            retry.attempts = attempts;
            FailurePolicy { retry, then }
        };
        assert!(!is_used_up(&policy(Some(3), Then::Hold), 2));
        assert!(is_used_up(&policy(Some(3), Then::Hold), 3));
        assert!(!is_used_up(&policy(None, Then::Hold), 1_000_000));
        assert!(!is_used_up(&policy(Some(3), Then::Redeliver { delay: MS }), 7));
    }

    const MS: Duration = Duration::from_millis(1);
    const ALMOST_ONE: f64 = 1.0 - f64::EPSILON;

    fn retriable() -> Failure {
        Failure::Error("x".into())
    }

    #[test]
    fn delays_grow_by_the_factor_up_to_the_maximum() {
        let retry = Retry::exponential(100 * MS..1_000 * MS).jitter(Jitter::None);
        let policy = FailurePolicy { retry, then: Then::Hold };
        let delays: Vec<_> = (1..=6).map(|attempt| decide(&policy, &retriable(), attempt, 0.5)).collect();
        let expected = [100, 200, 400, 800, 1_000, 1_000].map(|ms| Decision::RetryAfter(ms * MS));
        assert_eq!(delays, expected);
    }

    #[test]
    fn full_jitter_is_a_part_of_the_delay() {
        let policy = FailurePolicy { retry: Retry::exponential(100 * MS..1_000 * MS), then: Then::Hold };
        assert_eq!(decide(&policy, &retriable(), 2, 0.0), Decision::RetryAfter(Duration::ZERO));
        assert_eq!(decide(&policy, &retriable(), 2, 0.25), Decision::RetryAfter(50 * MS));
        assert_eq!(dead_letter_backoff(1, 0.5), 50 * MS);
        assert_eq!(dead_letter_backoff(u32::MAX, 0.5), Duration::from_secs(15));
    }

    #[test]
    fn attempts_are_counted_in_total() {
        let policy = FailurePolicy { retry: Retry::forever().attempts(3), then: Then::Discard };
        let decisions = [1, 2, 3, 4].map(|attempt| decide(&policy, &retriable(), attempt, 0.0));
        let again = Decision::RetryAfter(Duration::ZERO);
        assert_eq!(decisions, [again, again, Decision::Discard, Decision::Discard]);
        assert_eq!(decide(&FailurePolicy::for_plain(), &retriable(), 1, 0.0), Decision::Discard);
    }

    #[test]
    fn a_panic_and_a_missed_deadline_are_tried_again() {
        let policy = FailurePolicy::for_envelopes();
        for failure in [Failure::Panic("x".into()), Failure::DeadlineExceeded(MS)] {
            assert_eq!(
                decide(&policy, &failure, u32::MAX, 0.5),
                Decision::RetryAfter(Duration::from_secs(15))
            );
        }
    }

    #[test]
    fn a_terminal_failure_skips_the_attempts_that_are_left() {
        let outcomes = [
            (DeadLetter::to("dead").into(), Decision::DeadLetter, Decision::DeadLetter),
            (Then::Hold, Decision::Hold, Decision::Hold),
            (Then::Discard, Decision::Discard, Decision::Discard),
            (Then::Halt, Decision::Halt, Decision::Halt),
            (Then::Redeliver { delay: MS }, Decision::Redeliver(MS), Decision::Hold),
        ];
        for (then, of_an_error, of_undecodable_bytes) in outcomes {
            let policy = FailurePolicy { retry: Retry::forever(), then };
            let error = Failure::Error(HandlerError::terminal("x"));
            assert_eq!(decide(&policy, &error, 1, 0.5), of_an_error, "{policy:?}");
            let undecodable = Failure::Undecodable("x".into());
            assert_eq!(decide(&policy, &undecodable, 1, 0.5), of_undecodable_bytes, "{policy:?}");
        }
    }

    #[test]
    fn an_envelope_that_cannot_be_read_is_held_by_default() {
        let failure = Failure::Undecodable("x".into());
        assert_eq!(decide(&FailurePolicy::for_envelopes(), &failure, 1, 0.5), Decision::Hold);
    }

    proptest! {
        #[test]
        fn no_valid_policy_and_no_attempt_overflows(
            initial in 1u64..=604_800_000_000_000,
            longer in 0u64..=604_800_000_000_000,
            factor in prop_oneof![Just(1.0), 1.0..4.0, Just(f64::MAX)],
            full in any::<bool>(),
            attempt in prop_oneof![1u32..100, any::<u32>().prop_map(|n| n.max(1)), Just(u32::MAX)],
            unit in prop_oneof![Just(0.0), 0.0..1.0, Just(ALMOST_ONE)],
        ) {
            let initial = Duration::from_nanos(initial);
            let max = (initial + Duration::from_nanos(longer)).min(Duration::from_secs(604_800));
            let jitter = if full { Jitter::Full } else { Jitter::None };
            let retry = Retry::exponential(initial..max).factor(factor).jitter(jitter);
            let policy = FailurePolicy { retry, then: Then::Hold };
            prop_assert_eq!(policy.validate(), Ok(()));
            let Decision::RetryAfter(delay) = decide(&policy, &retriable(), attempt, unit) else {
                return Err(TestCaseError::fail("attempts without end came to an end"));
            };
            prop_assert!(delay <= max, "{delay:?} is longer than {max:?}");
            if !full {
                prop_assert!(delay >= initial, "{delay:?} is shorter than {initial:?}");
            }
            // A later attempt never waits less than an earlier one with the same luck.
            let Decision::RetryAfter(next) = decide(&policy, &retriable(), attempt.saturating_add(1), unit) else {
                return Err(TestCaseError::fail("attempts without end came to an end"));
            };
            prop_assert!(next >= delay, "{next:?} after {delay:?}");
        }
    }
}
