//! What the client's threads hear of the group's coordinator, and the lease that follows from it.

use super::handoff::Handoff;
use super::vouching::{Reports, Vouching};
use crate::foreign;
use crate::sync::{Arc, Mutex};
use rdkafka::bindings::{
    rd_kafka_conf_interceptor_add_on_new, rd_kafka_conf_t, rd_kafka_interceptor_add_on_response_received,
    rd_kafka_t,
};
use rdkafka::config::NativeClientConfig;
use rdkafka::error::{IsError as _, KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::time::{Duration, Instant};

const NAME: &CStr = c"keylane";
/// The requests whose answers begin a session anew: `Heartbeat`, `SyncGroup` and `ConsumerGroupHeartbeat`.
const SIGNS: [i16; 3] = [12, 14, 68];

/// The brokers' default, where they do not say what it is.
const USUAL_SESSION: Duration = Duration::from_secs(45);
/// How long they may take to say it.
const SESSION_WITHIN: Duration = Duration::from_secs(2);
/// How often they are asked: an operator may change it.
const SESSION_EVERY: Duration = Duration::from_secs(60);

/// What the brokers call a group's session.
pub(super) const SETTING: &str = "consumer.session.timeout.ms";

/// What the brokers say of a group's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Session(Duration),
    /// They will not say it, for this reason.
    Refused(String),
    /// Worth another try.
    Unanswered,
}

/// The life of one client in its group.
pub(super) struct Life {
    handoff: Arc<Handoff>,
    state: Mutex<State>,
}

struct State {
    reports: Reports,
    vouching: Vouching,
    /// When the brokers are asked for the session next; none: it is the client's own.
    ask_at: Option<Instant>,
    asked: Option<Instant>,
    is_told: bool,
}

impl Life {
    /// `session`: as the client has it; none where the brokers do.
    pub(super) fn new(handoff: Arc<Handoff>, session: Option<Duration>) -> Self {
        let ask_at = session.is_none().then(Instant::now);
        let vouching = Vouching::new(session);
        Self {
            handoff,
            state: Mutex::new(State {
                reports: Reports::default(),
                vouching,
                ask_at,
                asked: None,
                is_told: false,
            }),
        }
    }

    /// Hears of each answer that a client gets which is made of this configuration. To be kept in its place for longer than
    /// the client lives.
    pub(super) fn watch(&self, native: &NativeClientConfig) -> KafkaResult<()> {
        let place = ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: the configuration lives, the name is copied, and the place is as asked of the caller.
        let code =
            unsafe { rd_kafka_conf_interceptor_add_on_new(native.ptr(), NAME.as_ptr(), Some(made), place) };
        if code.is_error() { Err(KafkaError::ClientCreation(format!("{code:?}"))) } else { Ok(()) }
    }

    fn heard(&self, took_us: i64) {
        let now = Instant::now();
        let took = u64::try_from(took_us).ok().map(Duration::from_micros);
        let Some(sent) = took.and_then(|took| now.checked_sub(took)) else { return };
        self.change(now, |state| {
            if state.reports.is_first(took_us) {
                state.vouching.heard(sent, now);
            }
        });
    }

    /// The group gave partitions.
    pub(super) fn assigned(&self) {
        self.change(Instant::now(), |state| state.vouching.assigned());
    }

    /// The member is out, or what it had is lost: to be called before the subscription can be told.
    pub(super) fn ended(&self) {
        self.state.lock().vouching.ended(Instant::now());
        self.handoff.lease.end();
    }

    /// Partitions are wanted back, or were given.
    pub(super) fn set_owing(&self, is_owing: bool) {
        self.state.lock().vouching.set_owing(is_owing);
    }

    /// Whether the brokers are to be asked for the session now; then they are taken to be.
    pub(super) fn asks_for_session(&self, now: Instant) -> bool {
        let (is_late, asks) = {
            let mut state = self.state.lock();
            let waits = state.asked.filter(|_| state.vouching.session().is_none());
            let is_late = waits.is_some_and(|asked| now.saturating_duration_since(asked) >= SESSION_WITHIN);
            let asks = state.ask_at.is_some_and(|at| now >= at);
            if asks {
                (state.ask_at, state.asked) = (Some(now + SESSION_EVERY), Some(now));
            }
            (is_late, asks)
        };
        if is_late {
            self.set_session(USUAL_SESSION);
        }
        asks
    }

    pub(super) fn session_answered(&self, answer: Answer) {
        match answer {
            Answer::Session(session) => self.set_session(session),
            Answer::Unanswered => {
                let soon = Instant::now() + SESSION_WITHIN;
                self.state.lock().ask_at = Some(soon);
            }
            Answer::Refused(reason) => {
                if !std::mem::replace(&mut self.state.lock().is_told, true) {
                    foreign::warn!(
                        group = &*self.handoff.spec.group,
                        reason,
                        assumed = ?USUAL_SESSION,
                        setting = SETTING,
                        "the brokers do not say how long the group waits for a silent member, so their default is assumed; \
                         where it is shorter, two members may handle one key for a moment: allow DescribeConfigs on the group"
                    );
                }
                self.set_session(USUAL_SESSION);
            }
        }
    }

    fn set_session(&self, session: Duration) {
        self.change(Instant::now(), |state| {
            let before = state.vouching.session();
            state.vouching.set_session(session);
            if before.is_some_and(|before| session < before) {
                // What was said before was too much.
                self.handoff.lease.end();
            }
        });
        // After an end it is heard.
        self.handoff.wake_subscription();
    }

    /// Passes on what has changed. The lock is held until the lease has it, so that an end is never overtaken.
    fn change(&self, now: Instant, change: impl FnOnce(&mut State)) {
        let begins = {
            let mut state = self.state.lock();
            let held = state.vouching.holds(now);
            change(&mut state);
            if let Some(until) = state.vouching.until() {
                self.handoff.lease.extend(until);
            }
            !held && state.vouching.holds(now)
        };
        if begins {
            self.handoff.wake_subscription();
        }
    }
}

unsafe extern "C" fn made(
    client: *mut rd_kafka_t,
    _: *const rd_kafka_conf_t,
    place: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> RDKafkaRespErr {
    // SAFETY: the client is being made, which is when it takes this; the place lives longer than it.
    unsafe { rd_kafka_interceptor_add_on_response_received(client, NAME.as_ptr(), Some(answered), place) }
}

unsafe extern "C" fn answered(
    _: *mut rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    api: i16,
    _: i16,
    _: i32,
    _: usize,
    took_us: i64,
    code: RDKafkaRespErr,
    place: *mut c_void,
) -> RDKafkaRespErr {
    // What was given up comes as an answer, too, that took less than no time.
    if took_us >= 0 && SIGNS.contains(&api) && !code.is_error() {
        // SAFETY: it is one of these, which lives longer than the client.
        let life = unsafe { &*place.cast::<Life>() };
        life.heard(took_us);
    }
    RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}
