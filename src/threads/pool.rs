//! [`ThreadPool`]: a few threads for the background work of all persistences and clients of this process.
//!
//! A gateway has a thousand of them, each of which has something to do once per second, or ten times. A thread for
//! each would cost more memory than the rest of it.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::clock::since_boot;

/// More stores than this that block at the same time hold up the others.
const MAX_WORKERS: usize = 8;
/// More observers than this that block at the same time hold up the others.
const MAX_NOTIFIERS: usize = 4;
/// More clients than this whose log or reaction blocks at the same time hold up the others.
const MAX_CLIENT_THREADS: usize = 4;
/// Time after which a thread that has nothing to do ends.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// Work that is done in turns, each of which is run by at most one thread.
pub(crate) trait Job: Send + Sync {
    /// Does what is due. A job that panics is over.
    fn turn(&self) -> NextTurn;
}

/// The next turn of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextTurn {
    /// At this time since boot, or at the next wake of the job.
    At(Duration),
    /// At the next wake of the job.
    OnWake,
    /// The job is over.
    Never,
}

/// A job in its pool.
pub(crate) struct JobHandle {
    pool: Arc<ThreadPool>,
    id: JobId,
}

impl JobHandle {
    /// Makes the next turn due at once, unless the job is over.
    pub(crate) fn wake(&self) {
        self.pool.wake(self.id);
    }
}

type JobId = u64;

/// The pools of this process.
pub(crate) struct Pools {
    process: u32,
    pub(crate) workers: Arc<ThreadPool>,
    pub(crate) notifiers: Arc<ThreadPool>,
    pub(crate) clients: Arc<ThreadPool>,
}

impl Pools {
    /// Returns the pools of this process, which begins with new ones if it was forked: threads are not.
    pub(crate) fn of_this_process() -> Arc<Self> {
        static POOLS: Mutex<Option<Arc<Pools>>> = Mutex::new(None);
        let process = process::id();
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        match &*pools {
            Some(pools) if pools.process == process => Arc::clone(pools),
            _ => {
                let new = Arc::new(Self {
                    process,
                    workers: ThreadPool::new("mqtt-persistence", MAX_WORKERS),
                    notifiers: ThreadPool::new("mqtt-notifier", MAX_NOTIFIERS),
                    clients: ThreadPool::new("mqtt-client", MAX_CLIENT_THREADS),
                });
                *pools = Some(Arc::clone(&new));
                new
            }
        }
    }
}

/// Threads of one name, which are started as they are needed.
///
/// A job that blocks keeps one of them. The others wait if all are blocked.
pub(crate) struct ThreadPool {
    name: &'static str,
    max_threads: usize,
    state: Mutex<State>,
    /// Notified of a job that is due, or if no thread keeps the time.
    work: Condvar,
    /// Notified of a turn before that for which the timekeeper waits.
    earlier: Condvar,
}

#[derive(Default)]
struct State {
    jobs: HashMap<JobId, JobState>,
    /// The jobs that wait for a time.
    due: BTreeSet<(Duration, JobId)>,
    next_id: u64,
    threads: usize,
    /// The threads that wait until they are notified.
    idle_threads: usize,
    /// One more thread waits until this time, which is that of the first turn.
    timekeeper: Option<Duration>,
}

enum JobState {
    Waiting {
        job: Arc<dyn Job>,
        due: Option<Duration>,
    },
    Running {
        /// The job was woken, so that its next turn is due at once.
        is_woken: bool,
    },
}

