//! The measuring wrapper and its backlog.

mod backlog;
#[cfg(test)]
mod tests;
mod wrapper;

pub use wrapper::Instrumented;
