//! The wrapper that measures every call of a persistence.

mod backlog;
#[cfg(test)]
mod tests;
mod wrapper;

pub use wrapper::Instrumented;
