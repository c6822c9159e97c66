//! A way to Redis that breaks off in the middle of a request.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Forwards one connection from `socket` to `redis`, and calls `kill` when a part of the n-th request has got through.
///
/// Nothing gets through after that, and the ends stay open until the program is dead, as it must not see that they broke.
pub fn forward(
    socket: &Path,
    redis: &Path,
    (nth, quarters): (usize, usize),
    kill: impl FnOnce() + Send + 'static,
) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let redis = redis.to_owned();
    thread::spawn(move || {
        let Ok((mut program, _)) = listener.accept() else {
            return;
        };
        let mut redis = UnixStream::connect(redis).expect("Redis listens");
        let cut = Arc::new(AtomicBool::new(false));
        let answers = Answers {
            redis: redis.try_clone().expect("a second handle"),
            program: program.try_clone().expect("a second handle"),
            cut: Arc::clone(&cut),
        };
        thread::spawn(move || answers.forward());
        let mut buffer = vec![0; 65536];
        for request in 1.. {
            let Ok(length @ 1..) = program.read(&mut buffer) else {
                return;
            };
            if request < nth {
                redis.write_all(&buffer[..length]).expect("Redis reads");
                continue;
            }
            cut.store(true, Ordering::SeqCst);
            redis
                .write_all(&buffer[..length * quarters / 4])
                .expect("Redis reads");
            kill();
            // What comes until the program is dead goes nowhere.
            while program.read(&mut buffer).is_ok_and(|length| length > 0) {}
            return;
        }
    });
}

/// The way back.
struct Answers {
    redis: UnixStream,
    program: UnixStream,
    cut: Arc<AtomicBool>,
}

impl Answers {
    fn forward(mut self) {
        let mut buffer = vec![0; 65536];
        while let Ok(length @ 1..) = self.redis.read(&mut buffer) {
            let gone = self.cut.load(Ordering::SeqCst);
            if !gone && self.program.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    }
}
