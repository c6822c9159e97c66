//! Every persistence gives Paho the same answers, and picks up what paho-mqtt-redis 0.3.2 left in Redis.

mod conformance;
mod successor;
