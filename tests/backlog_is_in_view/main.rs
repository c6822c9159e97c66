//! The program `mqtt-backlog` shows what is stored, exactly, and changes nothing.

mod bad_input;
mod page;
mod pictures;
mod real_backlog;
mod tool;
