//! What a member asks its server for, and what the server says of it.

use super::{Action, Incoming, Member};
use crate::broker::nats::demand::{Amount, Request};
use crate::foreign;
use async_nats::{Message, StatusCode};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// The longest that a pull is open, and the shortest that is worth one.
const LONGEST_PULL: Duration = Duration::from_secs(10);
const SHORTEST_PULL: Duration = Duration::from_millis(20);
/// How much longer than it says a pull may take to end before it is taken for lost.
const GRACE: Duration = Duration::from_secs(2);
/// What is collected and does not come within this time after what came before it is not there to be delivered.
pub(super) const COLLECTED: Duration = Duration::from_millis(250);
/// The same where what does not come is given up.
const COLLECTED_FOR_GOOD: Duration = Duration::from_secs(5);

/// The server's answer to a pull that its consumer does not take.
const BAD_REQUEST: u16 = 400;

/// Why something is pulled: the last token of where the answers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Flow,
    Collect,
}

impl Purpose {
    fn token(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Collect => "collect",
        }
    }

    fn of(subject: &str) -> Option<Self> {
        let token = subject.rsplit('.').next()?;
        [Self::Flow, Self::Collect].into_iter().find(|purpose| purpose.token() == token)
    }
}

impl Member {
    /// How long a pull may be open: never longer than the lease, so that none of an owner that is frozen or cut off is open
    /// when another owns the topic. It would go on to take what is delivered.
    fn pull_for(&self) -> Duration {
        let third = self.setup.takeover_after / 3;
        self.vouched_for().min(third).min(LONGEST_PULL)
    }

    async fn pull(&mut self, purpose: Purpose, request: Request, expires: Option<Duration>) {
        let mut payload = format!(r#"{{"batch":{}"#, request.records);
        match expires {
            Some(expires) => {
                let _ = write!(payload, r#","expires":{}"#, expires.as_nanos());
            }
            None => payload.push_str(r#","no_wait":true"#),
        }
        if let Some(bytes) = request.bytes {
            let _ = write!(payload, r#","max_bytes":{bytes}"#);
        }
        payload.push('}');
        let subject =
            format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.setup.stream.name, self.setup.wanted.name);
        let inbox = format!("{}.{}", self.inbox, purpose.token());
        let now = Instant::now();
        // Lost with its connection, which is heard of.
        let _ = self.setup.client.publish_with_reply(subject, inbox, payload.into()).await;
        self.timers.pull_ends = Some(match purpose {
            Purpose::Flow => now + expires.unwrap_or_default() + GRACE,
            Purpose::Collect => now + self.collected_in(),
        });
    }

    /// Asks for what there is room for, while all that comes is handed out.
    pub(super) async fn ask(&mut self) {
        if !self.gate.is_open() || self.is_leaving || !self.may_act() {
            return;
        }
        let expires = self.pull_for();
        if expires < SHORTEST_PULL {
            // Renewed in time it is no news.
            self.timers.pull_again = Some(Instant::now() + super::RETRY);
            return;
        }
        while let Some(request) = self.demand.next(self.given_back.min(64)) {
            self.pull(Purpose::Flow, request, Some(expires)).await;
        }
    }

    pub(super) async fn collect(&mut self, records: usize) {
        self.collecting = records;
        self.pull(Purpose::Collect, Request { records, bytes: None }, None).await;
    }

    pub(super) fn collected_in(&self) -> Duration {
        if self.gate.is_sweeping() { COLLECTED_FOR_GOOD } else { COLLECTED }
    }

    /// What the server says of a pull.
    pub(super) fn status(&mut self, message: &Message) -> Action<Incoming> {
        let Some((status, purpose)) = message.status.zip(Purpose::of(&message.subject)) else {
            return Action::Nothing;
        };
        let description = message.description.as_deref().unwrap_or_default();
        let number = |name: &str| {
            let value = message.headers.as_ref().and_then(|headers| headers.get(name));
            value.and_then(|value| value.as_str().parse().ok())
        };
        match (status, purpose) {
            (StatusCode::IDLE_HEARTBEAT, _) => return Action::Nothing,
            (StatusCode::NO_RESPONDERS, _) => return self.nobody_answers(),
            // Of a consumer that somebody has changed in between, which is set as it should be when it is looked at.
            (status, _) if status.as_u16() == BAD_REQUEST => return self.nobody_answers(),
            _ => {}
        }
        let is_gone = description.eq_ignore_ascii_case("consumer deleted");
        if is_gone
            || description.eq_ignore_ascii_case("server shutdown")
            || description.starts_with("Leadership")
        {
            foreign::warn!(
                topic = &*self.setup.topic.1,
                consumer = self.setup.wanted.name,
                description,
                "the server has ended a pull; the consumer is looked at"
            );
            return self.nobody_answers();
        }
        match purpose {
            Purpose::Flow => {
                let missing = Amount {
                    records: number("Nats-Pending-Messages").unwrap_or(usize::MAX),
                    bytes: number("Nats-Pending-Bytes").unwrap_or(0),
                };
                self.demand.ended(missing, description.starts_with("Message Size Exceeds"));
            }
            Purpose::Collect => return self.gate.collected(),
        }
        Action::Nothing
    }

    /// The consumer, its stream, or JetStream is gone.
    fn nobody_answers(&mut self) -> Action<Incoming> {
        self.demand.forget();
        // Not at once: it may be that a server is just coming up.
        self.timers.inspect.get_or_insert(Instant::now() + super::RETRY);
        Action::Nothing
    }

    /// Another inbox, so that no pull of before brings anything any more.
    pub(super) async fn reset_inbox(&mut self) {
        self.demand.forget();
        let inbox = self.setup.client.new_inbox();
        if let Ok(pulled) = self.setup.client.subscribe(format!("{inbox}.*")).await {
            (self.inbox, self.pulled) = (inbox, pulled);
        }
    }
}
