//! Deliveries are futures that any executor can run.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use testkit::LIMIT;

use super::world::{World, message};

/// Runs a future on this thread, as the smallest executor does.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            // With a time limit it would poll again, and a lost waker would only take that long.
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn deliveries_are_awaited_without_runtime() {
    let world = World::start();
    let client = world.session().start().expect("starts");
    let sent = block_on(async {
        let mut deliveries = Vec::new();
        for number in 0..100 {
            let message = message(&number.to_string());
            deliveries.push(client.publish(message).expect("accepted"));
        }
        let mut sent = 0;
        for delivery in deliveries {
            delivery.await.expect("acknowledged");
            sent += 1;
        }
        sent
    });
    assert_eq!(sent, 100);
    assert_eq!(world.arrived(100).len(), 100);
    let state = client.state();
    assert_eq!((state.acknowledged, state.pending), (100, 0));
    client.stop(LIMIT).expect("stops");
}
