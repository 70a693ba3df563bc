//! Wall time and chance: the one place where they come from, so that a simulation can give its own.

use std::time::SystemTime;
use uuid::Uuid;

/// The wall time, for the timestamps of what is made here and now.
pub(crate) fn wall_time() -> SystemTime {
    #[cfg(feature = "sim")]
    if let Some(time) = world::wall_time() {
        return time;
    }
    SystemTime::now()
}

/// Random numbers, for jitter: a seed of its own for each.
pub(crate) fn random() -> fastrand::Rng {
    #[cfg(feature = "sim")]
    if let Some(seed) = world::number() {
        return fastrand::Rng::with_seed(seed);
    }
    fastrand::Rng::new()
}

/// An id for an event: by time, then by chance.
pub(crate) fn event_id() -> Uuid {
    #[cfg(feature = "sim")]
    if let Some(id) = world::event_id() {
        return id;
    }
    Uuid::now_v7()
}

/// Where a simulation that runs on this thread has them from.
#[cfg(feature = "sim")]
pub(crate) mod world {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::{SystemTime, UNIX_EPOCH};
    use uuid::Uuid;

    /// A world's own time and numbers.
    pub(crate) trait Source {
        fn wall_time(&self) -> SystemTime;
        fn number(&self) -> u64;
    }

    thread_local! {
        static SOURCE: RefCell<Option<Rc<dyn Source>>> = const { RefCell::new(None) };
    }

    /// From here on they come from this source on this thread.
    pub(crate) fn set(source: Option<Rc<dyn Source>>) {
        drop(SOURCE.replace(source));
    }

    fn source() -> Option<Rc<dyn Source>> {
        // A thread whose locals are being dropped has no world any more.
        SOURCE.try_with(|source| source.borrow().clone()).ok().flatten()
    }

    pub(super) fn wall_time() -> Option<SystemTime> {
        Some(source()?.wall_time())
    }

    pub(super) fn number() -> Option<u64> {
        Some(source()?.number())
    }

    pub(super) fn event_id() -> Option<Uuid> {
        let source = source()?;
        let since = source.wall_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut random = [0; 10];
        random[..8].copy_from_slice(&source.number().to_le_bytes());
        random[8..].copy_from_slice(&source.number().to_le_bytes()[..2]);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Some(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}
