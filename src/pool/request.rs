//! Pools whose jobs have answers: closures, and futures, as handlers.

use super::wakeup::{Keyed, lane_number};
use super::{Completion, Handler, JobError, Key, Outcome, Pool, PoolBuilder, PoolError, SendError, Sending};
use crate::foreign;
use crate::wait::{Ask, completion};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

/// A pool whose jobs are `T`s and whose answers are `R`s.
pub type RequestPool<T, R> = Pool<Request<T, R>>;

/// A job of a [`RequestPool`]: a `T`, and where its answer goes if anybody asked for one.
pub struct Request<T, R>(Kind<T, R>);

enum Kind<T, R> {
    Tell(Option<T>),
    Ask(Option<Ask<T, R>>),
    /// The job was taken; its answer is still to be given.
    Started(Option<Ask<T, R>>),
}

impl<T, R> Request<T, R> {
    /// A job without an answer, for [`Pool::try_send`] and [`Pool::try_send_batch`].
    pub fn tell(job: T) -> Self {
        Self(Kind::Tell(Some(job)))
    }

    /// Takes the job; none if it was cancelled.
    fn start(&mut self) -> Option<T> {
        match &mut self.0 {
            Kind::Tell(job) => job.take(),
            Kind::Ask(ask) => {
                let ask = ask.take().expect("a request starts once");
                let job = ask.start();
                self.0 = Kind::Started(Some(ask));
                job
            }
            Kind::Started(_) => unreachable!("a request starts once"),
        }
    }

    fn finish(&mut self, answer: Result<R, JobError>) {
        if let Kind::Started(ask) = &mut self.0
            && let Some(ask) = ask.take()
        {
            ask.finish(answer);
        }
    }
}

impl<T, R> fmt::Debug for Request<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self.0, Kind::Tell(_)) { "Request::Tell(..)" } else { "Request::Ask(..)" })
    }
}

impl PoolBuilder {
    /// Starts a pool with one handler that all workers share.
    ///
    /// # Errors
    /// As [`PoolBuilder::start`].
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    ///
    /// let rates = [("EUR", 100), ("USD", 108)];
    /// let convert = move |(currency, cents): (&'static str, u64)| {
    ///     rates.iter().find(|(known, _)| *known == currency).map(|(_, rate)| cents * rate / 100)
    /// };
    /// let pool = PoolBuilder::new().workers(2).shared(convert)?;
    /// assert_eq!(pool.submit(Key::of("order-42"), ("USD", 1_000)).wait()?.wait()?, Some(1_080));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shared<T, R>(
        self,
        handler: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> Result<RequestPool<T, R>, PoolError>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let handler = crate::sync::Arc::new(handler);
        self.owned(move || {
            let handler = handler.clone();
            move |job| handler(job)
        })
    }

    /// Starts a pool in which each worker has a handler of its own, made by `make` on the worker's thread before its
    /// first job, called with `&mut self`, and made anew after a panic: state per key needs no lock.
    ///
    /// # Errors
    /// As [`PoolBuilder::start`].
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    /// use std::collections::HashMap;
    ///
    /// let pool = PoolBuilder::new().owned(|| {
    ///     let mut totals = HashMap::<&str, u64>::new();
    ///     move |(account, amount)| {
    ///         let total = totals.entry(account).or_default();
    ///         *total += amount;
    ///         *total
    ///     }
    /// })?;
    /// pool.submit(Key::of("a"), ("a", 2)).wait()?;
    /// assert_eq!(pool.submit(Key::of("a"), ("a", 3)).wait()?.wait()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn owned<T, R, S>(
        self,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> Result<RequestPool<T, R>, PoolError>
    where
        T: Send + 'static,
        R: Send + 'static,
        S: FnMut(T) -> R + 'static,
    {
        let make = crate::sync::Arc::new(make);
        self.start(move |_| Blocking { make: make.clone(), handler: None, _types: std::marker::PhantomData })
    }

    /// Starts a pool whose handler returns futures. A worker polls those of its keys itself, one per key at a time and
    /// thousands at once; a future stays on its worker and need not be `Send`.
    ///
    /// # Errors
    /// As [`PoolBuilder::start`].
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    /// use std::rc::Rc;
    ///
    /// let pool = PoolBuilder::new().workers(1).asynchronous(|n: u64| async move {
    ///     let n = Rc::new(n); // stays on its worker, so that it need not be `Send`
    ///     smol::future::yield_now().await;
    ///     *n * *n
    /// })?;
    /// assert_eq!(pool.submit(Key::of("a"), 7).wait()?.wait()?, 49);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn asynchronous<T, R, F>(
        self,
        handler: impl Fn(T) -> F + Send + Sync + 'static,
    ) -> Result<RequestPool<T, R>, PoolError>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let handler = crate::sync::Arc::new(handler);
        self.start(move |_| Asynchronous { handler: handler.clone(), _types: std::marker::PhantomData })
    }
}

