//! Whether a stream that somebody else made can be read as a subscription is promised, and if not, why and what to do.

use super::api::{self, Context, ErrorCode};
use super::durable::Wanted;
use super::streams;
use crate::broker::{BrokerError, Start};
use crate::foreign;
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};

/// What a subscription needs of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) takes_envelopes: bool,
    /// The configuration says that records may be in memory.
    pub(super) allows_memory: bool,
    /// Other topics are in the stream, too.
    pub(super) is_shared: bool,
}

/// Looks at the stream before its consumer is created or taken over.
pub(super) async fn check(
    jetstream: &Context,
    stream: &Config,
    topic: &str,
    wanted: &Wanted,
    needs: Needs,
) -> Result<(), BrokerError> {
    let is_new = stream.retention == RetentionPolicy::Interest
        && api::consumer_info(jetstream, &stream.name, &wanted.name)
            .await
            .is_err_and(|fault| fault.code() == Some(ErrorCode::CONSUMER_NOT_FOUND));
    let start = is_new.then_some(wanted.start);
    if let Some(reason) = refusal(stream, topic, (start, wanted.max_ack_pending), needs) {
        return Err(BrokerError::Refused(reason));
    }
    let limit = stream.consumer_limits.as_ref().map(|limits| limits.inactive_threshold).unwrap_or_default();
    if !limit.is_zero() {
        foreign::warn!(
            stream = stream.name,
            topic,
            consumer = wanted.name,
            ?limit,
            "the stream deletes a consumer that nobody uses for so long, and the place of its group with it \
             (`consumer_limits.inactive_threshold`)"
        );
    }
    if !needs.is_shared {
        tell_of_others(jetstream, stream, topic, wanted).await;
    }
    Ok(())
}

/// Records that the stream takes beside those of the topic: somebody may publish them for this one.
async fn tell_of_others(jetstream: &Context, stream: &Config, topic: &str, wanted: &Wanted) {
    let prefix = wanted.filter.strip_suffix('*').unwrap_or(&wanted.filter);
    let deeper = format!("{prefix}*.>");
    if !streams::takes(stream, &deeper) {
        return;
    }
    // Where it may not be asked nothing is known, which is no reason to fail.
    if let Ok(Some(last)) = api::last_of(jetstream, &stream.name, &deeper).await {
        foreign::warn!(
            stream = stream.name,
            topic,
            subjects = deeper,
            last,
            "the stream has records of subjects with more tokens, which are not the topic's: a topic's subjects have \
             one token behind its name; subscribe to the topic of all tokens but the last to have them"
        );
    }
}

/// Why not. `start` is where a group begins that is not there yet and can't have what was published before, and beside
/// it how many unacknowledged messages its consumer needs.
fn refusal(
    stream: &Config,
    topic: &str,
    (start, max_ack_pending): (Option<Start>, usize),
    needs: Needs,
) -> Option<String> {
    let name = &stream.name;
    if needs.takes_envelopes && !needs.allows_memory && stream.storage == StorageType::Memory {
        return Some(format!(
            "stream `{name}` of topic `{topic}` keeps its records in memory, where they are gone with the server, and \
             Envelopes are not to be lost: keep the stream in files, allow it by `nats.storage = \"memory\"`, or \
             take plain records of it (`Bus::subscribe`)"
        ));
    }
    if start == Some(Start::Earliest) {
        return Some(format!(
            "stream `{name}` of topic `{topic}` keeps a record only for the groups that are there when it is published \
             (retention `interest`), so that a new group can't begin with the oldest: begin with `Start::Latest`, or \
             set the stream's retention to `limits`"
        ));
    }
    let limit = stream.consumer_limits.as_ref().map_or(0, |limits| limits.max_ack_pending);
    let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0)?;
    (limit < max_ack_pending).then(|| {
        let in_flight = if limit >= 2 * PREFETCHED { limit - PREFETCHED } else { limit / 2 };
        format!(
            "stream `{name}` of topic `{topic}` lets a consumer have {limit} unacknowledged messages \
             (`consumer_limits.max_ack_pending`), and {max_ack_pending} are asked for: set \
             `subscription.in_flight_records` to {in_flight} or less, or raise the stream's limit"
        )
    })
}

/// Asked for beyond what is in flight, at most, as many as are in flight where those are fewer.
const PREFETCHED: usize = super::PREFETCH.records;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use async_nats::jetstream::stream::ConsumerLimits;

    const NEEDS: Needs = Needs { takes_envelopes: true, allows_memory: false, is_shared: false };

    fn stream() -> Config {
        Config { name: "orders".to_owned(), subjects: vec!["orders.*".to_owned()], ..Config::default() }
    }

    #[test]
    fn envelopes_in_memory_are_refused_unless_the_configuration_says_memory() {
        let stream = Config { storage: StorageType::Memory, ..stream() };
        let text = refusal(&stream, "orders", (None, 5_120), NEEDS).expect("it may be lost");
        assert!(text.contains("`orders`") && text.contains("nats.storage"), "{text}");
        for needs in [Needs { allows_memory: true, ..NEEDS }, Needs { takes_envelopes: false, ..NEEDS }] {
            assert_eq!(refusal(&stream, "orders", (None, 5_120), needs), None);
        }
    }

    #[test]
    fn a_new_group_can_not_have_what_nobody_kept_for_it() {
        let text = refusal(&stream(), "orders", (Some(Start::Earliest), 10), NEEDS).expect("it is gone");
        assert!(text.contains("interest") && text.contains("Start::Latest"), "{text}");
        for start in [None, Some(Start::Latest)] {
            assert_eq!(refusal(&stream(), "orders", (start, 10), NEEDS), None);
        }
    }

    #[test]
    fn a_limit_of_the_stream_says_what_fits_into_it() {
        let limited = |max_ack_pending| {
            let consumer_limits = Some(ConsumerLimits { max_ack_pending, ..ConsumerLimits::default() });
            Config { consumer_limits, ..stream() }
        };
        for (limit, fits) in [(1_000, "500 or less"), (2_048, "1024 or less"), (4_000, "2976 or less")] {
            let text = refusal(&limited(limit), "orders", (None, 5_120), NEEDS).expect("it does not fit");
            assert!(text.contains(fits) && text.contains("max_ack_pending"), "{text}");
        }
        for limit in [0, -1, 5_120] {
            assert_eq!(refusal(&limited(limit), "orders", (None, 5_120), NEEDS), None);
        }
    }
}