impl ThreadPool {
    fn new(name: &'static str, max_threads: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            max_threads,
            state: Mutex::default(),
            work: Condvar::new(),
            earlier: Condvar::new(),
        })
    }

    /// Adds a job, whose first turn is due at once.
    ///
    /// # Errors
    ///
    /// The system has no thread left, and the pool has none either.
    pub(crate) fn add(self: &Arc<Self>, job: Arc<dyn Job>) -> io::Result<JobHandle> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        let now = since_boot();
        state.queue(id, job, Some(now));
        if let Err(error) = self.provide_thread(&mut state)
            && state.threads == 0
        {
            state.due.remove(&(now, id));
            let job = state.jobs.remove(&id);
            // Dropped without the lock, since it may end what it owns.
            drop(state);
            drop(job);
            return Err(error);
        }
        let pool = Arc::clone(self);
        Ok(JobHandle { pool, id })
    }

    fn wake(self: &Arc<Self>, id: JobId) {
        let mut state = self.lock();
        match state.jobs.remove(&id) {
            None => return,
            Some(JobState::Running { .. }) => {
                state.jobs.insert(id, JobState::Running { is_woken: true });
                return;
            }
            Some(JobState::Waiting { job, due }) => {
                if let Some(due) = due {
                    state.due.remove(&(due, id));
                }
                state.queue(id, job, Some(since_boot()));
            }
        }
        // If no thread can be started, one that ends its turn finds the job, or else the next wake starts one.
        drop(self.provide_thread(&mut state));
    }

    /// Sees to it that a thread runs the first turn if it is due, or else waits for it.
    fn provide_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if !state.needs_thread() {
            return Ok(());
        }
        if state.idle_threads > 0 {
            self.work.notify_one();
            return Ok(());
        }
        if state.timekeeper.is_some() {
            self.earlier.notify_one();
            return Ok(());
        }
        if state.threads >= self.max_threads {
            return Ok(());
        }
        let pool = Arc::clone(self);
        thread::Builder::new()
            .name(self.name.to_owned())
            .spawn(move || pool.run())?;
        state.threads = state.threads.saturating_add(1);
        Ok(())
    }

    /// Runs turns until there has been nothing to do for a while.
    fn run(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            let now = since_boot();
            let first = state.due.first().copied();
            match first {
                Some((due, id)) if due <= now => {
                    state.due.remove(&(due, id));
                    state = self.run_turn(state, id);
                }
                Some((due, _)) if state.timekeeper.is_none() => {
                    state.timekeeper = Some(due);
                    (state, _) = wait(&self.earlier, state, due.saturating_sub(now));
                    state.timekeeper = None;
                }
                _ => {
                    let is_over;
                    state.idle_threads = state.idle_threads.saturating_add(1);
                    (state, is_over) = wait(&self.work, state, IDLE_TIME);
                    state.idle_threads = state.idle_threads.saturating_sub(1);
                    // It may have been notified at the same moment.
                    if is_over && !state.needs_thread() {
                        break;
                    }
                }
            }
        }
        state.threads = state.threads.saturating_sub(1);
    }

    fn run_turn<'a>(
        self: &'a Arc<Self>,
        mut state: MutexGuard<'a, State>,
        id: JobId,
    ) -> MutexGuard<'a, State> {
        let running = JobState::Running { is_woken: false };
        let Some(JobState::Waiting { job, .. }) = state.jobs.insert(id, running) else {
            return state;
        };
        // This turn may take long.
        drop(self.provide_thread(&mut state));
        drop(state);
        let turn = catch_unwind(AssertUnwindSafe(|| job.turn()));
        let next = turn.unwrap_or(NextTurn::Never);
        let mut state = self.lock();
        let woken = state.jobs.remove(&id);
        let is_woken = matches!(woken, Some(JobState::Running { is_woken: true }));
        match next {
            // Dropped without the lock, since it may end what it owns.
            NextTurn::Never => {
                drop(state);
                drop(job);
                return self.lock();
            }
            _ if is_woken => state.queue(id, job, Some(since_boot())),
            NextTurn::At(due) => {
                state.queue(id, job, Some(due));
                if state.timekeeper.is_some_and(|until| due < until) {
                    self.earlier.notify_one();
                }
            }
            NextTurn::OnWake => state.queue(id, job, None),
        }
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a notification; returns true if the time has passed.
fn wait<'a>(
    notified: &Condvar,
    state: MutexGuard<'a, State>,
    timeout: Duration,
) -> (MutexGuard<'a, State>, bool) {
    let waited = notified.wait_timeout(state, timeout);
    let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
    (state, waited.timed_out())
}

impl State {
    /// Returns true if a turn is due, or no thread waits for the first one.
    fn needs_thread(&self) -> bool {
        let first = self.due.first();
        first.is_some_and(|(due, _)| self.timekeeper.is_none() || *due <= since_boot())
    }

    fn queue(&mut self, id: JobId, job: Arc<dyn Job>, due: Option<Duration>) {
        if let Some(due) = due {
            self.due.insert((due, id));
        }
        self.jobs.insert(id, JobState::Waiting { job, due });
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::mpsc, thread::ThreadId};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Runs a closure in each turn.
    struct Closure<F>(F);

    impl<F: Fn() -> NextTurn + Send + Sync> Job for Closure<F> {
        fn turn(&self) -> NextTurn {
            (self.0)()
        }
    }

    fn add(
        pool: &Arc<ThreadPool>,
        turn: impl Fn() -> NextTurn + Send + Sync + 'static,
    ) -> JobHandle {
        pool.add(Arc::new(Closure(turn))).expect("a thread")
    }

    /// Adds a job that reports each turn and waits in it until it is released.
    fn add_blocking(
        pool: &Arc<ThreadPool>,
        next: NextTurn,
    ) -> (JobHandle, mpsc::Receiver<ThreadId>, mpsc::Sender<()>) {
        let (started, is_started) = mpsc::channel();
        let (release, is_released) = mpsc::channel();
        let is_released = Mutex::new(is_released);
        let job = add(pool, move || {
            started.send(thread::current().id()).expect("received");
            // The sender is gone once the test is over.
            let _ = is_released.lock().expect("no panic").recv();
            next
        });
        (job, is_started, release)
    }

