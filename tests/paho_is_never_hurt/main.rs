//! No call, error or stored record brings Paho to crash, hang or drop a message.

mod calls;
mod hostile_records;
mod restore;
