//! The program `mqtt-backlog` mends what is stored: it loses nothing, doubles nothing, and never touches a program that is connected.

mod adopt;
mod drain;
mod purge;
mod runbook_faults;
mod runbooks;
mod set_aside;
mod stored;
#[path = "../backlog_is_in_view/tool.rs"]
mod tool;
