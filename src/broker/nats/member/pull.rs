//! What a member asks its server for, and what the server says of it.

use super::{Action, Incoming, Member, presence_subject};
use crate::broker::nats::api;
use crate::broker::nats::demand::{Amount, Request};
use crate::broker::nats::durable::PIN_GROUP;
use crate::foreign;
use async_nats::{Message, StatusCode};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// How long a pull that stands by is open at most, and so how often one that stands by looks at the consumer.
const STANDBY: Duration = Duration::from_secs(1);
/// The longest that a pull is open.
const LONGEST_PULL: Duration = Duration::from_secs(10);
/// How much longer than it says a pull may take to end before it is taken for lost.
const GRACE: Duration = Duration::from_secs(2);
/// What is collected and does not come within this time after what came before it is not there to be delivered.
const COLLECTED: Duration = Duration::from_millis(250);
/// The same where what does not come is given up.
const COLLECTED_FOR_GOOD: Duration = Duration::from_secs(5);
/// How long the owner of a pin may take to say that it is there.
const PRESENCE: Duration = Duration::from_millis(250);
/// After it did not, the next time that it is asked.
const PRESENCE_AGAIN: Duration = Duration::from_millis(150);

/// Why something is pulled: the last token of where the answers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Flow,
    /// To keep the pin, with room for no message.
    KeepPin,
    Collect,
    Standby,
}

impl Purpose {
    fn token(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::KeepPin => "keep",
            Self::Collect => "collect",
            Self::Standby => "standby",
        }
    }

    fn of(subject: &str) -> Option<Self> {
        let token = subject.rsplit('.').next()?;
        [Self::Flow, Self::KeepPin, Self::Collect, Self::Standby]
            .into_iter()
            .find(|purpose| purpose.token() == token)
    }
}

impl Member {
    /// How often the pin is kept: a pin is lost when it is not used for `takeover_after`.
    pub(super) fn keep_pin_every(&self) -> Duration {
        (self.setup.wanted.takeover_after / 3).min(LONGEST_PULL)
    }

    async fn pull(&mut self, purpose: Purpose, request: Request, expires: Option<Duration>) {
        let mut payload = format!(r#"{{"batch":{},"group":"{PIN_GROUP}""#, request.records);
        match expires {
            Some(expires) => {
                let _ = write!(payload, r#","expires":{}"#, expires.as_nanos());
            }
            None => payload.push_str(r#","no_wait":true"#),
        }
        if let Some(bytes) = request.bytes {
            let _ = write!(payload, r#","max_bytes":{bytes}"#);
        }
        if let Some(pin) = &self.pin {
            let _ = write!(payload, r#","id":"{pin}""#);
        }
        payload.push('}');
        let subject =
            format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.setup.stream.name, self.setup.wanted.name);
        let inbox = format!("{}.{}", self.inbox, purpose.token());
        let now = Instant::now();
        // Lost with its connection, which is heard of.
        let _ = self.setup.client.publish_with_reply(subject, inbox, payload.into()).await;
        if self.pin.is_some() {
            self.timers.keep_pin = Some(now + self.keep_pin_every());
        }
        match purpose {
            Purpose::Flow => self.timers.pull_ends = Some(now + expires.unwrap_or_default() + GRACE),
            Purpose::Collect => self.timers.pull_ends = Some(now + self.collected_in()),
            Purpose::KeepPin | Purpose::Standby => {}
        }
    }

    /// Asks for what there is room for, while all that comes is handed out.
    pub(super) async fn ask(&mut self) {
        if self.pin.is_none() || !self.gate.is_open() || self.is_leaving || !self.is_up() {
            return;
        }
        while let Some(request) = self.demand.next(self.given_back.min(64)) {
            self.pull(Purpose::Flow, request, Some(self.keep_pin_every())).await;
        }
    }

    pub(super) async fn keep_pin(&mut self) {
        if self.pin.is_some() && self.is_up() {
            // No message is as small.
            let request = Request { records: 1, bytes: Some(1) };
            self.pull(Purpose::KeepPin, request, Some(self.keep_pin_every() / 2)).await;
        }
    }

    pub(super) async fn collect(&mut self, records: usize) {
        self.collecting = records;
        self.pull(Purpose::Collect, Request { records, bytes: None }, None).await;
    }

    pub(super) fn collected_in(&self) -> Duration {
        if self.gate.is_sweeping() { COLLECTED_FOR_GOOD } else { COLLECTED }
    }

    pub(super) async fn stand_by(&mut self) {
        let open = STANDBY.min(self.setup.wanted.takeover_after / 2);
        self.pull(Purpose::Standby, Request { records: 1, bytes: None }, Some(open)).await;
        self.timers.look = Some(Instant::now() + open + Duration::from_millis(50));
    }

    /// What the server says of a pull.
    pub(super) async fn status(&mut self, message: &Message) -> Action<Incoming> {
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
            (StatusCode::PIN_ID_MISMATCH, _) if self.pin.is_some() => {
                self.unpinned().await;
                return Action::Nothing;
            }
            (StatusCode::NO_RESPONDERS, _) => return self.nobody_answers(),
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
            Purpose::Standby => self.timers.look = Some(Instant::now()),
            Purpose::KeepPin => {}
        }
        Action::Nothing
    }

    /// The consumer, its stream, or JetStream is gone.
    fn nobody_answers(&mut self) -> Action<Incoming> {
        self.demand.forget();
        if self.pin.is_some() {
            // Not at once: it may be that a server is just coming up.
            self.timers.inspect.get_or_insert(Instant::now() + super::RETRY);
        } else {
            self.timers.look = Some(Instant::now() + super::RETRY);
        }
        Action::Nothing
    }

    /// The pin is not this one's any more.
    pub(super) async fn unpinned(&mut self) {
        foreign::info!(
            topic = &*self.setup.topic.1,
            consumer = self.setup.wanted.name,
            "this instance is not pinned any more; it goes on if nobody else is"
        );
        self.pin = None;
        self.presence = None;
        self.timers.keep_pin = None;
        self.timers.pull_ends = None;
        self.reset_inbox().await;
        // Soon, but not in here: looking may find the same again.
        self.timers.look = Some(Instant::now());
    }

    /// Another inbox, so that no pull of before brings anything any more.
    pub(super) async fn reset_inbox(&mut self) {
        self.demand.forget();
        let inbox = self.setup.client.new_inbox();
        if let Ok(pulled) = self.setup.client.subscribe(format!("{inbox}.*")).await {
            (self.inbox, self.pulled) = (inbox, pulled);
        }
    }

    pub(super) async fn unpin(&mut self) {
        let _ =
            api::unpin(&self.setup.jetstream, &self.setup.stream.name, &self.setup.wanted.name, PIN_GROUP)
                .await;
    }

    /// Whether nobody owns this pin: twice, a moment apart, the server knew of nobody who listens for it.
    pub(super) async fn is_abandoned(&mut self, pin: &str) -> bool {
        let request = async_nats::client::Request::new().timeout(Some(PRESENCE));
        let asked = self.setup.client.send_request(presence_subject(pin), request).await;
        let is_silent =
            asked.is_err_and(|error| error.kind() == async_nats::client::RequestErrorKind::NoResponders);
        if is_silent && self.silent_pin.as_deref() == Some(pin) {
            self.silent_pin = None;
            return true;
        }
        self.silent_pin = is_silent.then(|| pin.to_owned());
        if is_silent {
            self.timers.look = Some(Instant::now() + PRESENCE_AGAIN);
        }
        false
    }
}
