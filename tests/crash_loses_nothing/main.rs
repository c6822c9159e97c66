//! Every message that `publish` accepted arrives, and at QoS 2 arrives once, however the program ends.

mod crash_table;
mod dying_program;
mod failover;
mod killed_device;
mod random_kills;
mod restore;
mod set_asides;
mod simulation;
mod valkey;
