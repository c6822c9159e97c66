//! Whatever Redis does, publishing continues, no message is lost, and Redis catches up by itself.

mod client_certificate;
mod cluster;
mod connection;
mod faults;
mod hostile_server;
mod late_redis;
mod network;
mod ownership;
mod records;
mod recovery;
mod replicas;
mod sentinel;
mod soak;
mod synced;
mod valkey;
