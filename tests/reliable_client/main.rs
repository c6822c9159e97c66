//! The client of the library publishes, reconnects and stops by itself, whatever happens to broker, Redis and program.

mod async_use;
mod broken_write;
mod kills;
mod limits;
mod outages;
mod session;
mod world;
