//! The measuring wrapper and its backlog.

mod backlog;
mod observer;
mod session;
#[cfg(test)]
mod tests;
mod wrapper;

pub use wrapper::Instrumented;
