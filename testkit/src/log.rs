//! The output of `tracing` as text.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;

/// Log in memory; clones share it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Writes everything up to INFO that this thread logs during `work` to this log.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        tracing::subscriber::with_default(self.subscriber(), work)
    }

    /// Writes everything up to INFO that this process logs to this log, which works once per process.
    pub fn of_the_process(&self) {
        let installed = tracing::subscriber::set_global_default(self.subscriber());
        installed.expect("the first of this process");
    }

    fn subscriber(&self) -> impl Subscriber + Send + Sync + 'static {
        tracing_subscriber::fmt()
            .with_writer(self.clone())
            .with_ansi(false)
            .finish()
    }

    /// Returns the log so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
