//! Every persistence gives Paho the same answers, and takes over the records of paho-mqtt-redis 0.3.2.

mod backend;
mod conformance;
mod successor;
mod valkey;
