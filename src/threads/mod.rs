//! Threads that all persistences and clients of the process share.

mod pool;

pub(crate) use pool::{Job, JobHandle, NextTurn, Pools};
