//! The promises P1 to P8, each as functions over a backend, run on every backend there is. Beside each check stands a
//! planted fault that it catches: a check that can't fail proves nothing.

#![allow(unreachable_pub, reason = "the modules of a test program have no public face")]

#[path = "../support/mod.rs"]
mod support;

mod backend;
mod book;
mod p1_order;
mod p2_never_lost;
mod p3_plain;
mod p4_alone;
mod p5_bounded;
mod p6_panics;
mod p7_visible;
mod p8_close;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod remote;
mod waiting;

/// Each line: the name, the check, the fault that it catches.
macro_rules! promises {
    ($($name:ident: $check:path, $fault:ident;)*) => {
        $(mod $name {
            use crate::backend::{Backend, Check, Fault, Memory, Planted};
            #[cfg(any(feature = "kafka", feature = "nats"))]
            use crate::remote;

            const CHECK: Check = $check;

            fn holds_on(backend: &dyn Backend) {
                crate::support::quiet_planted_panics();
                if let Err(violation) = CHECK(backend) {
                    panic!("broken on {}: {violation}", backend.name());
                }
            }

            #[test]
            fn memory() {
                holds_on(&Memory);
            }

            #[cfg(feature = "kafka")]
            #[test]
            fn kafka() {
                holds_on(&remote::Kafka);
            }

            #[cfg(feature = "nats")]
            #[test]
            fn nats() {
                holds_on(&remote::Nats);
            }

            #[test]
            fn catches_its_planted_fault() {
                crate::support::quiet_planted_panics();
                crate::support::be_impatient();
                let caught = CHECK(&Planted(&Memory, Fault::$fault));
                assert!(caught.is_err(), "the check passes over a backend with the fault {:?}", Fault::$fault);
            }
        })*
    };
}

promises! {
    p1_order_through_failures_panics_and_retries: crate::p1_order::through_failures, Unordered;
    p1_order_over_several_topics: crate::p1_order::over_several_topics, Unordered;
    p1_whatever_a_key_is_made_of_it_has_order: crate::p1_order::of_any_keys, Unordered;
    p1_the_places_of_a_key_have_an_order: crate::p1_order::of_places, Unordered;
    records_without_a_key_go_to_all_workers: crate::p1_order::without_a_key, OneKey;
    p1_a_dead_letter_under_way_holds_its_key: crate::p1_order::behind_a_dead_letter, GivesUp;
    p1_order_through_rebalances: crate::p1_order::through_rebalances, Unordered;
    p1_order_through_crashes: crate::p1_order::through_crashes, Unordered;
    p1_publishes_are_stored_in_the_order_of_the_calls: crate::p1_order::of_publishes, PublishesApart;
    p1_a_waiting_key_delays_no_other_subscription: crate::p1_order::other_subscriptions_go_on, GivesUp;
    p2_every_envelope_is_handled_through_crashes: crate::p2_never_lost::through_crashes, AcknowledgesEarly;
    p2_a_failed_envelope_is_handled_in_the_end: crate::p2_never_lost::through_failures, GivesUp;
    p2_a_failed_dead_letter_leaves_its_record_pending: crate::p2_never_lost::through_failed_dead_letters, GivesUp;
    p2_what_is_published_twice_is_stored_twice: crate::p2_never_lost::published_twice, StoresOnce;
    p2_bytes_that_are_no_envelope_are_kept: crate::p2_never_lost::undecodable, GivesUp;
    p3_a_failed_plain_record_is_settled: crate::p3_plain::never_retried, RetriesPlain;
    p3_at_most_once_settles_first: crate::p3_plain::at_most_once, AtLeastOnce;
    p4_a_bad_key_delays_only_itself: crate::p4_alone::others_go_on, OneKey;
    p5_records_in_flight_are_bounded: crate::p5_bounded::records, Unbounded;
    p5_bytes_in_flight_are_bounded: crate::p5_bounded::bytes, Unbounded;
    p5_the_distance_from_the_watermark_is_bounded: crate::p5_bounded::distance, Unbounded;
    p5_the_publisher_is_bounded: crate::p5_bounded::publisher, AlwaysReachable;
    p5_a_full_member_is_a_live_member: crate::p5_bounded::full_and_alive, Unbounded;
    p6_a_panic_is_an_error: crate::p6_panics::is_an_error, SwallowsPanics;
    p6_a_handler_with_state_is_made_anew: crate::p6_panics::made_anew, SwallowsPanics;
    p7_a_held_key_shows: crate::p7_visible::held, GivesUp;
    p7_a_full_window_shows: crate::p7_visible::full_window, Unbounded;
    p7_an_unreachable_broker_shows: crate::p7_visible::unreachable, AlwaysReachable;
    p7_a_hung_handler_shows: crate::p7_visible::hung, NeverHung;
    p8_a_drain_ends_all_and_reports_the_rest: crate::p8_close::drain, Forgets;
    p8_a_drain_has_a_limit: crate::p8_close::limit, Forgets;
    p8_nothing_is_left_of_a_closed_bus: crate::p8_close::nothing_left, Forgets;
    caught_up_waits_for_what_is_tried_again: crate::waiting::caught_up_with_retries, GivesUp;
    caught_up_waits_for_other_members: crate::waiting::caught_up_with_others, GivesUp;
    caught_up_goes_on_when_the_broker_is_back: crate::waiting::caught_up_through_trouble, GivesUp;
    until_sees_every_count: crate::waiting::until, GivesUp;
}
