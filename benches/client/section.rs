//! Sections of the bench, each of which prints its tables.

mod commands;
mod durability;
mod flash;
mod growth;
mod instrumented;
mod memory;
mod neighbor;
mod offline;
mod restore;
mod scraped;
mod throughput;

use crate::rounds::Bench;

#[derive(Clone, Copy)]
pub enum Section {
    Throughput,
    Large,
    Instrumented,
    Scraped,
    Offline,
    Restore,
    Memory,
    Commands,
    Durability,
    Flash,
    Growth,
    Neighbor,
}

impl Section {
    pub const ALL: [Self; 12] = [
        Self::Throughput,
        Self::Large,
        Self::Instrumented,
        Self::Scraped,
        Self::Offline,
        Self::Restore,
        Self::Memory,
        Self::Commands,
        Self::Durability,
        Self::Flash,
        Self::Growth,
        Self::Neighbor,
    ];

    /// Sections with this name.
    pub fn named(name: &str) -> Option<Vec<Self>> {
        if name == "all" {
            return Some(Self::ALL.to_vec());
        }
        let one = match name {
            "throughput" => Self::Throughput,
            "large" => Self::Large,
            "instrumented" => Self::Instrumented,
            "scraped" => Self::Scraped,
            "offline" => Self::Offline,
            "restore" => Self::Restore,
            "memory" => Self::Memory,
            "commands" => Self::Commands,
            "durability" => Self::Durability,
            "flash" => Self::Flash,
            "growth" => Self::Growth,
            "neighbor" => Self::Neighbor,
            _ => return None,
        };
        Some(vec![one])
    }
}

/// Measures the section.
pub fn run(bench: &mut Bench) {
    for section in bench.options.sections.clone() {
        match section {
            Section::Throughput => throughput::run(bench),
            Section::Large => throughput::run_large(bench),
            Section::Instrumented => instrumented::run(bench),
            Section::Scraped => scraped::run(bench),
            Section::Offline => offline::run(bench),
            Section::Restore => restore::run(bench),
            Section::Memory => memory::run(bench),
            Section::Commands => commands::run(bench),
            Section::Durability => durability::run(bench),
            Section::Flash => flash::run(bench),
            Section::Growth => growth::run(bench),
            Section::Neighbor => neighbor::run(bench),
        }
    }
}
