//! The output: lines, tables and JSON.

mod escape;
mod human;
mod lines;
mod table;

pub use self::{
    escape::{escape, printable},
    human::{age, bytes},
    lines::Output,
    table::{Align, Table},
};