/// Runs requests with an `FnMut` of the worker's own.
struct Blocking<M, S, T, R> {
    make: crate::sync::Arc<M>,
    handler: Option<S>,
    _types: std::marker::PhantomData<fn(T) -> R>,
}

impl<M, S, T, R> Handler for Blocking<M, S, T, R>
where
    M: Fn() -> S + 'static,
    S: FnMut(T) -> R + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    type Job = Request<T, R>;
    type Future = std::future::Ready<()>;

    fn handle(&mut self, request: &mut Request<T, R>, _: Instant) -> Outcome<Self::Future> {
        if let Some(job) = request.start() {
            let answer = (self.handler.get_or_insert_with(|| (self.make)()))(job);
            request.finish(Ok(answer));
        }
        Outcome::Done
    }

    fn resolve(&mut self, _: &mut Request<T, R>, (): (), _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }

    fn panicked(
        &mut self,
        request: &mut Request<T, R>,
        message: String,
        _: Instant,
    ) -> Outcome<Self::Future> {
        // Its state may be half changed; it is made anew before the next job.
        foreign::discard(self.handler.take());
        request.finish(Err(JobError::Panicked(message)));
        Outcome::Done
    }

    fn expired(&mut self, _: &mut Request<T, R>, _: Instant) -> Outcome<Self::Future> {
        Outcome::Done
    }
}

/// Runs requests by leasing them to futures.
struct Asynchronous<H, F, T, R> {
    handler: crate::sync::Arc<H>,
    _types: std::marker::PhantomData<fn(T) -> (F, R)>,
}

impl<H, F, T, R> Handler for Asynchronous<H, F, T, R>
where
    H: Fn(T) -> F + 'static,
    F: Future<Output = R> + 'static,
    T: Send + 'static,
    R: Send + 'static,
{
    type Job = Request<T, R>;
    type Future = F;

    fn handle(&mut self, request: &mut Request<T, R>, _: Instant) -> Outcome<F> {
        match request.start() {
            Some(job) => Outcome::Lease((self.handler)(job), None),
            None => Outcome::Done,
        }
    }

    fn resolve(&mut self, request: &mut Request<T, R>, answer: R, _: Instant) -> Outcome<F> {
        request.finish(Ok(answer));
        Outcome::Done
    }

    fn panicked(&mut self, request: &mut Request<T, R>, message: String, _: Instant) -> Outcome<F> {
        request.finish(Err(JobError::Panicked(message)));
        Outcome::Done
    }

    fn expired(&mut self, _: &mut Request<T, R>, _: Instant) -> Outcome<F> {
        Outcome::Done
    }
}

impl<T: Send + 'static, R: Send + 'static> RequestPool<T, R> {
    /// Submits a job and asks for its answer. The returned value waits for room where there is none, and gives the
    /// [`Completion`], which waits for the answer. At most one allocation in all.
    ///
    /// # Errors
    /// The returned value gives the job back when the pool is closed; see [`SendError`].
    pub fn submit(&self, key: Key, job: T) -> Submitting<T, R> {
        let lane = self.lane_of(key);
        let (ask, answer) = completion(job, lane_number(lane));
        let request = Request(Kind::Ask(Some(ask)));
        Submitting { sending: Sending::new(lane.clone(), Keyed { key, job: request }), answer: Some(answer) }
    }