    #[test]
    fn turns_come_at_their_time_and_on_wake() {
        let pool = ThreadPool::new("test", 2);
        let (turn, turns) = mpsc::channel();
        let interval = Duration::from_millis(20);
        let job = add(&pool, move || {
            let now = since_boot();
            turn.send(now).expect("received");
            NextTurn::At(now + interval)
        });
        let times: Vec<_> = turns.iter().take(3).collect();
        for pair in times.windows(2) {
            assert!(pair[1] >= pair[0] + interval, "{times:?}");
        }
        drop(job);
        let (turn, turns) = mpsc::channel();
        let asleep = add(&pool, move || {
            turn.send(()).expect("received");
            NextTurn::OnWake
        });
        for _ in 0..3 {
            turns.recv_timeout(LIMIT).expect("a turn");
            asleep.wake();
        }
    }

    #[test]
    fn turn_before_all_others_is_not_late() {
        let pool = ThreadPool::new("test", 2);
        let far = since_boot() + 100 * LIMIT;
        let _far = add(&pool, move || NextTurn::At(far));
        let (turn, turns) = mpsc::channel();
        let weak = Arc::downgrade(&pool);
        let _near = add(&pool, move || {
            turn.send(()).expect("received");
            // Another thread waits for the far turn now.
            let pool = weak.upgrade().expect("the test has it");
            while pool.lock().timekeeper.is_none() {
                thread::yield_now();
            }
            NextTurn::At(since_boot() + Duration::from_millis(1))
        });
        // Late turns would come when an idle thread ends.
        let turns = turns_within(&turns, 10, LIMIT);
        assert_eq!(turns, 10);
    }

    /// Counts the turns, up to this number, that come within this time.
    fn turns_within(turns: &mpsc::Receiver<()>, most: usize, limit: Duration) -> usize {
        let until = since_boot() + limit;
        let left = || until.saturating_sub(since_boot());
        let came = |_: &usize| turns.recv_timeout(left()).is_ok();
        (0..most).take_while(came).count()
    }

    #[test]
    fn wake_during_turn_is_not_lost() {
        let pool = ThreadPool::new("test", 1);
        let (job, started, release) = add_blocking(&pool, NextTurn::OnWake);
        started.recv_timeout(LIMIT).expect("the first turn");
        job.wake();
        release.send(()).expect("it waits");
        started.recv_timeout(LIMIT).expect("the second turn");
    }

    #[test]
    fn blocked_job_holds_up_no_other() {
        let pool = ThreadPool::new("test", 3);
        let (_, started, _release) = add_blocking(&pool, NextTurn::OnWake);
        let (_, also_started, _release_too) = add_blocking(&pool, NextTurn::OnWake);
        let first = started.recv_timeout(LIMIT).expect("a turn");
        let second = also_started.recv_timeout(LIMIT).expect("a turn");
        let (turn, turns) = mpsc::channel();
        add(&pool, move || {
            turn.send(thread::current().id()).expect("received");
            NextTurn::At(since_boot())
        });
        for third in turns.iter().take(10) {
            assert!(third != first && third != second);
        }
    }

    #[test]
    fn many_jobs_share_few_threads() {
        const JOBS: usize = 1000;
        let pool = ThreadPool::new("test", 2);
        let (turn, turns) = mpsc::channel();
        for job in 0..JOBS {
            let turn = turn.clone();
            add(&pool, move || {
                turn.send((job, thread::current().id())).expect("received");
                NextTurn::Never
            });
        }
        drop(turn);
        // Ends once the last job is dropped, since its turn is over.
        let turns: Vec<_> = turns.iter().collect();
        assert_eq!(turns.len(), JOBS);
        let jobs: HashSet<_> = turns.iter().map(|(job, _)| *job).collect();
        assert_eq!(jobs.len(), JOBS);
        let threads: HashSet<_> = turns.iter().map(|(_, thread)| *thread).collect();
        assert!(threads.len() <= 2, "{threads:?}");
    }

    #[test]
    fn job_that_panics_is_over() {
        let pool = ThreadPool::new("test", 1);
        let (dropped, is_dropped) = mpsc::channel::<()>();
        let job = add(&pool, move || {
            let _owned = &dropped;
            panic!("the test wants a panic")
        });
        assert_eq!(
            is_dropped.recv_timeout(LIMIT),
            Err(mpsc::RecvTimeoutError::Disconnected)
        );
        job.wake();
        let (turn, turns) = mpsc::channel();
        add(&pool, move || {
            turn.send(()).expect("received");
            NextTurn::Never
        });
        turns.recv_timeout(LIMIT).expect("the pool goes on");
    }
}
