//! The client of the library publishes, reconnects and stops by itself, whatever happens to broker, Redis and program.

mod addresses;
mod async_use;
mod broken_write;
mod ends;
mod kills;
mod limits;
mod many;
mod outages;
mod session;
mod world;