    /// Submits a job if there is room now. Never blocks.
    ///
    /// # Errors
    /// The job itself, when its worker has no room or the pool is closed.
    #[inline]
    pub fn try_submit(&self, key: Key, job: T) -> Result<Completion<T, R>, TrySubmitError<T>> {
        let lane = self.lane_of(key);
        // The place first: a full lane costs no allocation.
        match lane.reserve(1) {
            Ok(mut place) => {
                let (ask, answer) = completion(job, lane_number(lane));
                place.push(Keyed { key, job: Request(Kind::Ask(Some(ask))) });
                Ok(answer)
            }
            Err(why) => Err(TrySubmitError::new(job, why)),
        }
    }

    /// Submits as many of these jobs as there is room for, in their order per key, with one reservation and at most
    /// one wake-up per worker. Returns the completions of those that were taken, in the order of the jobs; what is
    /// left in `jobs` found no room or a closed pool.
    ///
    /// ```
    /// use keylane::pool::{Key, PoolBuilder};
    ///
    /// let pool = PoolBuilder::new().workers(2).shared(|n: u64| n * n)?;
    /// let mut jobs = vec![(Key::of("a"), 2), (Key::of("b"), 3), (Key::of("a"), 4)];
    /// let answers = pool.submit_batch(&mut jobs);
    /// assert!(jobs.is_empty(), "all found room");
    /// let squares: Result<Vec<_>, _> = answers.into_iter().map(|answer| answer.wait()).collect();
    /// assert_eq!(squares?, [4, 9, 16]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_batch(&self, jobs: &mut Vec<(Key, T)>) -> Vec<Completion<T, R>> {
        let mut answers = Vec::with_capacity(jobs.len());
        self.place_batch(jobs, |lane, job| {
            let (ask, answer) = completion(job, lane_number(lane));
            answers.push(answer);
            Request(Kind::Ask(Some(ask)))
        });
        answers
    }
}

/// Why a job was not taken at once; it is in here.
pub type TrySubmitError<T> = super::TrySendError<T>;

/// A job that waits for room, then gives its [`Completion`]: a future, or a thread that blocks in
/// [`wait`](Submitting::wait). Nothing happens before it is awaited; dropped, it takes its job with it.
///
/// ```
/// use keylane::pool::{Key, PoolBuilder};
///
/// let pool = PoolBuilder::new().workers(1).shared(|n: u64| n * n)?;
/// let square = async {
///     let answer = pool.submit(Key::of("a"), 7).await?; // waits for room
///     Ok::<_, Box<dyn std::error::Error>>(answer.await?) // waits for the answer
/// };
/// assert_eq!(smol::block_on(square)?, 49);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the job is handed over when this is awaited or waited for"]
pub struct Submitting<T: Send + 'static, R: Send + 'static> {
    sending: Sending<Request<T, R>>,
    answer: Option<Completion<T, R>>,
}

impl<T: Send + 'static, R: Send + 'static> Submitting<T, R> {
    /// Blocks until the job has been taken.
    ///
    /// # Errors
    /// The job itself, when the pool is closed, or the calling thread is the worker that would have to make room.
    ///
    /// # Blocking
    /// While the key's worker has no room; async code awaits this instead.
    pub fn wait(self) -> Result<Completion<T, R>, SendError<T>> {
        let answer = self.answer.expect("polled after it was over");
        give_back(self.sending.wait(), answer)
    }
}

impl<T: Send + 'static, R: Send + 'static> Future for Submitting<T, R> {
    type Output = Result<Completion<T, R>, SendError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = std::task::ready!(Pin::new(&mut self.sending).poll(cx));
        Poll::Ready(give_back(sent, self.answer.take().expect("polled after it was over")))
    }
}

impl<T: Send + 'static, R: Send + 'static> fmt::Debug for Submitting<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Submitting").field(&self.sending).finish()
    }
}

fn give_back<T, R>(
    sent: Result<(), SendError<Request<T, R>>>,
    answer: Completion<T, R>,
) -> Result<Completion<T, R>, SendError<T>> {
    let Err(refused) = sent else { return Ok(answer) };
    let Ok(job) = answer.cancel() else { unreachable!("a refused job has not started") };
    Err(match refused {
        SendError::Closed(_) => SendError::Closed(job),
        SendError::OwnLane(_) => SendError::OwnLane(job),
    })
}
