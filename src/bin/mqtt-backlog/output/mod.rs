//! The output: lines, tables and JSON.

mod escape;
mod human;
mod lines;
mod progress;
mod question;
mod table;

pub use self::{
    escape::{escape, printable},
    human::{age, bytes, count},
    lines::Output,
    progress::Progress,
    question::confirm,
    table::{Align, Table},
};
