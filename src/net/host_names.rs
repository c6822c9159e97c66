//! [`LookUp`]: asks the system for the addresses of a host name, on a thread that all who ask share.

#[cfg(feature = "redis")]
use std::time::Instant;
use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    process,
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread,
};

#[cfg(feature = "redis")]
use super::deadline::time_left;

/// The addresses of a host, with the scope of those of IPv6 and without a port, or the reason why there are none.
pub(crate) type Answer = Result<Vec<SocketAddr>, Arc<io::Error>>;

/// A look-up of a host name. It runs on a thread of its own, since the system's resolver takes no timeout.
///
/// A look-up that outlasts an attempt is not given up: the next attempt joins it. So a resolver that hangs holds one thread
/// per host name, however many clients ask and however often.
#[derive(Default)]
pub(crate) struct LookUp {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    wakers: Vec<Waker>,
}

/// The look-ups that run.
#[derive(Clone, Default)]
struct LookUps(Arc<Mutex<Running>>);

/// By process and host name, since those of a process do not run in one that was forked from it.
type Running = HashMap<(u32, String), Arc<LookUp>>;

impl LookUp {
    /// Joins the look-up of this host name that is running, or begins one.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn of(host: &str) -> io::Result<Arc<Self>> {
        static LOOK_UPS: LazyLock<LookUps> = LazyLock::new(LookUps::default);
        LOOK_UPS.join_or_begin(host, |host| {
            (host, 0).to_socket_addrs().map(Iterator::collect)
        })
    }

    /// Returns the answer, once there is one.
    pub(crate) fn answer(&self) -> Option<Answer> {
        self.lock().answer.clone()
    }

    /// Wakes this once there is an answer, or at once if there is.
    pub(crate) fn wake_at_end(&self, waker: &Waker) {
        let mut state = self.lock();
        if state.answer.is_none() {
            state.wakers.push(waker.clone());
            return;
        }
        drop(state);
        waker.wake_by_ref();
    }

    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](io::ErrorKind::TimedOut) after the deadline.
    #[cfg(feature = "redis")]
    pub(crate) fn wait(&self, deadline: Instant) -> io::Result<Answer> {
        let state = self.lock();
        let waited = self
            .ended
            .wait_timeout_while(state, time_left(deadline)?, |state| state.answer.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.answer.clone().ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, "resolving the host name timed out")
        })
    }

    fn end(&self, answer: Answer) {
        let mut state = self.lock();
        state.answer = Some(answer);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.ended.notify_all();
        for waker in wakers {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookUps {
    fn join_or_begin(
        &self,
        host: &str,
        resolve: impl FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> io::Result<Arc<LookUp>> {
        let key = (process::id(), host.to_owned());
        let mut running = self.lock();
        if let Some(look_up) = running.get(&key) {
            return Ok(Arc::clone(look_up));
        }
        let look_up = Arc::<LookUp>::default();
        let (look_ups, begun, own_key) = (self.clone(), Arc::clone(&look_up), key.clone());
        thread::Builder::new()
            .name("host-name".to_owned())
            .spawn(move || {
                let resolve = AssertUnwindSafe(|| resolve(&own_key.1));
                let answer = catch_unwind(resolve)
                    .unwrap_or_else(|_| Err(io::Error::other("the resolver panicked")));
                // Before it ends: one who has seen the answer and asks again wants a new one.
                look_ups.lock().remove(&own_key);
                begun.end(answer.map_err(Arc::new));
            })?;
        running.insert(key, Arc::clone(&look_up));
        Ok(look_up)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        task::Wake,
        time::Duration,
    };

    use super::{super::deadline::deadline_after, *};

    const LIMIT: Duration = Duration::from_secs(20);
    const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Begins a look-up that ends when the sender is used or dropped.
    fn begin(look_ups: &LookUps, host: &str) -> (Arc<LookUp>, mpsc::Sender<Vec<SocketAddr>>) {
        let (gate, opened) = mpsc::channel();
        let resolve = move |_: &str| opened.recv().map_err(io::Error::other);
        let look_up = look_ups.join_or_begin(host, resolve).expect("a thread");
        (look_up, gate)
    }

    fn join(look_ups: &LookUps, host: &str) -> Arc<LookUp> {
        let again = |_: &str| unreachable!("one thread per host name");
        look_ups.join_or_begin(host, again).expect("no thread")
    }

    fn wait(look_up: &LookUp) -> Answer {
        look_up.wait(deadline_after(LIMIT)).expect("ends in time")
    }

    #[test]
    fn look_up_that_hangs_is_joined_by_all() {
        let look_ups = LookUps::default();
        let (first, gate) = begin(&look_ups, "a");
        let (second, third) = (join(&look_ups, "a"), join(&look_ups, "a"));
        assert!(third.answer().is_none());
        gate.send(vec![ADDRESS]).expect("it waits");
        for look_up in [first, second, third] {
            assert_eq!(wait(&look_up).expect("resolved"), [ADDRESS]);
            assert!(look_up.answer().is_some());
        }
    }

    #[test]
    fn each_waker_is_woken_once() {
        let look_ups = LookUps::default();
        let (look_up, gate) = begin(&look_ups, "a");
        let count = Arc::<Count>::default();
        for _ in 0..2 {
            look_up.wake_at_end(&Waker::from(Arc::clone(&count)));
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        gate.send(vec![ADDRESS]).expect("it waits");
        while count.0.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        look_up.wake_at_end(&Waker::from(Arc::clone(&count)));
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn hanging_look_up_holds_up_no_other_host() {
        let look_ups = LookUps::default();
        let (hanging, _gate) = begin(&look_ups, "a");
        let (other, gate) = begin(&look_ups, "b");
        gate.send(vec![ADDRESS]).expect("it waits");
        assert_eq!(wait(&other).expect("resolved"), [ADDRESS]);
        assert!(hanging.answer().is_none());
    }

    #[test]
    fn each_answer_is_of_its_own_look_up() {
        let look_ups = LookUps::default();
        for number in 1..=3 {
            let address = SocketAddr::from(([127, 0, 0, number], 0));
            let (look_up, gate) = begin(&look_ups, "a");
            gate.send(vec![address]).expect("it waits");
            assert_eq!(wait(&look_up).expect("resolved"), [address]);
        }
        let (failed, gate) = begin(&look_ups, "a");
        drop(gate);
        assert!(wait(&failed).is_err());
        let panics = |_: &str| panic!("the test wants a panic");
        let panicked = look_ups.join_or_begin("a", panics).expect("a thread");
        let error = wait(&panicked).expect_err("panicked");
        assert_eq!(error.to_string(), "the resolver panicked");
        assert!(look_ups.lock().is_empty());
    }

    #[test]
    fn wait_ends_at_deadline() {
        let look_ups = LookUps::default();
        let (look_up, gate) = begin(&look_ups, "a");
        for timeout in [Duration::from_millis(20), Duration::ZERO] {
            let error = look_up.wait(deadline_after(timeout)).expect_err("hangs");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        gate.send(vec![ADDRESS]).expect("it waits");
        assert_eq!(wait(&look_up).expect("resolved"), [ADDRESS]);
        let local = LookUp::of("localhost").expect("a thread");
        assert!(!wait(&local).unwrap_or_default().is_empty());
    }
}
